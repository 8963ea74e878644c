"""Plays stories on a real cloud and writes down every answer that the backend would read, as JSON.

A story is one file in `recorded/`: a list of exchanges. `at` is the time in seconds since the story began. While a
story watches a server, it writes a page of the list, or an action entry, only when that shows something new.
"""

import json
import logging
import re
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Self

from tests.backends.openstack.real_cloud import PAUSE, Answer, Cloud, Json

RECORDED: Final = Path(__file__).parent / "recorded"
ADDRESSES: Final = {
    "8774": "compute",
    "8790": "compute",
    "8776": "volume",
    "9292": "image",
    "9696": "network",
    "5000": "identity",
}
LINE: Final = 118
logger = logging.getLogger(__name__)


class Story:
    """One file of recorded exchanges."""

    def __init__(self, cloud: Cloud, verb: str, name: str, about: str) -> None:
        self.cloud = cloud
        self.title = f"{verb}-{name}".replace("_", "-")
        self._file = RECORDED / verb / f"{name}.json"
        self._about = about
        self._began = time.monotonic()
        self._exchanges: list[Json] = []
        self._since = ""

    def __enter__(self) -> Self:
        time.sleep(2)  # so that the list has only what this story changes: its times are whole seconds
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            story = {"about": self._about, "exchanges": self._exchanges}
            self._file.write_text(_scrubbed(_text(story)) + "\n")
        else:
            logger.error("%s broke off after %s", self.title, _scrubbed(_text(self._exchanges[-1:])))

    def send(  # noqa: PLR0913
        self, moment: str, method: str, service: str, path: str, body: Json | None = None, *, operator: bool = False
    ) -> Answer:
        """Send a request and write it down. A request that changes something is where watching begins."""
        answer = self.cloud.send(method, service, path, body, operator=operator)
        self._write(moment, f"{method} {service} {path}", answer, body)
        if not self._since or method != "GET":
            self._since = _since(answer)
        return answer

    def act(self, moment: str, server_id: str, action: str, value: Any = None) -> Answer:
        """Send a server action and write it down."""
        return self.send(moment, "POST", "compute", f"/servers/{server_id}/action", {action: value})

    def race(self, server_id: str, actions: Json) -> list[Answer]:
        """Send several server actions at the same time, and write them down in that order."""
        path = f"/servers/{server_id}/action"
        with ThreadPoolExecutor() as threads:
            bodies = [{action: value} for action, value in actions.items()]
            answers = list(threads.map(lambda body: self.cloud.send("POST", "compute", path, body), bodies))
        for body, answer in zip(bodies, answers, strict=True):
            self._write(next(iter(body)), f"POST compute {path}", answer, body)
        self._since = _since(answers[0])
        return answers

    def get(self, moment: str, service: str, path: str) -> Answer:
        """Read something and write it down."""
        return self.send(moment, "GET", service, path)

    def watch(
        self,
        server_id: str,
        request_id: str | None,
        statuses: Collection[str],
        *,
        seconds: float = 60,
        busy: bool = False,
    ) -> None:
        """Write down what the lists show of the server, until it is idle (or, with `busy`, busy) in such a status.

        If an action is watched, go on until its entry has ended, for two seconds at most.
        """
        end, seen, entry = time.monotonic() + seconds, "", ""
        over: float | None = None
        path = f"/servers/detail?changes-since={self._since}"
        while True:
            page = self.cloud.get("compute", path)
            row = next((row for row in page.body["servers"] if row["id"] == server_id), None)
            look = _look(row)
            is_new = _rough(look) != seen
            if is_new:
                self._write(look, f"GET compute {path}", page)
            if request_id:
                entry = self._watch_action(server_id, request_id, entry, is_due=is_new)
            seen = _rough(look)
            state = row and (row["status"], row["OS-EXT-STS:task_state"] is not None)
            if state and state[0] in statuses and state[1] is busy:
                over = over or time.monotonic()
                if not request_id or busy or '"finish_time": null' not in entry or time.monotonic() > over + 2:
                    return
            if time.monotonic() > end:
                message = f"{self.title}: {look}, not {statuses}"
                raise TimeoutError(message)
            time.sleep(PAUSE)

    def watch_resource(  # noqa: PLR0913
        self,
        service: str,
        path: str,
        looks: Collection[str],
        *,
        action: tuple[str, str] | None = None,
        is_stuck: bool = False,
        seconds: float = 30,
    ) -> None:
        """Write down a volume, an image or a port whenever it looks different, until it looks like one of these.

        `action`: the server and the request id of an action entry that is written down, too. It is waited for, unless
        it `is_stuck`.
        """
        end, seen, entry = time.monotonic() + seconds, "", ""
        while seen not in looks or ('"finish_time": null' in entry and not is_stuck):
            answer = self.cloud.get(service, path)
            look = _look_of_resource(answer)
            if look != seen:
                self._write(look, f"GET {service} {path}", answer)
            seen = look
            if action:
                entry = self._watch_action(*action, entry)
            if time.monotonic() > end:
                message = f"{self.title}: {path} is {look}, not {looks}; {entry}"
                raise TimeoutError(message)
            time.sleep(PAUSE)

    def _watch_action(self, server_id: str, request_id: str, seen: str, *, is_due: bool = False) -> str:
        """Write the entry down if it has come, begun, ended or failed, or if it is due and looks different."""
        path = f"/servers/{server_id}/os-instance-actions/{request_id}"
        answer = self.cloud.get("compute", path)
        entry = json.dumps(answer.body)
        if entry != seen and (is_due or _outcome(entry) != _outcome(seen)):
            self._write("action", f"GET compute {path}", answer)
            return entry
        return seen

    def _write(self, moment: str, request: str, answer: Answer, sent: Json | None = None) -> None:
        exchange: Json = {"moment": moment, "at": round(time.monotonic() - self._began, 1), "request": request}
        if sent is not None:
            exchange["sent"] = sent
        body = _without_links(answer.body)
        self._exchanges.append(exchange | {"status": answer.status, "headers": answer.headers, "body": body})


def _without_links(value: Any) -> Any:
    """Return the value without the links of things to themselves, which nobody reads and which are a fifth of a row."""
    if isinstance(value, list):
        return [_without_links(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_links(item) for name, item in value.items() if name != "links"}
    return value


def _look(row: Json | None) -> str:
    if row is None:
        return "not in the list"
    task = row.get("OS-EXT-STS:task_state")
    fault = ", fault" if "fault" in row else ""
    return f"{row['status']}, {task or 'idle'}{fault}"


def _rough(look: str) -> str:
    """Return the look without the name of a task: that a server is busy is enough."""
    status, _, rest = look.partition(", ")
    return f"{status}, {rest if rest.startswith('idle') or rest == 'deleting' else 'busy'}"


def _outcome(entry: str) -> tuple[bool, ...]:
    return tuple(word in entry for word in ("instanceAction", '"event"', '"finish_time": null', '"message": "Error"'))


def _look_of_resource(answer: Answer) -> str:
    if answer.status != 200:
        return "gone"
    thing = answer.body.get("volume") or answer.body.get("port") or answer.body
    if "device_id" in thing:
        return f"{thing['status']}, {'plugged' if thing['device_id'] else 'free'}"
    attachments = f", {len(thing['attachments'])} attached" if thing.get("attachments") else ""
    return f"{thing['status']}{attachments}"


def _since(answer: Answer) -> str:
    at: datetime = parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC) - timedelta(seconds=1)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: Any, indent: str = "") -> str:
    """Return the value as JSON; what fits on a line is on one line."""
    line = json.dumps(value)
    if len(line) + len(indent) <= LINE or not isinstance(value, dict | list):
        return line
    inner = indent + " "
    if isinstance(value, list):
        items = [_text(item, inner) for item in value]
    else:
        items = [f"{json.dumps(name)}: {_text(item, inner)}" for name, item in value.items()]
    start, end = "[]" if isinstance(value, list) else "{}"
    return f"{start}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{end}"


def _scrubbed(text: str) -> str:
    text = re.sub(r"http://127\.0\.0\.1:(\d+)", lambda match: f"https://{ADDRESSES[match[1]]}.example", text)
    return re.sub(r'("adminPass": )"[^"]*"', r'\1"scrubbed"', text)
