"""Interfaces: a VM's places in networks, given and taken."""

from types import NoneType

from temporalio import workflow

from domain.messages import Activity, OperationInput, PortState
from workflows.steps import Left, OperationWorkflow


@workflow.defn
class AttachInterface(OperationWorkflow):
    """Plugs a port into a VM's server; one that fails is removed, and its addresses are given back."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one attach-interface operation."""
        async with self.carrying_out(operation, aftermath=self._undo):
            await self.step(Activity.CREATE_INTERFACE, operation, "Plug the port in")

    async def _undo(self, operation: OperationInput, _code: str) -> Left:
        await self.insist(Activity.UNDO_INTERFACE, operation, "Take the port from the server", NoneType)
        return Left()


@workflow.defn
class DetachInterface(OperationWorkflow):
    """Takes a port from a VM's server, and with it its addresses; one that fails stays."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one detach-interface operation."""
        async with self.carrying_out(operation, aftermath=self._look, arrives=PortState.GONE):
            await self.step(Activity.DELETE_INTERFACE, operation, "Take the port from the server")

    async def _look(self, operation: OperationInput, _code: str) -> Left:
        summary = "See whether the port is still there"
        return Left(await self.insist(Activity.SETTLE_INTERFACE, operation, summary, PortState))
