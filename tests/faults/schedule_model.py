"""A model of what operations must leave if they may fail: after a failure more than one end is allowed."""

import json
from typing import Any
from uuid import UUID

from tests.support.model import OPERATIONS, SNAPSHOTS, VMS, VOLUMES, Expected, Model
from tests.support.truth import Database

MOVES_FLAVOR = {"resize", "confirm-resize", "revert-resize", "restore"}
DECIDES = {"confirm-resize", "revert-resize"}
OF_OTHER_RESOURCES = {"create-volume", "delete-volume", "delete-snapshot"}
ATTACHING = {"attach-volume", "detach-volume", "attach-interface", "detach-interface"}
ANY_VOLUME = {"AVAILABLE", "IN_USE", "DELETED", "ERROR"}


class TolerantModel(Model):
    """Applies operations with any end.

    `alternatives` are further statuses that a resource may have. `half_deleted` are VMs whose delete has failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alternatives: dict[UUID, set[str]] = {}
        self.any_flavor: set[UUID] = set()
        self.half_deleted: set[UUID] = set()
        self.snapshots_of: dict[UUID, set[UUID]] = {}

    def apply(self, row: Any) -> None:
        """Apply one operation with its end."""
        action, status, vm_id = row["action"], row["status"], row["vm_id"]
        if vm_id in self.vms and action not in ATTACHING | OF_OTHER_RESOURCES and action != "reset-state":
            self._learn_status(vm_id, "VERIFY_RESIZE" if action in DECIDES else row["previous_status"])
        if action == "snapshot":
            self.snapshots_of.setdefault(vm_id, set()).add(row["resource_id"])
        if action == "reset-state":
            self._reset(row)
        elif status == "SUCCEEDED":
            self._succeeded(row)
        elif status in {"FAILED", "CANCELED"}:
            self._failed(row)
        elif action in {"attach-volume", "detach-volume"}:
            super().apply(row)  # a delete of the VM counts them even if it superseded them: see check_end

    def _learn_status(self, vm_id: UUID, previous: str) -> None:
        """Learn from an accepted operation which of several statuses the VM had after an earlier failure."""
        if previous in self.alternatives.get(vm_id, ()):
            self.vms[vm_id].status = previous
        self.alternatives.pop(vm_id, None)

    def _succeeded(self, row: Any) -> None:
        action, vm_id, id = row["action"], row["vm_id"], row["resource_id"]
        if action == "detach-volume" and id not in self.attached:
            return
        super().apply(row)
        if action in {"resize", "revert-resize", "restore"}:
            self.any_flavor.discard(vm_id)
        if action in {"create-volume", "delete-volume", "attach-volume", "detach-volume", "delete-snapshot"}:
            self.alternatives.pop(id, None)
        if action == "delete":
            for snapshot_id in self.snapshots_of.get(vm_id, ()):
                if self.snapshots.get(snapshot_id) == "ERROR":
                    self.snapshots[snapshot_id] = "DELETED"

    def _failed(self, row: Any) -> None:
        action, vm_id, id = row["action"], row["vm_id"], row["resource_id"]
        if row["started_at"] is None and action not in {"create", "create-volume", "snapshot", "delete"}:
            return  # it never started, so nothing has changed
        match action:
            case "create":
                self.vms[vm_id] = Expected("ERROR", json.loads(row["input"])["flavor_id"])
            case "create-volume":
                self.volumes[id] = "ERROR"
            case "delete-volume" | "delete-snapshot":
                self.alternatives[id] = {"ERROR", *self.alternatives.get(id, ())}
            case "delete":
                self.vms[vm_id].status = "ERROR"
                self.half_deleted.add(vm_id)
                self.alternatives |= {
                    volume: ANY_VOLUME for volume, attachment in self.attached.items() if attachment[0] == vm_id
                }
            case "snapshot":
                self.snapshots[id] = "ERROR"
            case _ if action not in ATTACHING:
                self.alternatives[vm_id] = {"ERROR", self.vms[vm_id].status}
                if action in MOVES_FLAVOR:
                    self.any_flavor.add(vm_id)

    def _reset(self, row: Any) -> None:
        """Apply a repair: the database took over a status from the cloud."""
        status, vm = json.loads(row["input"])["status"], self.vms.get(row["vm_id"])
        if row["resource_type"] == "vm" and vm:
            vm.status = status
            self.alternatives.pop(row["vm_id"], None)
        elif row["resource_type"] == "volume":
            self.alternatives[row["resource_id"]] = ANY_VOLUME
        elif row["resource_type"] == "snapshot":
            self.snapshots[row["resource_id"]] = status
        elif vm:
            vm.interfaces -= 1

    def allows_vm(self, row: Any) -> bool:
        """Whether the row of a VM is an allowed end."""
        vm = self.vms.get(row["id"])
        if vm is None:  # its create was superseded
            return row["status"] in ({"DELETED", "ERROR"} if row["id"] in self.half_deleted else {"DELETED"})
        if (row["task_state"], row["attaching"]) != (None, 0) or (row["status"] == "ERROR") != bool(row["fault"]):
            return False
        if row["status"] not in {vm.status, *self.alternatives.get(row["id"], ())}:
            return False
        is_certain = str(row["status"]) != "ERROR" and row["id"] not in self.half_deleted
        has_flavor = row["id"] in self.any_flavor or str(row["flavor_id"]) == vm.flavor
        return not is_certain or (has_flavor and int(row["interfaces"]) == vm.interfaces)

    def allows_volume(self, row: Any) -> bool:
        """Whether the row of a volume is an allowed end."""
        attachment = self.attached.get(row["id"])
        if row["status"] in self.alternatives.get(row["id"], ()):
            return bool(row["status"] == "IN_USE") == (row["vm_id"] is not None)
        wanted = ("IN_USE", *attachment[:2]) if attachment else (self.volumes.get(row["id"]), None, None)
        return (row["status"], row["vm_id"], row["device"]) == wanted

    def allows_snapshot(self, row: Any) -> bool:
        """Whether the row of a snapshot is an allowed end."""
        expected = self.snapshots.get(row["id"], "DELETED")
        others = {"ERROR", "DELETED"} if row["vm_id"] in self.half_deleted and expected != "AVAILABLE" else set()
        return row["status"] in {expected, *others, *self.alternatives.get(row["id"], ())}


async def unexpected_rows(database: Database, owner_id: UUID) -> list[str]:
    """The owner's rows that the model does not allow after the owner's operations."""
    model = TolerantModel()
    for row in await database.sql(OPERATIONS, owner_id):
        model.apply(row)
    found = [f"VM {dict(row)}" for row in await database.sql(VMS, owner_id) if not model.allows_vm(row)]
    found += [f"volume {dict(row)}" for row in await database.sql(VOLUMES, owner_id) if not model.allows_volume(row)]
    snapshots = await database.sql(SNAPSHOTS, owner_id)
    return [*found, *(f"snapshot {dict(row)}" for row in snapshots if not model.allows_snapshot(row))]
