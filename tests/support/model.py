"""A model of what a user's operations must leave; it is independent of the code under test."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tests.domain.specified import SPECIFIED
from tests.support.truth import Database

ENDS = {"SUCCEEDED", "SUPERSEDED"}  # nothing fails unless the cloud fails
VMS = """
SELECT id, status, flavor_id, task_state, attaching, fault,
       (SELECT count(*) FROM interfaces WHERE vm_id = vms.id) AS interfaces
FROM vms WHERE owner_id = $1"""
VOLUMES = """
SELECT volumes.id, volumes.status, attachments.vm_id, attachments.device FROM volumes
LEFT JOIN attachments ON attachments.volume_id = volumes.id WHERE owner_id = $1"""
OPERATIONS = "SELECT * FROM operations WHERE owner_id = $1 ORDER BY created_at"
SNAPSHOTS = "SELECT id, vm_id, status FROM snapshots WHERE owner_id = $1"


@dataclass
class Expected:
    """The expected end of one VM; `before_resize` is its status and flavor before a resize."""

    status: str
    flavor: str
    before_resize: tuple[str, str] = ("", "")
    interfaces: int = 0


class Model:
    """Computes the expected end from the operations, applied in the order in which they were accepted."""

    def __init__(self) -> None:
        self.vms: dict[UUID, Expected] = {}
        self.volumes: dict[UUID, str] = {}
        self.snapshots: dict[UUID, str] = {}
        self.attached: dict[UUID, tuple[UUID, str, bool]] = {}

    def apply(self, row: Any) -> None:
        """Apply one operation that succeeded."""
        input, action, vm_id, id = json.loads(row["input"]), row["action"], row["vm_id"], row["resource_id"]
        vm = self.vms.get(vm_id)
        if action == "create":
            self.vms[vm_id] = Expected("ACTIVE", input["flavor_id"], interfaces=len(input["network_ids"]))
        elif action in {"create-volume", "delete-volume"}:
            self.volumes[id] = "AVAILABLE" if action == "create-volume" else "DELETED"
        elif action in {"snapshot", "delete-snapshot"}:
            self.snapshots[id] = "AVAILABLE" if action == "snapshot" else "DELETED"
        elif vm is not None:
            self._apply_to_vm(vm, vm_id, id, action, input)

    def _apply_to_vm(self, vm: Expected, vm_id: UUID, id: UUID, action: str, input: dict[str, Any]) -> None:
        match action:
            case "delete":
                self._delete(vm, vm_id)
            case "resize":
                vm.before_resize = (vm.status, vm.flavor)
                vm.status, vm.flavor = "VERIFY_RESIZE", input["flavor_id"]
            case "confirm-resize":
                vm.status = vm.before_resize[0]
            case "revert-resize":
                vm.status, vm.flavor = vm.before_resize
            case "restore":
                vm.flavor = input["flavor_id"]
            case "attach-volume":
                self.attached[id] = (vm_id, input["device"], input["delete_on_termination"])
            case "detach-volume":
                del self.attached[id]
            case "attach-interface" | "detach-interface":
                vm.interfaces += 1 if action == "attach-interface" else -1
            case "extend-volume":
                pass  # the truth compares sizes
            case _:
                vm.status = SPECIFIED[action].ends

    def _delete(self, vm: Expected, vm_id: UUID) -> None:
        vm.status, vm.interfaces = "DELETED", 0
        for volume_id, (attached_to, _, delete_on_termination) in list(self.attached.items()):
            if attached_to == vm_id:
                del self.attached[volume_id]
                if delete_on_termination:
                    self.volumes[volume_id] = "DELETED"


async def check_end(database: Database, vm_id: UUID) -> None:
    """Check that the rows of the VM's owner are as the model expects."""
    (vm,) = await database.sql("SELECT owner_id FROM vms WHERE id = $1", vm_id)
    owner_id = vm["owner_id"]
    rows = await database.sql(OPERATIONS, owner_id)
    assert {row["status"] for row in rows} <= ENDS, [dict(row) for row in rows if row["status"] not in ENDS]
    model = Model()
    for row in rows:
        # A delete supersedes open attaches and detaches, but the volumes it deletes are those attached according to
        # every accepted request. So these count even if they were superseded.
        if row["status"] == "SUCCEEDED" or row["action"] in {"attach-volume", "detach-volume"}:
            model.apply(row)
    for row in await database.sql(VMS, owner_id):
        expected = model.vms.get(row["id"], Expected("DELETED", str(row["flavor_id"])))
        actual = (row["status"], str(row["flavor_id"]), row["interfaces"], row["task_state"], row["attaching"])
        assert actual == (expected.status, expected.flavor, expected.interfaces, None, 0), dict(row)
    for row in await database.sql(VOLUMES, owner_id):
        attachment = model.attached.get(row["id"])
        wanted = ("IN_USE", *attachment[:2]) if attachment else (model.volumes[row["id"]], None, None)
        assert (row["status"], row["vm_id"], row["device"]) == wanted, dict(row)
    for row in await database.sql(SNAPSHOTS, owner_id):
        assert row["status"] == model.snapshots.get(row["id"], "DELETED"), dict(row)
