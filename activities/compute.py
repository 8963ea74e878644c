"""The steps of building, powering and deleting servers."""

from uuid import UUID

from temporalio import activity

from activities.steps import StepActivities
from domain.messages import Activity, OperationInput


class ComputeActivities(StepActivities):
    """Steps on a VM's server, and the undoing of a build."""

    @activity.defn(name=Activity.SCHEDULE_SERVER)
    async def schedule_server(self, input: OperationInput) -> None:
        """Find a host for the VM's flavor; `no_valid_host` where none can hold it."""
        entered = await self._enter(input, Activity.SCHEDULE_SERVER)
        await self._backend.select_host(entered.token, await self._spec(entered.vm, entered.vm.flavor_id))

    @activity.defn(name=Activity.CREATE_PORTS)
    async def create_ports(self, input: OperationInput) -> None:
        """Make the VM's ports on the networks that were asked for."""
        entered = await self._enter(input, Activity.CREATE_PORTS)
        networks = [UUID(id) for id in entered.operation.input["network_ids"]]
        await self._backend.create_ports(entered.token, input.vm_id, networks)

    @activity.defn(name=Activity.SPAWN_SERVER)
    async def spawn_server(self, input: OperationInput) -> None:
        """Begin to build the VM's server."""
        entered = await self._enter(input, Activity.SPAWN_SERVER)
        await self._backend.create_server(entered.token, await self._spec(entered.vm, entered.vm.flavor_id))

    @activity.defn(name=Activity.START_SERVER)
    async def start_server(self, input: OperationInput) -> None:
        """Begin to power the server on."""
        entered = await self._enter(input, Activity.START_SERVER)
        await self._backend.start_server(entered.token, input.vm_id)

    @activity.defn(name=Activity.STOP_SERVER)
    async def stop_server(self, input: OperationInput) -> None:
        """Begin to shut the server down."""
        entered = await self._enter(input, Activity.STOP_SERVER)
        await self._backend.stop_server(entered.token, input.vm_id)

    @activity.defn(name=Activity.REBOOT_SERVER)
    async def reboot_server(self, input: OperationInput) -> None:
        """Begin to reboot the server as its guest would."""
        entered = await self._enter(input, Activity.REBOOT_SERVER)
        await self._backend.reboot_server(entered.token, input.vm_id, hard=False)

    @activity.defn(name=Activity.REBOOT_SERVER_HARD)
    async def reboot_server_hard(self, input: OperationInput) -> None:
        """Begin to reboot the server by its power."""
        entered = await self._enter(input, Activity.REBOOT_SERVER_HARD)
        await self._backend.reboot_server(entered.token, input.vm_id, hard=True)

    @activity.defn(name=Activity.DELETE_SERVER)
    async def delete_server(self, input: OperationInput) -> None:
        """Begin to delete the server and everything made for the VM."""
        entered = await self._enter(input, Activity.DELETE_SERVER)
        await self._backend.delete_server(entered.token, input.vm_id)

    @activity.defn(name=Activity.UNDO_CREATE)
    async def undo_create(self, input: OperationInput) -> None:
        """Remove what a failed build made, after making sure that none of its calls can still take effect."""
        await self._revoke(input)
        await self._backend.purge(input.vm_id)
