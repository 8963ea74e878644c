"""What the small cloud has: servers, volumes, images and ports, with bodies as the real one was recorded to give."""

import json
from collections import defaultdict
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

import pytest

from activities.backends.openstack.errors import Service
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from tests.backends.openstack.cloud_server import PREFIXES, CloudServer, Received, Reply
from tests.backends.openstack.recordings import Recording

Json = dict[str, Any]
USER: Final = "cd" * 16  # that of the small cloud's tokens
NETWORK: Final = "805af26d-64df-406e-9332-19a349d6c9c4"
ABSENT: Final = Reply(404, {"itemNotFound": {"code": 404, "message": "It could not be found."}})
CUT: Final = Reply(is_cut=True)
_KINDS: Final = {
    ("compute", "servers"): ("server", Recording("create/ok").at("one server").body["server"]),
    ("volume", "volumes"): ("volume", Recording("volume/ok").at("available").body["volume"]),
    ("image", "images"): (None, Recording("snapshot/ok").at("active").body),
    ("network", "ports"): ("port", Recording("interface/ok").at("port").body["port"]),
}


def token(*, operation_id: UUID | None = None, undoes: bool = False) -> Token:
    """A new call's token."""
    return Token(operation_id or uuid4(), f"step-{uuid4()}", undoes)


async def code_of(awaitable: Awaitable[object], *, retryable: bool) -> str:
    """Return the code with which a call fails."""
    with pytest.raises(BackendError) as raised:
        await awaitable
    assert raised.value.retryable is retryable
    return raised.value.code


class ResourceCloud:
    """What the small cloud's server has: things by their ids, and how they change.

    `lost` are requests whose answer is cut after they have taken effect, as method and end of the path.
    """

    def __init__(self, server: CloudServer) -> None:
        self.server = server
        self.things: dict[str, dict[str, Json]] = {name: {} for _, name in _KINDS}
        self.attached: dict[tuple[str, str], str] = {}  # devices by server and volume
        self.entries: dict[str, list[Json]] = defaultdict(list)
        self.lost: set[tuple[str, str]] = set()
        self.refused: dict[tuple[str, str], Reply] = {}  # as long as they are here
        self.ignores_filters = False
        server.respond = self._respond

    def add(self, kind: str, /, **fields: Any) -> str:
        """Add a thing and return its id."""
        id = str(uuid4())
        template = next(body for (_, name), (_, body) in _KINDS.items() if name == kind)
        self.things[kind][id] = template | {"id": id} | fields
        return id

    def add_server(self, **fields: Any) -> str:
        """Add a server that is at rest, without marks, and return its id."""
        return self.add("servers", tags=[], metadata={}, **fields)

    def add_entry(self, server_id: str, action: str, /, **fields: Any) -> str:
        """Add an entry of an action of a server, of our own user, and return its request id."""
        recorded = Recording("attach/ok").at("action").body["instanceAction"]
        request_id = f"req-{uuid4()}"
        own = {"action": action, "request_id": request_id, "user_id": USER, "start_time": "2999-01-01T00:00:00.000000"}
        self.entries[server_id].append(recorded | own | fields)
        return request_id

    def attach(self, server_id: str, volume_id: str, status: str = "in-use") -> None:
        """Attach a volume, wholly or to that status."""
        self.attached[server_id, volume_id] = "/dev/sdb"
        shown = [{"server_id": server_id, "device": "/dev/sdb"}] if status in {"in-use", "detaching"} else []
        self.things["volumes"][volume_id] |= {"status": status, "attachments": shown}

    def _respond(self, request: Received) -> Reply:
        for (method, end), reply in self.refused.items():
            if request.method == method and request.path.endswith(end):
                return reply
        service, prefix = next(item for item in PREFIXES.items() if request.path.startswith(item[1]))
        parts = request.path.removeprefix(prefix).strip("/").split("/")
        reply = self._carry_out(service, request, parts)
        is_lost = any(request.method == method and request.path.endswith(end) for method, end in self.lost)
        return Reply(is_cut=True) if is_lost else reply

    def _carry_out(  # noqa: PLR0911 - each is a kind of request
        self, service: Service, request: Received, parts: list[str]
    ) -> Reply:
        if service is Service.COMPUTE and len(parts) > 2:
            return self._on_server(request, parts[1], parts[2:])
        name = parts[0]
        single, _ = _KINDS[PREFIXES[service].split("/")[1], name]
        match request.method, parts[1:]:
            case "GET", [] | ["detail"]:
                found = [row for row in self.things[name].values() if self.ignores_filters or _is_wanted(row, request)]
                return Reply(200, {name: found})
            case "POST", []:
                assert single is not None
                id = self.add(name, **request.body[single])
                return Reply(202, {single: self.things[name][id]})
            case _, [id] if id not in self.things[name]:
                return ABSENT
            case "DELETE", [id]:
                del self.things[name][id]
                return Reply(204)
            case "POST", [id, "action"]:
                self.things[name][id]["size"] = request.body["os-extend"]["new_size"]
                return Reply(202)
            case _, [id]:
                row = self.things[name][id]
                return Reply(200, {single: row} if single else row)
        raise AssertionError(request)

    def _on_server(self, request: Received, id: str, parts: list[str]) -> Reply:
        match parts:
            case ["os-instance-actions"]:
                return Reply(200, {"instanceActions": self.entries[id]})
            case ["os-instance-actions", request_id]:
                found = [entry for entry in self.entries[id] if entry["request_id"] == request_id]
                return Reply(200, {"instanceAction": found[0]}) if found else ABSENT
            case ["action"]:
                return self._save(request.body["createImage"], id)
            case ["os-volume_attachments", *rest]:
                return self._on_attachments(request, id, rest)
            case ["os-interface", *rest]:
                return self._on_interfaces(request, id, rest)
        raise AssertionError(request)

    def _save(self, image: Json, server_id: str) -> Reply:
        # The template has the marks of the image that was recorded.
        marks = {"osvm_operation": "", "osvm_server": "", "osvm_snapshot": "", **image["metadata"]}
        id = self.add("images", status="queued", instance_uuid=server_id, name=image["name"], **marks)
        return Reply(202, {"image_id": id})

    def _on_attachments(self, request: Received, id: str, rest: list[str]) -> Reply:
        volume_id = rest[0] if rest else request.body["volumeAttachment"]["volumeId"]
        if rest and (id, volume_id) not in self.attached:
            return ABSENT
        if request.method == "DELETE":
            self.attach(id, volume_id, "detaching")
            return Reply(202)
        if request.method == "POST":
            self.attach(id, volume_id, "reserved")
        return Reply(200, {"volumeAttachment": {"device": self.attached[id, volume_id]}})

    def _on_interfaces(self, request: Received, id: str, rest: list[str]) -> Reply:
        port = self.things["ports"].get(rest[0] if rest else request.body["interfaceAttachment"]["port_id"])
        if port is None or (request.method == "GET" and port["device_id"] != id):
            return ABSENT
        if request.method != "GET":
            port["device_id"] = id if request.method == "POST" else ""
        return Reply(202 if request.method == "DELETE" else 200, {"interfaceAttachment": {}})


def add_volume(resources: ResourceCloud, status: str = "available", age: timedelta = timedelta()) -> Ref:
    """Add a volume with our mark, which has had its status for that long."""
    id, changed_at = uuid4(), f"{datetime.now(UTC) - age:%Y-%m-%dT%H:%M:%S}.000000"
    return Ref(id, resources.add("volumes", status=status, updated_at=changed_at, metadata={"osvm_volume": str(id)}))


def _is_wanted(row: Json, request: Received) -> bool:
    """Whether the query asks for this row; several values of one field mean any of them."""
    wanted: dict[str, list[Any]] = defaultdict(list)
    for name, value in parse_qsl(request.query):
        if name == "metadata":
            wanted[name].append(json.loads(value))
        elif name in {"id", "description", "device_id", "osvm_snapshot"}:
            wanted[name] += value.removeprefix("in:").split(",")
    for name, values in wanted.items():
        if name == "metadata":
            if not all(row["metadata"].get(key) == value for key, value in values[0].items()):
                return False
        elif row.get(name) not in values:
            return False
    return True
