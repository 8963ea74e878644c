"""The steps of operations on servers: record the step, then have the cloud do it.

Recording the step is the fence: an operation that lost its VM is stopped there, before any effect.
"""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.backends.protocol import ComputeBackend, ServerSpec, Token
from domain import database, store
from domain.lifecycle import TaskState
from domain.messages import Activity, OperationInput
from domain.models import VM, Flavor, Operation


class ComputeActivities:
    """Activities that change the cloud; each may run twice and does its work once."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend) -> None:
        self._engine = engine
        self._backend = backend

    @activity.defn(name=Activity.SCHEDULE_SERVER)
    async def schedule_server(self, input: OperationInput) -> None:
        """Find a host for the VM's flavor; `no_valid_host` where none can hold it."""
        vm, _ = await self._enter(input, TaskState.SCHEDULING)
        await self._backend.select_host(_token(input, TaskState.SCHEDULING), await self._spec(vm))

    @activity.defn(name=Activity.CREATE_PORTS)
    async def create_ports(self, input: OperationInput) -> None:
        """Make the VM's ports on the networks that were asked for."""
        vm, operation = await self._enter(input, TaskState.NETWORKING)
        networks = [UUID(id) for id in operation.input["network_ids"]]
        await self._backend.create_ports(_token(input, TaskState.NETWORKING), vm.id, networks)

    @activity.defn(name=Activity.SPAWN_SERVER)
    async def spawn_server(self, input: OperationInput) -> None:
        """Begin to build the VM's server."""
        vm, _ = await self._enter(input, TaskState.SPAWNING)
        await self._backend.create_server(_token(input, TaskState.SPAWNING), await self._spec(vm))

    @activity.defn(name=Activity.START_SERVER)
    async def start_server(self, input: OperationInput) -> None:
        """Begin to power the server on."""
        await self._enter(input, TaskState.POWERING_ON)
        await self._backend.start_server(_token(input, TaskState.POWERING_ON), input.vm_id)

    @activity.defn(name=Activity.STOP_SERVER)
    async def stop_server(self, input: OperationInput) -> None:
        """Begin to shut the server down."""
        await self._enter(input, TaskState.POWERING_OFF)
        await self._backend.stop_server(_token(input, TaskState.POWERING_OFF), input.vm_id)

    @activity.defn(name=Activity.REBOOT_SERVER)
    async def reboot_server(self, input: OperationInput) -> None:
        """Begin to reboot the server as its guest would."""
        await self._enter(input, TaskState.REBOOTING)
        await self._backend.reboot_server(_token(input, TaskState.REBOOTING), input.vm_id, hard=False)

    @activity.defn(name=Activity.REBOOT_SERVER_HARD)
    async def reboot_server_hard(self, input: OperationInput) -> None:
        """Begin to reboot the server by its power."""
        await self._enter(input, TaskState.REBOOTING_HARD)
        await self._backend.reboot_server(_token(input, TaskState.REBOOTING_HARD), input.vm_id, hard=True)

    @activity.defn(name=Activity.DELETE_SERVER)
    async def delete_server(self, input: OperationInput) -> None:
        """Begin to delete the server and everything made for the VM."""
        await self._enter(input, TaskState.DELETING)
        await self._backend.delete_server(_token(input, TaskState.DELETING), input.vm_id)

    @activity.defn(name=Activity.UNDO_CREATE)
    async def undo_create(self, input: OperationInput) -> None:
        """Remove what a failed build made, after making sure that none of its calls can still take effect."""
        async with self._engine.begin() as tx:
            await store.check_holds(tx, input)
        await self._backend.revoke(input.operation_id)
        await self._backend.purge(input.vm_id)

    async def _enter(self, input: OperationInput, step: TaskState) -> tuple[VM, Operation]:
        async with self._engine.begin() as tx:
            return await store.enter_step(tx, input, step, activity.info().attempt)

    async def _spec(self, vm: VM) -> ServerSpec:
        async with database.reads(self._engine).connect() as connection:
            flavor = await store.fetch_one(connection, select(Flavor).where(Flavor.id == vm.flavor_id))
        assert flavor is not None  # noqa: S101 - a foreign key says so
        return ServerSpec(vm.id, vm.name, flavor.vcpus, flavor.ram_mb, flavor.disk_gb, vm.image_id)


def _token(input: OperationInput, step: TaskState) -> Token:
    return Token(input.operation_id, step)
