"""Running operations as their activities find them, with the resources that they claim and those in the cloud."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import Token
from activities.backends.resources import Ref
from domain.data import queries
from domain.data.models import VM, Volume
from domain.progress import step_records, workflow_input
from domain.rules.messages import FailOperationInput, OperationInput
from domain.rules.resources import AttachmentStatus, Change, Kind
from domain.rules.states import Action, Status
from domain.rules.table import TABLE
from tests.activities.cloud import DEVICE, add_server, complete_changes, port
from tests.support.rows import add_attachment, add_interface, add_operation, add_snapshot, add_user, add_vm, claim


async def add_pending_interface(engine: AsyncEngine, input: OperationInput, network: str = "private") -> UUID:
    """Add an interface that the operation creates for its VM."""
    id = uuid4()
    async with engine.begin() as tx:
        vm = await queries.lock_vm(tx, input.vm)
        assert vm is not None
        claimed: dict[str, Any] = {"status": AttachmentStatus.ATTACHING, "operation_id": input.operation_id}
        await add_interface(tx, vm, f"ip-{id}", network=network, id=id, **claimed)
    return id


async def add_claiming_operation(
    engine: AsyncEngine, action: Action, *, previous: Status = Status.ACTIVE
) -> OperationInput:
    """Add a running operation with the resources it claims, as the table says; return its workflow's input."""
    rule, resource_id = TABLE[action], uuid4()
    kind = rule.changes[0].kind
    async with engine.begin() as tx:
        is_attachment = rule.is_on_vm and not rule.steps
        step = rule.steps[0] if rule.steps else None
        vm = await add_vm(tx, await add_user(tx), status=previous, task_state=step, attaching=int(is_attachment))
        values: dict[str, Any] = {"resource_type": kind, "resource_id": resource_id, "started_at": datetime.now(UTC)}
        values |= {} if step else {"previous_status": None}
        values |= {"vm_id": None} if kind is Kind.VOLUME and not rule.is_on_vm else {}
        operation = await add_operation(tx, vm, action, holds=bool(step), **values)
        for change in rule.changes:
            await _add_claimed(tx, vm, change, resource_id, operation.id)
    return workflow_input.input_of(operation, vm.name)


async def _add_claimed(tx: AsyncConnection, vm: VM, change: Change, id: UUID, operation_id: UUID) -> None:
    """Add the resource in the status it has during the change; an attachment has the id of its volume."""
    claimed: dict[str, Any] = {"status": change.during, "operation_id": operation_id}
    match change.kind:
        case Kind.SNAPSHOT:
            await add_snapshot(tx, vm, id=id, **claimed)
        case Kind.VOLUME:
            await queries.insert_row(tx, Volume, id=id, owner_id=vm.owner_id, name="data", size_gb=10, **claimed)
        case Kind.ATTACHMENT:
            volume = await queries.fetch_one(tx, select(Volume).where(Volume.id == id))
            assert volume is not None
            await add_attachment(tx, vm, volume, **claimed)
        case _:
            await add_interface(tx, vm, id=id, **claimed)


async def prepare_operation(engine: AsyncEngine, cloud: MockBackend, action: Action, **values: Any) -> OperationInput:
    """Do the same as `add_claiming_operation`, and create in the cloud what the action works on."""
    input = await add_claiming_operation(engine, action, **values)
    vm_id = input.vm_id or uuid4()
    await add_server(engine, cloud, vm_id)
    if input.previous_status is Status.SHUTOFF:
        await cloud.stop_server(Token(uuid4(), "powering_off"), Ref(vm_id))
        await complete_changes(engine, cloud, vm_id)
    await _create_in_cloud(cloud, action, vm_id, input.resource)
    await complete_changes(engine, cloud, vm_id)
    return input


async def _create_in_cloud(cloud: MockBackend, action: Action, vm_id: UUID, id: UUID) -> None:
    token = Token(uuid4(), "create")
    if action in {Action.RESTORE, Action.DELETE_SNAPSHOT}:
        await cloud.create_server_image(token, Ref(vm_id), id, "before")
    if action in {Action.DELETE_VOLUME, Action.EXTEND_VOLUME, Action.ATTACH_VOLUME, Action.DETACH_VOLUME}:
        await cloud.create_volume(token, id, "data", 10)
    if action is Action.DETACH_VOLUME:
        await cloud.attach_volume(Token(uuid4(), "attach"), Ref(vm_id), Ref(id), DEVICE)
    if action is Action.DETACH_INTERFACE:
        await cloud.create_server_interface(token, Ref(vm_id), port(id))


async def supersede(engine: AsyncEngine, input: OperationInput) -> None:
    """Let a delete of the VM supersede the operation; one without a VM is ended without its workflow's knowledge."""
    async with engine.begin() as tx:
        if TABLE[input.action].is_on_vm:
            await claim(tx, input.vm, Action.DELETE)
        else:
            await step_records.fail(tx, FailOperationInput(input, "timed_out", "A step did not succeed in time."))
