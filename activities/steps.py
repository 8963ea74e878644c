"""The base of every step: the step is recorded first, then the cloud is called.

The record is the fence. It is written only while the operation is open and holds its VM, so an operation that was
superseded stops here. The record commits before the call for two reasons: no lock is held while the cloud answers, and
after a crash the database never lags behind the cloud. After a crash between the two, the step is tried again. The
token of the call makes a second call harmless. What the cloud has chosen in the call, such as its own id, is written
last, behind the same fence.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.selectable import TypedReturnsRows
from temporalio import activity

from activities.backends.protocol import BackendError, ComputeBackend, Token
from activities.backends.resources import Port, PortSpec, Ref, Server, ServerSpec
from domain.data import addresses, database, queries
from domain.data.guests import UserData
from domain.data.models import VM, Attachment, CloudResource, Flavor, Interface, Operation, Snapshot, Volume
from domain.data.prepared import Prepared
from domain.progress import quick_records, step_records
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.errors import NotBegunError
from domain.rules.messages import ENTERS, Activity, OperationInput
from domain.rules.table import TABLE

T = TypeVar("T")

_ITS_DATA: Final = select(UserData.content).where(UserData.vm_id == bindparam("of_vm")).scalar_subquery()
_FLAVOR_AND_DATA: Final = Prepared(
    select(*Flavor.__table__.columns, _ITS_DATA.label("user_data")).where(Flavor.id == bindparam("flavor"))
)
_CLOUD_IDS: Final = {
    model: Prepared(select(model.cloud_id).where(model.id == bindparam("of_row")))
    for model in (VM, Volume, Snapshot, Interface)
}


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step that has been recorded: the rows after the record, and the token for the step's call to the cloud."""

    vm: VM
    operation: Operation
    token: Token


class StepActivities:
    """Base of the activities that change the cloud; each may run twice and has its effect once."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend) -> None:
        self._engine = engine
        self._autocommit = database.autocommit(engine)
        self._backend = backend

    async def _record_step(
        self, input: OperationInput, name: Activity, ports: Mapping[UUID, Port] | None = None
    ) -> RecordedStep:
        """Record that the operation's VM is in this step; SupersededError if the operation no longer holds it.

        Also note these `ports`, as `_note_ports` does.
        """
        return await self._record_first_of(input, name, ports=ports)

    async def _record_first_of(
        self, input: OperationInput, *names: Activity, ports: Mapping[UUID, Port] | None = None
    ) -> RecordedStep:
        """Record the first of these steps, unless an earlier attempt has come to a later one: then that again."""
        steps, attempt, found = [ENTERS[name] for name in names], activity.info().attempt, None
        if attempt == 1:
            found = await quick_records.enter_step(self._engine, input, steps[0], ports)
        if found is None:
            await self._note_ports(input, ports or {})
            async with self._engine.begin() as tx:
                found = await step_records.enter_step(tx, input, steps[0], attempt, later=steps[1:])
        vm, operation = found
        assert vm.task_state is not None  # noqa: S101 - it was just written
        return RecordedStep(vm, operation, Token(input.operation_id, vm.task_state))

    async def _record_running(self, input: OperationInput, name: Activity) -> tuple[Operation, Token]:
        """Record that the operation is running; for operations that do not hold a VM and so have no step."""
        async with self._engine.begin() as tx:
            operation = await step_records.enter(tx, input, activity.info().attempt)
        return operation, Token(input.operation_id, name)

    async def _revoke(self, input: OperationInput) -> Operation:
        """Make sure that none of the operation's calls takes effect from now on, and return the operation.

        SupersededError unless the operation is open and holds what it claimed. NotBegunError if no step was recorded:
        there is nothing to undo. A delete gets no NotBegunError, because it has superseded other operations.
        """
        async with self._engine.begin() as tx:
            await step_records.check_holds(tx, input)
        # Revoke before undoing anything: a call that is still running on a worker that lost contact would otherwise
        # create anew what the undo has just removed.
        await self._backend.revoke(input.operation_id)
        # Read `started_at` only now. A first step may still record itself until the revocation is in place. Read before
        # it, `started_at` could be None although a call has taken effect, and that effect would never be undone.
        operation = await self._fetch(select(Operation).where(Operation.id == input.operation_id))
        if not queries.has_begun(operation) and not TABLE[operation.action].preempts:
            raise NotBegunError("The operation ended before its first step.")
        return operation

    async def _check_holds_vm(self, input: OperationInput) -> tuple[VM, Operation]:
        """Return the VM and the operation that holds it; SupersededError if it no longer does."""
        async with self._engine.begin() as tx:
            vm, operation = await step_records.check_holds(tx, input)
        assert vm is not None  # noqa: S101 - called only for operations that hold a VM
        return vm, operation

    async def _server_of(self, vm: Ref) -> Server | None:
        """Return the VM's server, if it has one; a retryable BackendError while the cloud cannot tell how it is."""
        server = (await self._backend.list_servers([vm])).get(vm.id)
        if server is not None and server.status is ServerStatus.UNKNOWN:
            raise BackendError("cloud_unavailable", "The cloud cannot tell now how the server is.", retryable=True)
        return server

    async def _fetch(self, statement: TypedReturnsRows[T]) -> T:
        """Return the only row of a query that is known to find one."""
        async with self._autocommit.connect() as connection:
            row = await queries.fetch_one(connection, statement)
        assert row is not None  # noqa: S101 - an open operation names the row, so it is kept
        return row

    async def _note_created(
        self, input: OperationInput, model: type[CloudResource | Attachment], id: UUID, **chosen: str
    ) -> None:
        """Keep what the cloud has chosen for a resource that the operation creates, its id above all."""
        is_one_statement = model not in {Interface, Attachment}
        async with self._autocommit.connect() if is_one_statement else self._engine.begin() as tx:
            await step_records.note_created(tx, input, model, id, **chosen)

    async def _note_ports(self, input: OperationInput, ports: Mapping[UUID, Port]) -> None:
        """Keep what the cloud has chosen for these interfaces, which the operation creates."""
        if not ports:
            return
        try:
            if await quick_records.note_ports(self._engine, input, ports):
                return
        except IntegrityError as error:
            if not addresses.is_taken(error):
                raise
        async with self._engine.begin() as tx:
            for id, port in sorted(ports.items()):
                chosen = {"ip_address": port.ip_address, "mac_address": port.mac_address}
                await step_records.note_created(tx, input, Interface, id, cloud_id=port.cloud_id, **chosen)

    async def _server_spec(self, vm: VM, flavor_id: UUID) -> ServerSpec:
        """Return the spec of the VM's server with the size of this flavor."""
        return await self._spec_of(vm, await self._fetch(select(Flavor).where(Flavor.id == flavor_id)))

    async def _server_spec_and_user_data(self, vm: VM) -> tuple[ServerSpec, bytes | None]:
        """Return the spec of the VM's server, and what cloud-init gets in the VM.

        No message to Temporal has the latter, because it may hold secrets.
        """
        (found,) = await _FLAVOR_AND_DATA.fetch(self._engine, {"flavor": vm.flavor_id, "of_vm": vm.id})
        return await self._spec_of(vm, found), found.user_data

    async def _spec_of(self, vm: VM, flavor: Flavor) -> ServerSpec:
        image = image_ref(vm.image_id)
        if vm.snapshot_id is not None:
            image = await read_ref(self._engine, Snapshot, vm.snapshot_id)
        boot_volume = await read_ref(self._engine, Volume, vm.boot_volume_id) if vm.boot_volume_id else None
        ref = Ref(flavor.id, flavor.cloud_id or str(flavor.id))
        size = (flavor.vcpus, flavor.ram_mb, flavor.disk_gb)
        place = (vm.availability_zone, groups_of(vm))
        return ServerSpec(ref_of(vm), vm.name, ref, *size, image, boot_volume, *place)


def undo_token(input: OperationInput, name: Activity) -> Token:
    """Return the token of a call that undoes the operation.

    Undoing begins with revoking the operation, which refuses its tokens; one that compensates is still accepted.
    """
    return Token(input.operation_id, name, compensates=True)


def image_ref(id: UUID) -> Ref:
    """Return how the cloud is asked for an image of the catalogue, whose id is the cloud's."""
    return Ref(id, str(id))


def ref_of(row: CloudResource) -> Ref:
    """Return how the cloud is asked for the resource of a row."""
    return Ref(row.id, row.cloud_id)


async def read_ref(engine: AsyncEngine, model: type[CloudResource], id: UUID) -> Ref:
    """Return the same for the row with this id; the cloud is asked for its mark if there is no such row."""
    rows = await _CLOUD_IDS[model].fetch(engine, {"of_row": id})
    return Ref(id, rows[0].cloud_id if rows else None)


def groups_of(vm: VM) -> tuple[str, ...]:
    """Return the security groups that the VM was created with, by the cloud's ids."""
    return tuple(group["id"] for group in vm.security_groups or ())


def port_spec(interface: Interface, groups: tuple[str, ...] = ()) -> PortSpec:
    """Return the port that an interface should have. One that is attached later has the cloud's usual groups."""
    chosen = (interface.ip_address, interface.mac_address)
    return PortSpec(ref_of(interface), interface.network_id, *chosen, groups)


async def find_flavor(connection: AsyncConnection, vm_id: UUID, server: Server) -> UUID | None:
    """Return the server's flavor; None if it is not in the catalogue.

    If the cloud does not tell it, it is a flavor of the server's size, preferably the VM's own, or one that the cloud
    still has.
    """
    has_size = (Flavor.vcpus == server.vcpus, Flavor.ram_mb == server.ram_mb, Flavor.disk_gb == server.disk_gb)
    is_it = [Flavor.id == server.flavor_id] if server.flavor_id else has_size
    # False sorts before true, so the VM's own flavor comes first.
    preference = (Flavor.id != VM.flavor_id, Flavor.is_available.is_(False), Flavor.name)
    matches = select(Flavor.id).where(*is_it).join(VM, VM.id == vm_id).order_by(*preference)
    flavor_id: UUID | None = await connection.scalar(matches.limit(1))
    return flavor_id


def check_size(server: Server | None, spec: ServerSpec) -> None:
    """Raise a BackendError if the server does not have the size of the spec."""
    if server is None or not server.has_size_of(spec):
        message = "The cloud finished, but the server does not have the size of the expected flavor."
        raise BackendError("resize_not_applied", message, retryable=False)


async def check_released(backend: ComputeBackend, vm: Ref, volumes: Collection[Ref]) -> None:
    """Raise a retryable BackendError while the cloud still has the server, or has not released its volumes."""
    if vm.id in await backend.list_servers([vm]):
        raise BackendError("server_there", "The cloud has not removed the server yet.", retryable=True)
    for listed in (await backend.list_volumes(volumes)).values():
        if listed.vm_id == vm.id or listed.state in {VolumeState.ATTACHING, VolumeState.DETACHING}:
            message = f"The cloud has not released the volume yet; it is still {listed.state}."
            raise BackendError("volume_in_use", message, retryable=True)


async def check_detached(backend: ComputeBackend, vm: Ref, volume: Ref) -> None:
    """Raise a retryable BackendError while the cloud still shows the volume at the VM."""
    listed = (await backend.list_volumes([volume])).get(volume.id)
    if listed is not None and listed.vm_id == vm.id:
        message = f"The cloud has not released the volume yet; it is still {listed.state}."
        raise BackendError("volume_in_use", message, retryable=True)
