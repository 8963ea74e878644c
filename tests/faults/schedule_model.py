"""What must be left where operations may fail: the model of the calm walk, with more than one end where one failed."""

import json
from typing import Any
from uuid import UUID

from tests.integration.anything import Expected, Model
from tests.support.truth import Database

MOVES_FLAVOR = {"resize", "confirm-resize", "revert-resize", "restore"}
DECIDES = {"confirm-resize", "revert-resize"}
OF_RESOURCES = {"create-volume", "delete-volume", "delete-snapshot"}
ATTACHING = {"attach-volume", "detach-volume", "attach-interface", "detach-interface"}
ANY_VOLUME = {"AVAILABLE", "IN_USE", "DELETED", "ERROR"}
VOLUMES = """
SELECT volumes.id, volumes.status, attachments.vm_id, attachments.device FROM volumes
LEFT JOIN attachments ON attachments.volume_id = volumes.id WHERE owner_id = $1"""
VMS = """
SELECT id, status, flavor_id, task_state, attaching, fault,
       (SELECT count(*) FROM interfaces WHERE vm_id = vms.id) AS interfaces
FROM vms WHERE owner_id = $1"""


class LooseModel(Model):
    """Folds operations that ended in any way; `loose` are VMs of which a delete has failed half-way."""

    def __init__(self) -> None:
        super().__init__()
        self.or_else: dict[UUID, set[str]] = {}
        self.any_flavor: set[UUID] = set()
        self.loose: set[UUID] = set()
        self.snapshots_of: dict[UUID, set[UUID]] = {}

    def apply(self, row: Any) -> None:
        """One operation, as it ended."""
        action, status, vm_id = row["action"], row["status"], row["vm_id"]
        if vm_id in self.vms and action not in ATTACHING | OF_RESOURCES and action != "reset-state":
            self._was(vm_id, "VERIFY_RESIZE" if action in DECIDES else row["previous_status"])
        if action == "snapshot":
            self.snapshots_of.setdefault(vm_id, set()).add(row["resource_id"])
        if action == "reset-state":
            self._reset(row)
        elif status == "SUCCEEDED":
            self._succeeded(row)
        elif status in {"FAILED", "CANCELED"}:
            self._failed(row)
        elif action in {"attach-volume", "detach-volume"}:
            super().apply(row)  # whether a volume goes with its VM is decided by what was accepted before

    def _was(self, vm_id: UUID, previous: str) -> None:
        """What was accepted in a status tells which of several ends an earlier failure had."""
        if previous in self.or_else.get(vm_id, ()):
            self.vms[vm_id].status = previous
        self.or_else.pop(vm_id, None)

    def _succeeded(self, row: Any) -> None:
        action, vm_id, id = row["action"], row["vm_id"], row["resource_id"]
        if action == "detach-volume" and id not in self.attached:
            return
        super().apply(row)
        if action in {"resize", "revert-resize", "restore"}:
            self.any_flavor.discard(vm_id)
        if action in {"create-volume", "delete-volume", "attach-volume", "detach-volume", "delete-snapshot"}:
            self.or_else.pop(id, None)
        if action == "delete":
            for snapshot_id in self.snapshots_of.get(vm_id, ()):
                if self.snapshots.get(snapshot_id) == "ERROR":
                    self.snapshots[snapshot_id] = "DELETED"

    def _failed(self, row: Any) -> None:
        action, vm_id, id = row["action"], row["vm_id"], row["resource_id"]
        if row["started_at"] is None and action not in {"create", "create-volume", "snapshot", "delete"}:
            return  # all is as it was
        match action:
            case "create":
                self.vms[vm_id] = Expected("ERROR", json.loads(row["input"])["flavor_id"])
            case "create-volume":
                self.volumes[id] = "ERROR"
            case "delete-volume" | "delete-snapshot":
                self.or_else[id] = {"ERROR", *self.or_else.get(id, ())}
            case "delete":
                self.vms[vm_id].status = "ERROR"
                self.loose.add(vm_id)
                self.or_else |= {volume: ANY_VOLUME for volume, place in self.attached.items() if place[0] == vm_id}
            case "snapshot":
                self.snapshots[id] = "ERROR"
            case _ if action not in ATTACHING:
                self.or_else[vm_id] = {"ERROR", self.vms[vm_id].status}
                if action in MOVES_FLAVOR:
                    self.any_flavor.add(vm_id)

    def _reset(self, row: Any) -> None:
        """The cloud was otherwise than the database, which followed it."""
        status, vm = json.loads(row["input"])["status"], self.vms.get(row["vm_id"])
        if row["resource_type"] == "vm" and vm:
            vm.status = status
            self.or_else.pop(row["vm_id"], None)
        elif row["resource_type"] == "volume":
            self.or_else[row["resource_id"]] = ANY_VOLUME
        elif row["resource_type"] == "snapshot":
            self.snapshots[row["resource_id"]] = status
        elif vm:
            vm.interfaces -= 1

    def allows_vm(self, row: Any) -> bool:
        """Whether a VM's row may be what was left."""
        vm = self.vms.get(row["id"])
        if vm is None:  # its create was superseded
            return row["status"] in ({"DELETED", "ERROR"} if row["id"] in self.loose else {"DELETED"})
        if (row["task_state"], row["attaching"]) != (None, 0) or (row["status"] == "ERROR") != bool(row["fault"]):
            return False
        if row["status"] not in {vm.status, *self.or_else.get(row["id"], ())}:
            return False
        is_sure = str(row["status"]) != "ERROR" and row["id"] not in self.loose
        has_flavor = row["id"] in self.any_flavor or str(row["flavor_id"]) == vm.flavor
        return not is_sure or (has_flavor and int(row["interfaces"]) == vm.interfaces)

    def allows_volume(self, row: Any) -> bool:
        """Whether a volume's row may be what was left."""
        place = self.attached.get(row["id"])
        if row["status"] in self.or_else.get(row["id"], ()):
            return bool(row["status"] == "IN_USE") == (row["vm_id"] is not None)
        wanted = ("IN_USE", *place[:2]) if place else (self.volumes.get(row["id"]), None, None)
        return (row["status"], row["vm_id"], row["device"]) == wanted

    def allows_snapshot(self, row: Any) -> bool:
        """Whether a snapshot's row may be what was left."""
        expected = self.snapshots.get(row["id"], "DELETED")
        others = {"ERROR", "DELETED"} if row["vm_id"] in self.loose and expected != "AVAILABLE" else set()
        return row["status"] in {expected, *others, *self.or_else.get(row["id"], ())}


async def surprises(database: Database, owner_id: UUID) -> list[str]:
    """What the owner has otherwise than the operations that were accepted, and how they ended, must have left it."""
    model = LooseModel()
    for row in await database.sql("SELECT * FROM operations WHERE owner_id = $1 ORDER BY created_at", owner_id):
        model.apply(row)
    found = [f"VM {dict(row)}" for row in await database.sql(VMS, owner_id) if not model.allows_vm(row)]
    found += [f"volume {dict(row)}" for row in await database.sql(VOLUMES, owner_id) if not model.allows_volume(row)]
    snapshots = await database.sql("SELECT id, vm_id, status FROM snapshots WHERE owner_id = $1", owner_id)
    return [*found, *(f"snapshot {dict(row)}" for row in snapshots if not model.allows_snapshot(row))]
