"""The cost and the speed of waits and events: `python -m bench.listeners [COUNT]`, by default 1,000 of each.

Starts a stack, inserts VMs of twenty users into its database, and opens COUNT requests that wait for a VM and COUNT
streams of events. It measures the API while nothing happens, and with and without them. Then it changes VMs in
the database, one by one and all at once, and measures how long after the commit the answers and the events come. At
last it kills the API, changes VMs while it is away, and checks that every stream tells of every change.
"""

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx

from bench.usage import cpu, memory, run_on_a_stack, table
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS
from tests.support.stack import Stack
from tests.support.users import PASSWORD

USERS = 20
WINDOW = 10.0  # seconds of idleness that are measured
ONE_BY_ONE = 100  # changes
PAUSE = 0.05  # seconds between two of them
AT_ONCE = 0.5  # the part of the waits that end in one transaction
OPENED_TOGETHER = 10  # requests; those that have not begun to wait need a slot
SEED = """
INSERT INTO vms (id, owner_id, name, status, task_state, flavor_id, image_id, labels, operation_id)
SELECT unnest($1::uuid[]), id, 'vm', 'ACTIVE', 'powering_off', $2, $3, '{}', gen_random_uuid()
FROM users WHERE username = $4
"""
END = "UPDATE vms SET status = 'SHUTOFF', task_state = NULL, name = $2 WHERE id = ANY($1)"
RENAME = "UPDATE vms SET name = $2 WHERE id = $1"


@dataclass
class Listener:
    """A connection that waits for a VM or follows events: when it heard of which VM, and its last event."""

    stack: Stack
    token: str
    path: str
    heard: dict[tuple[str, str], float] = field(default_factory=dict)  # by id and name of the VM
    last_id: str = ""
    is_open: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Wait for a VM, and note when the answer came."""
        async with self._request() as reader:
            self.is_open.set()
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            self._note(await reader.readexactly(length))

    async def follow(self) -> None:
        """Follow events for ever, and come back when the connection ends."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async with self._request() as reader:
                    if b" 200 " not in await reader.readline():
                        raise ConnectionRefusedError  # a process that has just started may be busy: come back
                    await reader.readuntil(b"retry:")
                    self.is_open.set()
                    while line := await reader.readuntil(b"\n"):
                        self._read(line)
            await asyncio.sleep(0.5)

    def _read(self, line: bytes) -> None:
        if line.startswith(b"id: "):
            self.last_id = line[4:].decode().strip()
        if line.startswith(b"data: "):
            self._note(line[6:])

    def _note(self, body: bytes) -> None:
        vm = json.loads(body)
        self.heard.setdefault((vm.get("id", ""), vm.get("name", "")), time.monotonic())

    @contextlib.asynccontextmanager
    async def _request(self) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.stack.api_port, limit=1 << 22)
        lines = [f"GET /api/v1{self.path} HTTP/1.1", "Host: api", f"Authorization: Bearer {self.token}"]
        lines += [f"Last-Event-ID: {self.last_id}"] if self.last_id else []
        writer.write("\r\n".join([*lines, "", ""]).encode())
        try:
            yield reader
        finally:
            writer.close()


@dataclass
class Run:
    """The VMs and the listeners of all users."""

    stack: Stack
    tokens: dict[str, str]
    vms: dict[str, list[UUID]]
    waits: dict[UUID, Listener] = field(default_factory=dict)
    streams: dict[str, list[Listener]] = field(default_factory=dict)

    def owner(self, vm: UUID) -> str:
        """The user who has a VM."""
        return next(user for user, vms in self.vms.items() if vm in vms)


async def prepare(stack: Stack, count: int) -> Run:
    """Register the users and insert their VMs."""
    run = Run(stack, {}, {})
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as http:
        for number in range(USERS):
            name = f"user-{number}"
            account = {"username": name, "password": PASSWORD}
            await http.post("/auth/register", json=account | {"email": f"{name}@example.com"})
            run.tokens[name] = (await http.post("/auth/login", json=account)).json()["access_token"]
            run.vms[name] = [uuid4() for _ in range(count // USERS)]
            await stack.sql(SEED, run.vms[name], FLAVOR_IDS["m1.small"], IMAGE_IDS["cirros-0.6.3"], name)
    return run


async def open_all(listeners: Iterable[Listener], *, follow: bool) -> list["asyncio.Task[None]"]:
    """Open the connections, a few at a time."""
    tasks, group = list[asyncio.Task[None]](), list[Listener]()
    for listener in listeners:
        tasks.append(asyncio.create_task(listener.follow() if follow else listener.wait()))
        group.append(listener)
        if len(group) == OPENED_TOGETHER:
            await asyncio.gather(*(each.is_open.wait() for each in group))
            await asyncio.sleep(0 if follow else 0.05)
            group.clear()
    return tasks


async def idle(stack: Stack) -> list[float]:
    """What the API uses in a second while nothing happens: milliseconds of CPU, queries, MB of memory."""
    transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    before, [[queries]] = cpu(stack, "api"), await stack.sql(transactions)
    await asyncio.sleep(WINDOW)
    used, [[more]] = cpu(stack, "api") - before, await stack.sql(transactions)
    return [1000 * used / WINDOW, (more - queries) / WINDOW, memory(stack, "api")]


async def change(run: Run, vms: list[UUID], name: str, statement: str = END) -> float:
    """Change VMs in one transaction; return when it was committed."""
    await run.stack.sql(statement, vms if statement == END else vms[0], name)
    return time.monotonic()


def delays(run: Run, vms: Iterable[UUID], name: str, committed: float) -> tuple[list[float], list[float]]:
    """Seconds from the commit to the answers of waits, and to the events; infinite if one has not come."""
    answers, events = [], []
    for vm in vms:
        key = str(vm), name
        answers.append(run.waits[vm].heard.get(key, float("inf")) - committed)
        events += [stream.heard.get(key, float("inf")) - committed for stream in run.streams[run.owner(vm)]]
    return answers, events


def show(title: str, figures: dict[str, list[float]]) -> None:
    """Print how long after the commit something came."""
    rows = [
        (name, len(values), 1000 * statistics.median(values), 1000 * max(values)) for name, values in figures.items()
    ]
    table(title, "number", "median, ms", "worst, ms", rows=rows)


async def measure(stack: Stack) -> list[str]:
    """Run everything; return what went wrong."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    run, rows = await prepare(stack, count), []
    rows.append(("none", *await idle(stack)))
    for user, vms in run.vms.items():
        run.streams[user] = [Listener(stack, run.tokens[user], "/events") for _ in vms]
        path = "/vms/{}?wait=60&for=SHUTOFF"
        run.waits |= {vm: Listener(stack, run.tokens[user], path.format(vm)) for vm in vms}
    streams = [stream for streams in run.streams.values() for stream in streams]
    following = await open_all(streams, follow=True)
    rows.append((f"{len(streams)} streams", *await idle(stack)))
    waiting = await open_all(run.waits.values(), follow=False)
    rows.append((f"{len(streams)} streams, {len(run.waits)} waits", *await idle(stack)))
    table("open", "CPU of the API, ms/s", "queries/s", "memory of the API, MB", rows=rows)
    errors = await _speed(run)
    errors += await _outage(run, streams)
    for task in [*following, *waiting]:
        task.cancel()
    return errors


async def _speed(run: Run) -> list[str]:
    vms = [vm for vms in zip(*run.vms.values(), strict=True) for vm in vms]  # of all users in turn
    some, many = vms[:ONE_BY_ONE], vms[ONE_BY_ONE : ONE_BY_ONE + int(AT_ONCE * len(vms))]
    answers, events = list[float](), list[float]()
    committed = {}
    for vm in some:
        committed[vm] = await change(run, [vm], "one")
        await asyncio.sleep(PAUSE)
    together = await change(run, many, "many")
    await asyncio.sleep(10)
    for vm in some:
        answer, heard = delays(run, [vm], "one", committed[vm])
        answers += answer
        events += heard
    show("one VM after the other", {"answers to waits": answers, "events": events})
    all_answers, all_events = delays(run, many, "many", together)
    show(f"{len(many)} VMs in one transaction", {"answers to waits": all_answers, "events": all_events})
    missed = sum(value == float("inf") for value in answers + events + all_answers + all_events)
    return [f"{missed} answers or events did not come"] if missed else []


async def _outage(run: Run, streams: list[Listener]) -> list[str]:
    """Kill the API, and change a VM of each user while it is away; each stream must tell of it."""
    run.stack.kill("api")
    killed, changed = time.monotonic(), {user: vms[-1] for user, vms in run.vms.items()}
    for vm in changed.values():
        await change(run, [vm], "away", RENAME)
    wanted = {id(stream): (str(changed[user]), "away") for user, own in run.streams.items() for stream in own}
    while missing := [stream for stream in streams if wanted[id(stream)] not in stream.heard]:
        if time.monotonic() > killed + 60:
            return [f"{len(missing)} streams have missed a change while the API was away"]
        await asyncio.sleep(0.1)
    figures = [stream.heard[wanted[id(stream)]] - killed for stream in streams]
    show("changes while the API was killed, from the kill on", {"events": figures})
    return []


if __name__ == "__main__":
    run_on_a_stack({"LOG_LEVEL": "WARNING"}, measure)
