"""Attach and detach network interfaces."""

from dataclasses import replace

from temporalio import workflow

from domain.rules.cloud import PortState
from domain.rules.messages import Activity, OperationInput
from workflows.outcomes import Aftermath
from workflows.steps import OperationWorkflow


class _InterfaceWorkflow(OperationWorkflow):
    async def observe_port(self, operation: OperationInput, _code: str) -> Aftermath:
        """Check whether the cloud has the port."""
        summary = "Check whether the port is there"
        return Aftermath(await self.run_until_done(Activity.SETTLE_INTERFACE, operation, summary, PortState))


@workflow.defn
class AttachInterface(_InterfaceWorkflow):
    """Attaches a port to a VM's server. After a failure the port is removed, unless the cloud refuses that."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out an attach-interface operation."""
        async with self.carrying_out(operation, after_failure=self._undo, success_state=PortState.ACTIVE):
            await self.step(Activity.CREATE_INTERFACE, operation, "Attach the port")

    async def _undo(self, operation: OperationInput, code: str) -> Aftermath:
        error = await self.undo(Activity.UNDO_INTERFACE, operation, "Detach the port")
        return replace(await self.observe_port(operation, code), undo_error=error) if error else Aftermath()


@workflow.defn
class DetachInterface(_InterfaceWorkflow):
    """Detaches a port, and its address, from a VM's server. After a failure the port stays attached."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a detach-interface operation."""
        async with self.carrying_out(operation, after_failure=self.observe_port, success_state=PortState.GONE):
            await self.step(Activity.DELETE_INTERFACE, operation, "Detach the port")
