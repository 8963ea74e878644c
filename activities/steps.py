"""What every step begins with: it records itself, and only then has the cloud do something.

Recording the step is the fence: an operation that lost its VM is stopped there, before any effect.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio import activity

from activities.backends.protocol import BackendError, ComputeBackend, Port, Server, ServerSpec, Token
from domain.data import database, queries
from domain.data.models import VM, Flavor, Interface, Operation
from domain.progress import step_records
from domain.rules.errors import NotBegunError
from domain.rules.messages import ENTERS, Activity, OperationInput
from domain.rules.table import TABLE


@dataclass(frozen=True, slots=True)
class Entered:
    """A step that has been recorded: the rows as they are now, and the token of the step's effect."""

    vm: VM
    operation: Operation
    token: Token


class StepActivities:
    """Activities that change the cloud; each may run twice and does its work once."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend) -> None:
        self._engine = engine
        self._backend = backend

    async def _enter(self, input: OperationInput, name: Activity) -> Entered:
        step = ENTERS[name]
        async with self._engine.begin() as tx:
            vm, operation = await step_records.enter_step(tx, input, step, activity.info().attempt)
        return Entered(vm, operation, Token(input.operation_id, step))

    async def _begin(self, input: OperationInput, name: Activity) -> tuple[Operation, Token]:
        """As `_enter`, for an operation that takes no VM."""
        async with self._engine.begin() as tx:
            operation = await step_records.enter(tx, input, activity.info().attempt)
        return operation, Token(input.operation_id, name)

    async def _revoke(self, input: OperationInput) -> Operation:
        """See to it that no call of the operation takes effect any more.

        SupersededError unless it holds its VM, NotBegunError where it made none, unless others had to make way for it.
        """
        async with self._engine.begin() as tx:
            await step_records.check_holds(tx, input)
        await self._backend.revoke(input.operation_id)
        # Only now: a step may still begin until then, and have no effect from then on.
        async with database.autocommit(self._engine).connect() as connection:
            mine = select(Operation).where(Operation.id == input.operation_id)
            operation = await queries.fetch_one(connection, mine)
        assert operation is not None  # noqa: S101 - operations are never deleted
        if operation.started_at is None and not TABLE[operation.action].preempts:
            raise NotBegunError("The operation ended before its first step.")
        return operation

    async def _spec(self, vm: VM, flavor_id: UUID) -> ServerSpec:
        async with database.autocommit(self._engine).connect() as connection:
            flavor = await queries.fetch_one(connection, select(Flavor).where(Flavor.id == flavor_id))
        assert flavor is not None  # noqa: S101 - a foreign key says so
        return ServerSpec(vm.id, vm.name, flavor.vcpus, flavor.ram_mb, flavor.disk_gb, vm.image_id)


def undoing(input: OperationInput, name: Activity) -> Token:
    """The token of a call that undoes what the operation did, though the operation is revoked."""
    return Token(input.operation_id, name, compensates=True)


def port_of(interface: Interface) -> Port:
    """The port of an interface, which it shares its id with."""
    return Port(interface.id, interface.network_id, interface.ip_address, interface.mac_address)


async def flavor_of(connection: AsyncConnection, vm_id: UUID, server: Server) -> UUID | None:
    """The flavor that a server has, be it the VM's or another; None where none is of its size."""
    has_size = (Flavor.vcpus == server.vcpus, Flavor.ram_mb == server.ram_mb, Flavor.disk_gb == server.disk_gb)
    of_vm = select(Flavor.id).where(*has_size).join(VM, VM.id == vm_id).order_by(Flavor.id != VM.flavor_id)
    flavor_id: UUID | None = await connection.scalar(of_vm.limit(1))
    return flavor_id


async def check_free(backend: ComputeBackend, vm_id: UUID, volume_id: UUID) -> None:
    """BackendError, for another try, while the cloud has not yet freed the volume from the VM."""
    volume = (await backend.list_volumes([volume_id])).get(volume_id)
    if volume is not None and volume.vm_id == vm_id:
        raise BackendError("volume_in_use", f"The volume is still {volume.state}.", retryable=True)
