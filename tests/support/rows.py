"""Rows for tests: users, VMs in any state, operations, and a VM's snapshots, volumes and interfaces."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.commands import acceptance
from domain.data import queries
from domain.data.addresses import new_mac_address
from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.data.models import VM, Attachment, Interface, Operation, Snapshot, User, Volume
from domain.rules.messages import OperationInput
from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.rules.table import TABLE

FLAVOR_IDS: dict[str, UUID] = {row["name"]: row["id"] for row in FLAVORS}
IMAGE_IDS: dict[str, UUID] = {row["name"]: row["id"] for row in IMAGES}
NETWORK_IDS: dict[str, UUID] = {row["name"]: row["id"] for row in NETWORKS}
_NEW, _OLD = "m1.medium", "m1.small"
INPUTS: dict[Action, dict[str, Any]] = {
    Action.CREATE: {"network_ids": [str(NETWORK_IDS["private"])]},
    Action.RESIZE: {
        "flavor_id": str(FLAVOR_IDS[_NEW]),
        "flavor": _NEW,
        "previous_flavor_id": str(FLAVOR_IDS[_OLD]),
        "previous_flavor": _OLD,
        "confirm_window": 0,
    },
    Action.CONFIRM_RESIZE: {"flavor_id": str(FLAVOR_IDS[_NEW]), "flavor": _NEW},
    Action.REVERT_RESIZE: {"flavor_id": str(FLAVOR_IDS[_OLD]), "flavor": _OLD},
    Action.SNAPSHOT: {"name": "before"},
    Action.RESTORE: {
        "name": "before",
        "flavor_id": str(FLAVOR_IDS[_OLD]),
        "image_id": str(IMAGE_IDS["cirros-0.6.3"]),
    },
    Action.DELETE_SNAPSHOT: {"name": "before"},
    Action.CREATE_VOLUME: {"name": "data", "size_gb": 10},
    Action.DELETE_VOLUME: {"name": "data"},
    Action.ATTACH_VOLUME: {"name": "data", "device": "/dev/vdb"},
    Action.DETACH_VOLUME: {"name": "data", "device": "/dev/vdb"},
    Action.ATTACH_INTERFACE: {"ip_address": "10.0.0.9", "network": "private"},
    Action.DETACH_INTERFACE: {"ip_address": "10.0.0.9", "network": "private"},
}
OPEN = {OperationStatus.QUEUED, OperationStatus.RUNNING}


async def add_user(tx: AsyncConnection, username: str | None = None) -> User:
    """Add a user. The password hash is not a real one, so a login with it fails."""
    name = username or f"user-{uuid4().hex[:12]}"
    return await queries.insert_row(tx, User, username=name, email=f"{name}@example.com", password_hash="none")


async def add_vm(
    tx: AsyncConnection,
    user: User,
    *,
    status: Status = Status.ACTIVE,
    task_state: TaskState | None = None,
    launched: bool = True,
    **values: Any,
) -> VM:
    """Add a VM in the given state. Its `operation_id` names no existing operation."""
    row = {
        "owner_id": user.id,
        "name": "test-vm",
        "status": status,
        "task_state": task_state,
        "flavor_id": FLAVOR_IDS["m1.small"],
        "image_id": IMAGE_IDS["cirros-0.6.3"],
        "labels": {},
        "operation_id": uuid4(),
        "launched_at": datetime.now(UTC) if launched else None,
    }
    return await queries.insert_row(tx, VM, **row | values)


async def add_operation(
    tx: AsyncConnection,
    vm: VM,
    action: Action,
    *,
    status: OperationStatus = OperationStatus.RUNNING,
    holds: bool = True,
    **values: Any,
) -> Operation:
    """Add an operation on the VM; unless `holds` is false, the VM's `operation_id` becomes this one."""
    id = values.pop("id", uuid4())
    row = {
        "id": id,
        "owner_id": vm.owner_id,
        "actor": "test",
        "action": action,
        "status": status,
        "resource_type": "vm",
        "resource_id": vm.id,
        "vm_id": vm.id,
        "input": INPUTS.get(action, {}),
        "previous_status": vm.status,
        "workflow_id": f"{action.word}-{vm.id}-{id}",
        "request_id": "test-request",
        "finished_at": None if status in OPEN else datetime.now(UTC),
    }
    operation = await queries.insert_row(tx, Operation, **row | values)
    if holds:
        await tx.execute(update(VM).where(VM.id == vm.id).values(operation_id=id))
    return operation


async def add_snapshot(
    tx: AsyncConnection, vm: VM, *, status: SnapshotStatus = SnapshotStatus.AVAILABLE, **values: Any
) -> Snapshot:
    """Add a snapshot of the VM. Its `operation_id` names no existing operation."""
    row = {
        "owner_id": vm.owner_id,
        "vm_id": vm.id,
        "name": "before",
        "status": status,
        "size_gb": 20,
        "flavor_id": vm.flavor_id,
        "image_id": vm.image_id,
        "operation_id": uuid4(),
    }
    return await queries.insert_row(tx, Snapshot, **row | values)


async def add_volume(
    tx: AsyncConnection, user: User, *, status: VolumeStatus = VolumeStatus.AVAILABLE, **values: Any
) -> Volume:
    """Add a volume. Its `operation_id` names no existing operation."""
    row = {"owner_id": user.id, "name": "data", "size_gb": 10, "status": status, "operation_id": uuid4()}
    return await queries.insert_row(tx, Volume, **row | values)


async def add_attachment(
    tx: AsyncConnection,
    vm: VM,
    volume: Volume,
    *,
    status: AttachmentStatus = AttachmentStatus.ATTACHED,
    device: str = "/dev/vdb",
    **values: Any,
) -> Attachment:
    """Add an attachment of the volume to the VM; the status of the volume itself does not change."""
    row = {
        "vm_id": vm.id,
        "volume_id": volume.id,
        "status": status,
        "device": device,
        "delete_on_termination": False,
        "operation_id": uuid4(),
    }
    return await queries.insert_row(tx, Attachment, **row | values)


async def add_interface(
    tx: AsyncConnection,
    vm: VM,
    ip_address: str = "10.0.0.9",
    *,
    network: str = "private",
    status: AttachmentStatus = AttachmentStatus.ATTACHED,
    **values: Any,
) -> Interface:
    """Add a network interface of the VM."""
    row = {
        "vm_id": vm.id,
        "network_id": NETWORK_IDS[network],
        "ip_address": ip_address,
        "mac_address": new_mac_address(),
        "status": status,
        "operation_id": uuid4(),
    }
    return await queries.insert_row(tx, Interface, **row | values)


async def claim(tx: AsyncConnection, vm_id: UUID, action: Action) -> Operation:
    """Accept an action as the API does: lock the VM, check the table, update the VM, insert the operation."""
    vm = await queries.lock_vm(tx, vm_id)
    assert vm is not None
    asked = acceptance.Asked(action, "test", "test-request", INPUTS.get(action, {}))
    await acceptance.accept(tx, vm, asked)
    operation = await queries.fetch_one(tx, select(Operation).where(Operation.id == asked.id))
    assert operation is not None
    return operation


async def add_held_vm(
    engine: AsyncEngine,
    action: Action,
    *,
    step: TaskState | None = None,
    previous: Status | None = None,
    flavor: str = "m1.small",
    **values: Any,
) -> OperationInput:
    """Add a VM with a running operation at `step` (by default the first one); return the input of its workflow."""
    rule = TABLE[action]
    previous_status = previous or (min(rule.sources) if rule.sources else Status.BUILDING)
    status = rule.during if isinstance(rule.during, Status) else previous_status
    async with engine.begin() as tx:
        user = await add_user(tx)
        launched = action is not Action.CREATE
        task_state = step or rule.steps[0]
        flavor_id = FLAVOR_IDS[flavor]
        vm = await add_vm(tx, user, status=status, task_state=task_state, launched=launched, flavor_id=flavor_id)
        defaults = {"started_at": datetime.now(UTC)}
        operation = await add_operation(tx, vm, action, previous_status=previous_status, **defaults | values)
    return message(operation)


def message(operation: Operation) -> OperationInput:
    """The input of the operation's workflow."""
    return OperationInput(operation.id, operation.vm_id, operation.action, operation.epoch)


async def read_vm(engine: AsyncEngine, id: UUID) -> VM:
    """The current row of the VM."""
    async with engine.connect() as connection:
        vm = await queries.fetch_one(connection, select(VM).where(VM.id == id))
    assert vm is not None
    return vm


async def read_operation(engine: AsyncEngine, id: UUID) -> Operation:
    """The current row of the operation."""
    async with engine.connect() as connection:
        operation = await queries.fetch_one(connection, select(Operation).where(Operation.id == id))
    assert operation is not None
    return operation
