"""A cloud in memory that answers the watcher's questions with bodies as the real one was recorded to give."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

from activities.backends.openstack.errors import Service
from activities.backends.openstack.reading import Answer, Query
from activities.backends.openstack.watcher import Watcher
from activities.backends.protocol import BackendError
from tests.backends.openstack.clocks import FakeClock
from tests.backends.openstack.recordings import Recording

Json = dict[str, Any]

KINDS: Final = {
    "volumes": (Service.VOLUME, "/volumes", "volume"),
    "images": (Service.IMAGE, "/images", None),
    "ports": (Service.NETWORK, "/ports", "port"),
}


def _template(kind: str) -> Json:
    """Return the recorded body of one thing."""
    match kind:
        case "servers":
            body = Recording("create/ok").at("one server").body["server"]
        case "volumes":
            body = Recording("volume/ok").at("available").body["volume"]
        case "images":
            body = Recording("snapshot/ok").at("active").body
        case _:
            body = Recording("interface/ok").at("port").body["port"]
    return dict(body)


class SmallCloud:
    """Servers, volumes, images and ports; how they are listed; and what goes wrong."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.calls: list[str] = []
        self.answers: list[Answer] = []
        self.begin = datetime(2026, 1, 1, tzinfo=UTC)
        self.latency = 0.0
        self.page_size = 1000
        self.is_down = False
        self.error: BackendError | None = None
        self.error_on = ""
        self.errors_left = 1
        self.spoil: list[Callable[[Any], Any]] = []
        self._things: dict[str, dict[str, Json]] = {kind: {} for kind in ("servers", *KINDS)}
        self._changed: dict[str, datetime] = {}
        self._templates = {kind: _template(kind) for kind in self._things}

    @property
    def now(self) -> datetime:
        """The cloud's own time."""
        return self.begin + timedelta(seconds=self.clock.time)

    def add(self, kind: str) -> str:
        """Add a thing and return its id."""
        id = str(uuid4())
        self._things[kind][id] = self._templates[kind] | {"id": id}
        return id

    def add_server(self, status: str) -> str:
        """Add a server and return its id."""
        id = self.add("servers")
        self.change_server(id, status)
        return id

    def change_server(
        self, id: str, status: str, task: str | None = None, *, fault: str | None = None, age: float = 0
    ) -> None:
        """Change a server; the host that does it has a clock that is `age` seconds late."""
        at = self.now - timedelta(seconds=age)
        self._changed[id] = at.replace(microsecond=0)
        changes = {"status": status, "OS-EXT-STS:task_state": task, "updated": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
        row = {name: value for name, value in self._things["servers"][id].items() if name != "fault"} | changes
        if fault:
            row["fault"] = {"code": 500, "message": fault, "created": changes["updated"]}
        self._things["servers"][id] = row

    def hide_from_changes(self, id: str) -> None:
        """Let a list of changes leave out the server, as Nova does before its first change in its cell."""
        del self._changed[id]

    def remembered(self, watcher: Watcher) -> set[str]:
        """Return the servers that the watcher remembers."""
        return set(watcher.servers._read.__self__._rows)  # type: ignore[attr-defined]

    def forget_in_watcher(self, watcher: Watcher) -> None:
        """Let the watcher forget the servers."""
        watcher.servers._read.__self__._rows.clear()  # type: ignore[attr-defined]

    async def fetch(self, service: Service, path: str, query: Query) -> Answer:
        """Answer one GET."""
        self.calls.append(f"{service} {path}" + (f"?{urlencode(query, safe=':,')}" if query else ""))
        self.clock.time += self.latency
        if self.error and self.errors_left and path == self.error_on:
            self.errors_left -= 1
            raise self.error
        body = self._server_body(path, query) if service is Service.COMPUTE else self._body(service, path, query)
        if self.spoil:
            body = self.spoil.pop()(body)
        self.answers.append(Answer(body, self.now.replace(microsecond=0)))
        return self.answers[-1]

    def _server_body(self, path: str, query: Query) -> Json:
        rows, asked = self._things["servers"], dict(query)
        if path == "/servers":
            shown = [_unknown(id) if self.is_down else {"id": id, "name": row["name"]} for id, row in rows.items()]
            return {"servers": shown}
        if path != "/servers/detail":
            row = _found(rows, path)
            return {"server": _unknown(row["id"]) if self.is_down else row}
        if "changes-since" in asked:
            since = datetime.fromisoformat(asked["changes-since"])
            changed = {} if self.is_down else self._changed
            listed = [rows[id] for id, at in changed.items() if at >= since]
        else:
            listed = [_unknown(id) if self.is_down else row for id, row in rows.items()]
        return self._page("servers", [_without_fault(row) for row in listed], query)

    def _body(self, service: Service, path: str, query: Query) -> Json:
        kind, (_, list_path, single) = next(item for item in KINDS.items() if item[1][0] == service)
        rows = self._things[kind]
        if path not in {list_path, f"{list_path}/detail"}:
            row = _found(rows, path)
            return {single: row} if single else row
        wanted = [id for name, value in query if name == "id" for id in value.removeprefix("in:").split(",")]
        limit = int(dict(query).get("limit", 25)) if kind == "images" else self.page_size
        return {kind: [row for id, row in rows.items() if not wanted or id in wanted][:limit]}

    def _page(self, name: str, rows: list[Json], query: Query) -> Json:
        marker = dict(query).get("marker")
        start = next((number + 1 for number, row in enumerate(rows) if row["id"] == marker), 0)
        page, rest = rows[start : start + self.page_size], rows[start + self.page_size :]
        if not rest:
            return {name: page}
        following = urlencode([*(item for item in query if item[0] != "marker"), ("marker", page[-1]["id"])])
        href = f"https://compute.example/v2.1/servers/detail?{following}"
        return {name: page, f"{name}_links": [{"rel": "next", "href": href}]}


def _unknown(id: str) -> Json:
    return {"id": id, "status": "UNKNOWN", "tenant_id": "demo", "created": "2026-01-01T00:00:00Z"}


def _without_fault(row: Json) -> Json:
    return {name: value for name, value in row.items() if name != "fault"}


def _found(rows: dict[str, Json], path: str) -> Json:
    id = path.rpartition("/")[2]
    if id not in rows:
        raise BackendError("not_found", f"{id} could not be found.", retryable=False)
    return rows[id]
