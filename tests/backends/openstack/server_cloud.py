"""The small cloud with servers that actions change at once."""

from typing import Any, Final
from uuid import UUID, uuid4

from activities.backends.protocol import Token
from activities.backends.resources import Ref, ServerSpec
from tests.backends.openstack.cloud_server import REQUEST_ID, CloudServer, Received, Reply
from tests.backends.openstack.resource_cloud import ResourceCloud

ENTRIES: Final = {"os-start": "start", "os-stop": "stop"}
"""The names of actions in their entries, where those differ."""
STATES: Final = {
    "os-start": {"status": "ACTIVE"},
    "os-stop": {"status": "SHUTOFF"},
    "reboot": {"status": "ACTIVE"},
    "resize": {"status": "VERIFY_RESIZE"},
    "confirmResize": {"status": "ACTIVE"},
    "revertResize": {"status": "ACTIVE"},
}
"""What a server is after an action; one that is not here leaves it as it is."""
TASK: Final = "OS-EXT-STS:task_state"
EVENT: Final = {"event": "compute_rebuild_instance", "start_time": "2026-11-27T13:00:00.000000"}
ENDED: Final = [EVENT | {"finish_time": "2026-11-27T13:00:01.000000", "result": "Success"}]
OPEN: Final = [EVENT | {"finish_time": None, "result": None}]
FLAVOR: Final = Ref(UUID("ab" * 16), "tiny")
IMAGE: Final = Ref(UUID("cd" * 16), "539afd80-eff4-4ba6-9ba3-7075ffc0dfcb")


class ServerCloud(ResourceCloud):
    """The cloud. `entry` are fields of the entries of the next actions, and `effects` what they make of a server."""

    def __init__(self, server: CloudServer) -> None:
        super().__init__(server)
        self.server = server
        self.entry: dict[str, Any] = {"events": ENDED}
        self.effects: dict[str, dict[str, Any]] = STATES

    def add_marked(self, vm_id: UUID | None = None, operation_id: UUID | None = None, /, **fields: Any) -> Ref:
        """Add a server with our marks."""
        vm_id = vm_id or uuid4()
        tags = [f"vm:{vm_id}", *([f"op:{operation_id}"] if operation_id else [])]
        return Ref(vm_id, self.add("servers", **{"tags": tags, "metadata": {"osvm_vm": str(vm_id)}} | fields))

    def of(self, vm: Ref) -> dict[str, Any]:
        """The VM's server."""
        return self.things["servers"][vm.cloud_id or ""]

    def sent(self) -> list[Any]:
        """The bodies of all actions that the cloud received."""
        return [request.body for request in self.server.seen("POST", "/action")]

    def _on_server(self, request: Received, id: str, parts: list[str]) -> Reply:
        if (request.method, parts) != ("POST", ["action"]) or "createImage" in request.body:
            return super()._on_server(request, id, parts)
        (action,) = request.body
        self.add_entry(id, ENTRIES.get(action, action), **{"request_id": REQUEST_ID} | self.entry)
        self.things["servers"][id] |= self.effects.get(action, {})
        return Reply(202)


def token(operation_id: UUID | None = None) -> Token:
    """The token of a new call."""
    return Token(operation_id or uuid4(), f"step-{uuid4()}")


def spec_of(vm: Ref, size: tuple[int, int, int] = (1, 512, 1)) -> ServerSpec:
    """The server that a VM should have."""
    return ServerSpec(vm, "web-1", FLAVOR, *size, IMAGE)
