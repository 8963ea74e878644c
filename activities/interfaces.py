"""The steps on a VM's interfaces, which a cloud does at once, and the undoing of what is half done."""

from sqlalchemy import select
from temporalio import activity

from activities.steps import StepActivities, port_of, undoing
from domain.data import database, queries
from domain.data.models import Interface
from domain.rules.cloud import PortState
from domain.rules.messages import Activity, OperationInput


class InterfaceActivities(StepActivities):
    """Steps on interfaces."""

    @activity.defn(name=Activity.CREATE_INTERFACE)
    async def create_interface(self, input: OperationInput) -> None:
        """Plug a port with the interface's addresses into the VM's server."""
        operation, token = await self._begin(input, Activity.CREATE_INTERFACE)
        async with database.autocommit(self._engine).connect() as connection:
            mine = select(Interface).where(Interface.id == operation.resource_id)
            interface = await queries.fetch_one(connection, mine)
        assert interface is not None  # noqa: S101 - its row goes only with the operation's end
        await self._backend.create_server_interface(token, input.vm, port_of(interface))

    @activity.defn(name=Activity.UNDO_INTERFACE)
    async def undo_interface(self, input: OperationInput) -> None:
        """Take the port from the VM's server, whether or not it got there."""
        operation = await self._revoke(input)
        token = undoing(input, Activity.UNDO_INTERFACE)
        await self._backend.delete_server_interface(token, input.vm, operation.resource_id)

    @activity.defn(name=Activity.DELETE_INTERFACE)
    async def delete_interface(self, input: OperationInput) -> None:
        """Take the port from the VM's server."""
        operation, token = await self._begin(input, Activity.DELETE_INTERFACE)
        await self._backend.delete_server_interface(token, input.vm, operation.resource_id)

    @activity.defn(name=Activity.SETTLE_INTERFACE)
    async def settle_interface(self, input: OperationInput) -> PortState:
        """Refuse the operation's further calls, and say whether the port is still there."""
        operation = await self._revoke(input)
        is_there = operation.resource_id in await self._backend.list_ports(input.vm)
        return PortState.ACTIVE if is_there else PortState.GONE
