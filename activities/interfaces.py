"""The steps on a VM's interfaces, and their undo steps. The cloud completes them in the call, so no wait follows."""

from sqlalchemy import select
from temporalio import activity

from activities import ports
from activities.backends.protocol import Token
from activities.steps import StepActivities, port_spec, read_ref, undo_token
from domain.data.models import VM, Interface, Operation
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
        vm = await read_ref(self._engine, VM, input.vm)
        port = await self._backend.create_server_interface(token, vm, port_spec(interface))
        await self._note_ports(input, {interface.id: port})

    @activity.defn(name=Activity.UNDO_INTERFACE)
    async def undo_interface(self, input: OperationInput) -> None:
        """Revoke the operation, then remove the port from the VM's server, plugged in or not."""
        operation = await self._revoke(input)
        await self._delete(input, operation, undo_token(input, Activity.UNDO_INTERFACE))

    @activity.defn(name=Activity.DELETE_INTERFACE)
    async def delete_interface(self, input: OperationInput) -> None:
        """Unplug the port from the VM's server and remove it."""
        operation, token = await self._record_running(input, Activity.DELETE_INTERFACE)
        await self._delete(input, operation, token)

    @activity.defn(name=Activity.SETTLE_INTERFACE)
    async def settle_interface(self, input: OperationInput) -> PortState:
        """Revoke the operation, then return whether the VM's server still has the port."""
        operation = await self._revoke(input)
        interface = await self._fetch(select(Interface).where(Interface.id == operation.resource_id))
        plugged = await self._backend.list_ports([await read_ref(self._engine, VM, input.vm)])
        return PortState.ACTIVE if ports.by_interface(plugged, [interface]) else PortState.GONE

    async def _delete(self, input: OperationInput, operation: Operation, token: Token) -> None:
        vm = await read_ref(self._engine, VM, input.vm)
        port = await read_ref(self._engine, Interface, operation.resource_id)
        await self._backend.delete_server_interface(token, vm, port)
