"""Watches the cloud for all who wait in this worker: for servers, volumes, images and ports.

A poll of servers is one list of what changed since the poll before. That list leaves out servers in cells that are
down, and servers that reached their cell a moment ago. So a server that it does not show is as it was, and if that is
not known, the server is read by its id. Only an answer about a single thing can say that the thing is gone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, Generic, TypeVar

from activities.backends.openstack import bodies
from activities.backends.openstack.bodies import Body
from activities.backends.openstack.errors import Service
from activities.backends.openstack.polling import Clock, Poll
from activities.backends.openstack.reading import Answer, Fetch, Query, pages, read_one
from activities.backends.openstack.records import DownServer, Gone, ImageRow, PortRow, ServerRow, VolumeRow
from activities.backends.protocol import BackendError

R = TypeVar("R", bound=VolumeRow | ImageRow | PortRow)
Server = ServerRow | DownServer | Gone

FEW: Final = 3
"""Up to so many servers are read one by one, more of them by a list of all."""
OVERLAP: Final = 5.0
"""Seconds by which the clocks of the cloud's hosts may differ."""
PLAIN_LIST_EVERY: Final = 60.0
IDS_OF_A_QUERY: Final = 50


class Watcher:
    """All polls of a worker. Each answer is newer than its question, and has no row of what is not known."""

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self.servers: Poll[Server] = Poll(_Servers(fetch, clock).read, clock)
        self.volumes: Poll[VolumeRow | Gone] = Poll(_Resources(fetch, _VOLUMES).read, clock)
        self.images: Poll[ImageRow | Gone] = Poll(_Resources(fetch, _IMAGES).read, clock)
        self.ports: Poll[PortRow | Gone] = Poll(_Resources(fetch, _PORTS).read, clock)

    async def close(self) -> None:
        """End all polls."""
        for poll in (self.servers, self.volumes, self.images, self.ports):
            await poll.close()


class _Servers:
    """Reads servers, and remembers those that somebody waits for."""

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._rows: dict[str, Server] = {}
        self._since: datetime | None = None
        self._plain_list_at = 0.0

    async def read(self, asked: Collection[str], kept: Collection[str]) -> Mapping[str, Server]:
        """Return what is known of the servers now."""
        began, wanted = self._clock.now(), {*asked, *kept}
        self._rows = {id: row for id, row in self._rows.items() if id in kept}
        if not self._rows:
            self._since = None  # nothing is remembered, so a list of changes would help nobody
        if self._since is None:
            self._plain_list_at = began  # what follows shows the cells that are down, too
        else:
            await self._read_list((("changes-since", f"{self._since:%Y-%m-%dT%H:%M:%SZ}"),), wanted, began)
        if began - self._plain_list_at >= PLAIN_LIST_EVERY:
            await self._read_down_cells()
            self._plain_list_at = began
        if len(asked - self._rows.keys()) > FEW:
            await self._read_list((), wanted, began)
        await self._read_rest(asked, began)
        return self._rows

    async def _read_list(self, query: Query, wanted: Collection[str], began: float) -> None:
        since: datetime | None = None
        async for answer in pages(self._fetch, Service.COMPUTE, "/servers/detail", query, "servers"):
            since = since or self._before(answer, began)
            for body in bodies.listed(answer.body, "servers"):
                server = bodies.server_from(body, is_from_list=True)
                if server.id in wanted:
                    self._rows[server.id] = _newer(self._rows.get(server.id), server)
        self._since = since

    async def _read_down_cells(self) -> None:
        """Find out which servers are in cells that are down. Only the plain first page of the list shows that."""
        answer = await self._fetch(Service.COMPUTE, "/servers", ())
        rows = bodies.listed(answer.body, "servers")
        down = {str(row["id"]) for row in rows if row.get("status") == "UNKNOWN"}
        for id, row in list(self._rows.items()):
            if id in down:
                self._rows[id] = DownServer(id)
            elif isinstance(row, DownServer):
                del self._rows[id]  # it is back, and may have changed meanwhile

    async def _read_rest(self, asked: Collection[str], began: float) -> None:
        """Read the servers that no list has shown, and those whose fault it left out."""
        ids = [id for id in asked if id not in self._rows or _lacks_fault(self._rows[id])]

        async def read(id: str) -> None:
            answer = await read_one(self._fetch, Service.COMPUTE, f"/servers/{id}")
            if answer is None:
                self._rows[id] = Gone(id)
                return
            self._rows[id] = bodies.server_from(bodies.single(answer.body, "server"), is_from_list=False)
            self._since = self._since or self._before(answer, began)

        errors = await _each(read, ids)
        if errors and not any(id in self._rows for id in asked):
            raise errors[0]

    def _before(self, answer: Answer, began: float) -> datetime:
        """Return the cloud's time of which one can be sure that this poll began after it."""
        return answer.date - timedelta(seconds=self._clock.now() - began + OVERLAP)


def _lacks_fault(row: Server) -> bool:
    """Whether the list may have left out the fault: it does so if the server failed before it reached a host."""
    return isinstance(row, ServerRow) and row.is_from_list and row.status == "ERROR" and row.is_idle and not row.fault


def _newer(known: Server | None, listed: ServerRow | DownServer) -> Server:
    """Return the row of the list, unless it only repeats one that was read by its id and may have the fault."""
    if isinstance(known, ServerRow) and isinstance(listed, ServerRow) and not known.is_from_list:
        has_changed = (known.status, known.task_state, known.updated_at) != (
            listed.status,
            listed.task_state,
            listed.updated_at,
        )
        return listed if has_changed else known
    return listed


@dataclass(frozen=True, slots=True)
class _Kind(Generic[R]):
    """How things of a kind are read: one by its path, several by a list; `single` and `several` are keys of bodies.

    `query` asks a list for some ids; without it, the list is of all.
    """

    service: Service
    path: str
    single: str | None
    list_path: str
    several: str
    query: Callable[[Sequence[str]], Query] | None
    parse: Callable[[Body], R]


class _Resources(Generic[R]):
    """Reads volumes, images or ports."""

    def __init__(self, fetch: Fetch, kind: _Kind[R]) -> None:
        self._fetch = fetch
        self._kind = kind

    async def read(self, asked: Collection[str], kept: Collection[str]) -> Mapping[str, R | Gone]:
        """Return what is known of the things now."""
        del kept
        kind = self._kind
        rows: dict[str, R | Gone] = {}
        for query in _queries(asked, kind) if len(asked) > 1 else ():
            async for answer in pages(self._fetch, kind.service, kind.list_path, query, kind.several):
                # Only what is asked for is read further: other things of the project may have unusual fields.
                found = [body for body in bodies.listed(answer.body, kind.several) if body.get("id") in asked]
                rows |= {row.id: row for row in map(kind.parse, found)}

        async def read(id: str) -> None:
            answer = await read_one(self._fetch, kind.service, f"{kind.path}/{id}")
            body = answer and (bodies.single(answer.body, kind.single) if kind.single else answer.body)
            rows[id] = kind.parse(body) if body else Gone(id)

        errors = await _each(read, [id for id in asked if id not in rows])
        if errors and not rows:
            raise errors[0]
        return rows


# Cinder knows no filter for several ids. Glance sends 25 rows a page, if one does not ask for more.
_VOLUMES: Final = _Kind(Service.VOLUME, "/volumes", "volume", "/volumes/detail", "volumes", None, bodies.volume_from)
_IMAGES: Final = _Kind(
    Service.IMAGE,
    "/images",
    None,
    "/images",
    "images",
    lambda ids: (("id", f"in:{','.join(ids)}"), ("limit", str(IDS_OF_A_QUERY))),
    bodies.image_from,
)
_PORTS: Final = _Kind(
    Service.NETWORK, "/ports", "port", "/ports", "ports", lambda ids: [("id", id) for id in ids], bodies.port_from
)


def _queries(ids: Iterable[str], kind: _Kind[R]) -> list[Query]:
    """Return queries for all the ids, each short enough for a URL."""
    if kind.query is None:
        return [()]
    rest = iter(sorted(ids))
    groups = iter(lambda: tuple(islice(rest, IDS_OF_A_QUERY)), ())
    return [kind.query(group) for group in groups]


async def _each(read: Callable[[str], Awaitable[None]], ids: Iterable[str]) -> list[BackendError]:
    """Read all of them at the same time, and return the errors of those that could not be read."""
    ends = await asyncio.gather(*(read(id) for id in ids), return_exceptions=True)
    errors = [end for end in ends if isinstance(end, BaseException)]
    unexpected = [error for error in errors if not isinstance(error, BackendError)]
    if unexpected:
        raise unexpected[0]
    return [error for error in errors if isinstance(error, BackendError)]
