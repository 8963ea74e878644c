"""What every step begins with: it records itself, and only then has the cloud do something.

Recording the step is the fence: an operation that lost its VM is stopped there, before any effect.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.backends.protocol import ComputeBackend, ServerSpec, Token
from domain import database, store
from domain.messages import ENTERS, Activity, OperationInput
from domain.models import VM, Flavor, Operation


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
            vm, operation = await store.enter_step(tx, input, step, activity.info().attempt)
        return Entered(vm, operation, Token(input.operation_id, step))

    async def _revoke(self, input: OperationInput) -> None:
        """See to it that no call of the operation takes effect any more; SupersededError unless it holds its VM."""
        async with self._engine.begin() as tx:
            await store.check_holds(tx, input)
        await self._backend.revoke(input.operation_id)

    async def _spec(self, vm: VM, flavor_id: UUID) -> ServerSpec:
        async with database.reads(self._engine).connect() as connection:
            flavor = await store.fetch_one(connection, select(Flavor).where(Flavor.id == flavor_id))
        assert flavor is not None  # noqa: S101 - a foreign key says so
        return ServerSpec(vm.id, vm.name, flavor.vcpus, flavor.ram_mb, flavor.disk_gb, vm.image_id)
