"""The recorded stories, as tests read them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from activities.backends.openstack.bodies import action_from, image_from, port_from, server_from, volume_from
from activities.backends.openstack.records import ActionEntry, DownServer, Gone, ImageRow, PortRow, ServerRow, VolumeRow

RECORDED: Final = Path(__file__).parent / "recorded"
Thing = ServerRow | DownServer | VolumeRow | ImageRow | PortRow | Gone


@dataclass(frozen=True)
class Exchange:
    """A request and its answer."""

    moment: str
    method: str
    service: str
    path: str
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def date(self) -> datetime:
        """The cloud's time."""
        return parsedate_to_datetime(self.headers["Date"])

    @property
    def last_id(self) -> str:
        """The id at the end of the path."""
        return self.path.rpartition("/")[2]

    def action(self) -> ActionEntry | None:
        """Return the action entry in the body, if this is about one and the cloud has it."""
        if "/os-instance-actions/" not in self.path or self.status != 200:
            return None
        return action_from(self.body["instanceAction"])

    def servers(self) -> list[ServerRow | DownServer]:
        """Return the servers in the body of a GET."""
        if self.method != "GET" or self.service != "compute" or self.status != 200:
            return []
        if self.path.startswith("/servers/detail"):
            return [server_from(row, is_from_list=True) for row in self.body["servers"]]
        return [server_from(self.body["server"], is_from_list=False)] if "server" in self.body else []

    def thing(self) -> Thing | None:
        """Return the volume, the image or the port that a GET of a single one shows."""
        if self.method != "GET" or self.service == "compute" or len(self.last_id) != 36:
            return None
        if self.status == 404:
            return Gone(self.last_id)
        match self.service:
            case "block_storage":
                return volume_from(self.body["volume"])
            case "image":
                return image_from(self.body)
        return port_from(self.body["port"])


@dataclass(frozen=True)
class Look:
    """What was seen of a thing, and of the action entry directly afterwards."""

    moment: str
    thing: Thing
    action: ActionEntry | None
    now: datetime


class Recording:
    """One story."""

    def __init__(self, name: str) -> None:
        self.exchanges = [_exchange(raw) for raw in _story(name)["exchanges"]]

    def at(self, moment: str) -> Exchange:
        """Return the first exchange of this moment."""
        return next(exchange for exchange in self.exchanges if exchange.moment == moment)

    def after(self, moment: str) -> list[Exchange]:
        """Return the exchanges after the first one of this moment."""
        return self.exchanges[self.exchanges.index(self.at(moment)) + 1 :]

    def server_id(self) -> str:
        """Return the id of the server that the story is about."""
        ids = [
            x.path.split("/")[2] for x in self.exchanges if x.path.startswith("/servers/") and "detail" not in x.path
        ]
        return ids[0] if ids else str(self.at("accepted").body["server"]["id"])

    def looks(self, moment: str = "accepted") -> Iterator[Look]:
        """Return what the server looked like after this moment, with the entry of the request that was sent then."""
        id, request_id = self.server_id(), self.at(moment).headers["X-Openstack-Request-Id"]
        rest = self.after(moment)
        for number, exchange in enumerate(rest):
            for server in exchange.servers():
                if server.id == id:
                    yield Look(exchange.moment, server, _entry(rest, number, request_id), exchange.date)

    def things(self, moment: str = "accepted") -> Iterator[Look]:
        """Return what a volume, an image or a port looked like after this moment."""
        request_id, rest = self.at(moment).headers["X-Openstack-Request-Id"], self.after(moment)
        for number, exchange in enumerate(rest):
            if thing := exchange.thing():
                yield Look(exchange.moment, thing, _entry(rest, number, request_id), exchange.date)


def all_recordings() -> list[str]:
    """Return the names of all stories."""
    return sorted(path.relative_to(RECORDED).with_suffix("").as_posix() for path in RECORDED.glob("*/*.json"))


@cache
def _story(name: str) -> dict[str, Any]:
    story: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return story


def _entry(exchanges: list[Exchange], number: int, request_id: str) -> ActionEntry | None:
    """Return the entry as it was read directly after that exchange, or else as it was known before."""
    found = None
    for index, exchange in enumerate(exchanges):
        action = exchange.action()
        if action and action.request_id == request_id:
            found = action
        is_next_look = index > number and (exchange.servers() or exchange.thing())
        if is_next_look or (index > number and found and action):
            break
    return found


def _exchange(raw: dict[str, Any]) -> Exchange:
    method, service, path = raw["request"].split(" ", 2)
    return Exchange(raw["moment"], method, service, path, raw["status"], raw["headers"], raw["body"])
