"""Rows for tests: users, VMs in any state, operations, and a VM's snapshots, volumes and interfaces."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.commands import acceptance
from domain.commands.acceptance import NewOperation, Requester
from domain.commands.resize_decisions import decide_resize
from domain.data import parameters, queries
from domain.data.accounts import User
from domain.data.addresses import new_mac_address
from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.data.models import VM, Attachment, Interface, Operation, Snapshot, Volume
from domain.data.parameters import NO_CONTROL, NO_PARAMETERS, Control, Parameters, to_json
from domain.rules.accounts import Role
from domain.rules.messages import OperationInput
from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.rules.table import TABLE

FLAVOR_IDS: dict[str, UUID] = {row["name"]: row["id"] for row in FLAVORS}
IMAGE_IDS: dict[str, UUID] = {row["name"]: row["id"] for row in IMAGES}
NETWORK_IDS: dict[str, UUID] = {row["name"]: row["id"] for row in NETWORKS}
_NEW, _OLD = "m1.medium", "m1.small"
PARAMETERS: dict[Action, Parameters] = {
    Action.CREATE: parameters.CreateVM(
        "test-vm", FLAVOR_IDS[_OLD], IMAGE_IDS["cirros-0.6.3"], [NETWORK_IDS["private"]]
    ),
    Action.REBOOT_SOFT: parameters.Reboot("SOFT"),
    Action.REBOOT_HARD: parameters.Reboot("HARD"),
    Action.RESIZE: parameters.Resize(FLAVOR_IDS[_NEW], _NEW, FLAVOR_IDS[_OLD], _OLD),
    Action.CONFIRM_RESIZE: parameters.ConfirmResize(FLAVOR_IDS[_NEW], _NEW),
    Action.REVERT_RESIZE: parameters.RevertResize(FLAVOR_IDS[_OLD], _OLD),
    Action.SNAPSHOT: parameters.TakeSnapshot("before"),
    Action.RESTORE: parameters.Restore("before", FLAVOR_IDS[_OLD], IMAGE_IDS["cirros-0.6.3"]),
    Action.DELETE_SNAPSHOT: parameters.DeleteSnapshot("before"),
    Action.CREATE_VOLUME: parameters.CreateVolume("data", 10),
    Action.DELETE_VOLUME: parameters.DeleteVolume("data"),
    Action.EXTEND_VOLUME: parameters.ExtendVolume("data", 20, 10),
    Action.ATTACH_VOLUME: parameters.AttachVolume("data", "/dev/vdb"),
    Action.DETACH_VOLUME: parameters.DetachVolume("data", "/dev/vdb"),
    Action.ATTACH_INTERFACE: parameters.Interface("private", "10.0.0.9"),
    Action.DETACH_INTERFACE: parameters.Interface("private", "10.0.0.9"),
}
CONTROLS: dict[Action, Control] = {
    Action.RESIZE: Control(confirm_window=0),
    Action.EXTEND_VOLUME: Control(was=VolumeStatus.AVAILABLE),
}
INPUTS: dict[Action, dict[str, Any]] = {
    action: to_json(of_action, CONTROLS.get(action, NO_CONTROL)) for action, of_action in PARAMETERS.items()
}
"""What `operations.input` holds for each action."""
OPEN = {OperationStatus.QUEUED, OperationStatus.RUNNING}


async def add_user(tx: AsyncConnection, username: str | None = None, role: Role = Role.USER) -> User:
    """Add a user. The password hash is not a real one, so a login with it fails."""
    name = username or f"user-{uuid4().hex[:12]}"
    row = {"username": name, "email": f"{name}@example.com", "password_hash": "none", "role": role}
    return await queries.insert_row(tx, User, **row)


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
    device: str | None = "/dev/vdb",
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
    ip_address: str | None = "10.0.0.9",
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


async def note_vms_changed(tx: AsyncConnection) -> None:
    """Update the rows of all VMs, as a transaction has to that changes their interfaces or attachments."""
    await tx.execute(update(VM).values(attaching=VM.attaching))


def new_operation(action: Action, **values: Any) -> NewOperation:
    """An operation that is about to be accepted, with parameters that suit its action."""
    wanted, control = PARAMETERS.get(action, NO_PARAMETERS), CONTROLS.get(action, NO_CONTROL)
    return NewOperation(action, "test", "test-request", wanted, control, **values)


async def claim(tx: AsyncConnection, vm_id: UUID, action: Action) -> Operation:
    """Accept an action as the API does: lock the VM, check the table, update the VM, insert the operation."""
    vm = await queries.lock_vm(tx, vm_id)
    assert vm is not None
    if action in {Action.CONFIRM_RESIZE, Action.REVERT_RESIZE}:
        requester = Requester(vm.owner_id, "test", "test-request")
        operation_id = (await decide_resize(tx, requester, vm_id, action)).operation_id
    else:
        new = new_operation(action)
        await acceptance.accept(tx, vm, new)
        operation_id = new.id
    return await queries.get_operation(tx, operation_id)


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
