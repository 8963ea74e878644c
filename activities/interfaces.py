"""The steps on a VM's interfaces, and their undo steps. The cloud completes them in the call, so no wait follows."""

from sqlalchemy import select
from temporalio import activity

from activities.steps import StepActivities, port_of, undo_token
from domain.data.models import Interface
from domain.rules.cloud import PortState
from domain.rules.messages import Activity, OperationInput


class InterfaceActivities(StepActivities):
    """Steps on interfaces."""

    @activity.defn(name=Activity.CREATE_INTERFACE)
    async def create_interface(self, input: OperationInput) -> None:
        """Create a port with the interface's addresses and plug it into the VM's server."""
        operation, token = await self._record_running(input, Activity.CREATE_INTERFACE)
        # The interface's row lasts at least as long as the operation that creates it.
        interface = await self._fetch(select(Interface).where(Interface.id == operation.resource_id))
        await self._backend.create_server_interface(token, input.vm, port_of(interface))

    @activity.defn(name=Activity.UNDO_INTERFACE)
    async def undo_interface(self, input: OperationInput) -> None:
        """Revoke the operation, then remove the port from the VM's server, plugged in or not."""
        operation = await self._revoke(input)
        token = undo_token(input, Activity.UNDO_INTERFACE)
        await self._backend.delete_server_interface(token, input.vm, operation.resource_id)

    @activity.defn(name=Activity.DELETE_INTERFACE)
    async def delete_interface(self, input: OperationInput) -> None:
        """Unplug the port from the VM's server and remove it."""
        operation, token = await self._record_running(input, Activity.DELETE_INTERFACE)
        await self._backend.delete_server_interface(token, input.vm, operation.resource_id)

    @activity.defn(name=Activity.SETTLE_INTERFACE)
    async def settle_interface(self, input: OperationInput) -> PortState:
        """Revoke the operation, then return whether the VM's server still has the port."""
        operation = await self._revoke(input)
        has_port = operation.resource_id in await self._backend.list_ports([input.vm])
        return PortState.ACTIVE if has_port else PortState.GONE
