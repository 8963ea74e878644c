"""What operations hold beside a VM: rows of it, what the cloud has for it, and all that the cloud has."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.backends.mock import schema
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import images, servers
from activities.backends.protocol import Port, Token
from domain.data import queries
from domain.data.models import VM, Volume
from domain.progress import step_records, workflow_input
from domain.rules.cloud import ServerStatus
from domain.rules.messages import FailOperationInput, OperationInput
from domain.rules.resources import AttachmentStatus, Change, Kind
from domain.rules.states import Action, Status
from domain.rules.table import TABLE
from tests.activities.conftest import spec
from tests.support.rows import (
    IMAGE_IDS,
    NETWORK_IDS,
    add_attachment,
    add_interface,
    add_operation,
    add_snapshot,
    add_user,
    add_vm,
    claim,
)

DEVICE = "/dev/vdb"
KINDS = ("servers", "ports", "images", "volumes", "migrations")
IMAGE_OF_BUILD = IMAGE_IDS["cirros-0.6.3"]
Cloud = dict[str, list[tuple[object, ...]]]


async def add_port_to_be(engine: AsyncEngine, input: OperationInput, network: str = "private") -> UUID:
    """An interface that the operation makes for its VM."""
    id = uuid4()
    async with engine.begin() as tx:
        vm = await queries.lock_vm(tx, input.vm)
        assert vm is not None
        by: dict[str, Any] = {"status": AttachmentStatus.ATTACHING, "operation_id": input.operation_id}
        await add_interface(tx, vm, f"ip-{id}", network=network, id=id, **by)
    return id


async def _add(tx: AsyncConnection, vm: VM, change: Change, id: UUID, operation_id: UUID) -> None:
    """What the operation holds, as it is meanwhile; of an attachment, `id` is its volume's."""
    held: dict[str, Any] = {"status": change.during, "operation_id": operation_id}
    match change.kind:
        case Kind.SNAPSHOT:
            await add_snapshot(tx, vm, id=id, **held)
        case Kind.VOLUME:
            await queries.insert_row(tx, Volume, id=id, owner_id=vm.owner_id, name="data", size_gb=10, **held)
        case Kind.ATTACHMENT:
            volume = await queries.fetch_one(tx, select(Volume).where(Volume.id == id))
            assert volume is not None
            await add_attachment(tx, vm, volume, **held)
        case _:
            await add_interface(tx, vm, id=id, **held)


async def add_held(engine: AsyncEngine, action: Action, *, previous: Status = Status.ACTIVE) -> OperationInput:
    """A running operation that holds a resource as the table says; what its workflow was given."""
    rule, resource_id = TABLE[action], uuid4()
    kind = rule.changes[0].kind
    async with engine.begin() as tx:
        is_attachment = rule.of_vm and not rule.steps
        step = rule.steps[0] if rule.steps else None
        vm = await add_vm(tx, await add_user(tx), status=previous, task_state=step, attaching=int(is_attachment))
        about: dict[str, Any] = {"resource_type": kind, "resource_id": resource_id, "started_at": datetime.now(UTC)}
        about |= {} if step else {"previous_status": None}
        about |= {"vm_id": None} if kind is Kind.VOLUME and not rule.of_vm else {}
        operation = await add_operation(tx, vm, action, holds=bool(step), **about)
        for change in rule.changes:
            await _add(tx, vm, change, resource_id, operation.id)
    return workflow_input.input_of(operation, vm.name)


async def add_server(engine: AsyncEngine, cloud: MockBackend, vm_id: UUID, flavor: str = "m1.small") -> None:
    """A server that is ACTIVE."""
    await cloud.create_server(Token(uuid4(), "spawning"), spec(vm_id, flavor))
    await be_due(engine, cloud, vm_id)


async def be_due(engine: AsyncEngine, cloud: MockBackend, vm_id: UUID) -> ServerStatus:
    """Whatever the VM's server and its images wait for is over; what the server then shows."""
    async with engine.begin() as tx:
        begun = (servers.c.vm_id == vm_id, servers.c.due_at.is_not(None))
        await tx.execute(update(servers).where(*begun).values(due_at=func.now()))
        await tx.execute(update(images).where(images.c.vm_id == vm_id).values(due_at=func.now()))
    server = (await cloud.list_servers([vm_id])).get(vm_id)
    return server.status if server else ServerStatus.GONE


async def ready(engine: AsyncEngine, cloud: MockBackend, action: Action, **values: Any) -> OperationInput:
    """As `add_held`, with what the action needs in the cloud, where everything is at rest."""
    input = await add_held(engine, action, **values)
    vm_id = input.vm_id or uuid4()
    await add_server(engine, cloud, vm_id)
    if input.previous_status is Status.SHUTOFF:
        await cloud.stop_server(Token(uuid4(), "powering_off"), vm_id)
    await _provide(cloud, action, vm_id, input.resource)
    await be_due(engine, cloud, vm_id)
    return input


async def _provide(cloud: MockBackend, action: Action, vm_id: UUID, id: UUID) -> None:
    token = Token(uuid4(), "provide")
    if action in {Action.RESTORE, Action.DELETE_SNAPSHOT}:
        await cloud.create_server_image(token, vm_id, id, "before")
    if action in {Action.DELETE_VOLUME, Action.ATTACH_VOLUME, Action.DETACH_VOLUME}:
        await cloud.create_volume(token, id, "data", 10)
    if action is Action.DETACH_VOLUME:
        await cloud.attach_volume(Token(uuid4(), "attach"), vm_id, id, DEVICE)
    if action is Action.DETACH_INTERFACE:
        await cloud.create_server_interface(token, vm_id, port(id))


def port(id: UUID, ip_address: str = "10.0.0.9", mac_address: str = "fa:16:3e:00:00:09") -> Port:
    """A port in the private network."""
    return Port(id, NETWORK_IDS["private"], ip_address, mac_address)


async def all_of(engine: AsyncEngine, *kinds: str) -> Cloud:
    """All that the mock cloud has, or all of some kinds."""
    tables = {kind: schema.metadata.tables[f"{schema.SCHEMA}.{kind}"] for kind in kinds or KINDS}
    async with engine.connect() as connection:
        return {
            kind: sorted((tuple(row) for row in await connection.execute(select(table))), key=str)
            for kind, table in tables.items()
        }


async def content_of(engine: AsyncEngine, vm_id: UUID) -> str | None:
    """What the guest wrote to the disk of the VM's server."""
    async with engine.connect() as connection:
        content: str | None = await connection.scalar(select(servers.c.content).where(servers.c.vm_id == vm_id))
    return content


async def supersede(engine: AsyncEngine, input: OperationInput) -> None:
    """A delete of the VM takes over; what no delete takes over from is ended behind its back."""
    async with engine.begin() as tx:
        if TABLE[input.action].of_vm:
            await claim(tx, input.vm, Action.DELETE)
        else:
            await step_records.fail(tx, FailOperationInput(input, "timed_out", "A step did not succeed in time."))
