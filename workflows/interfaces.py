"""Interfaces: a VM's places in networks, given and taken."""

from dataclasses import replace

from temporalio import workflow

from domain.rules.cloud import PortState
from domain.rules.messages import Activity, OperationInput
from workflows.steps import Left, OperationWorkflow


class _OnPort(OperationWorkflow):
    async def see_port(self, operation: OperationInput, _code: str) -> Left:
        """See whether the port is there."""
        summary = "See whether the port is there"
        return Left(await self.insist(Activity.SETTLE_INTERFACE, operation, summary, PortState))


@workflow.defn
class AttachInterface(_OnPort):
    """Plugs a port into a VM's server; one that fails is removed, unless the cloud refuses that."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one attach-interface operation."""
        async with self.carrying_out(operation, aftermath=self._undo, arrives=PortState.ACTIVE):
            await self.step(Activity.CREATE_INTERFACE, operation, "Plug the port in")

    async def _undo(self, operation: OperationInput, code: str) -> Left:
        refusal = await self.undo(Activity.UNDO_INTERFACE, operation, "Take the port from the server")
        return replace(await self.see_port(operation, code), refusal=refusal) if refusal else Left()


@workflow.defn
class DetachInterface(_OnPort):
    """Takes a port from a VM's server, and with it its addresses; one that fails stays."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one detach-interface operation."""
        async with self.carrying_out(operation, aftermath=self.see_port, arrives=PortState.GONE):
            await self.step(Activity.DELETE_INTERFACE, operation, "Take the port from the server")
