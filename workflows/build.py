"""The making of a VM."""

from temporalio import workflow

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity, OperationInput
from workflows.steps import Left, OperationWorkflow


@workflow.defn
class CreateVM(OperationWorkflow):
    """Builds a VM's server; a build that fails leaves nothing behind in the cloud."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one create operation."""
        async with self.carrying_out(operation, aftermath=self._undo):
            await self.step(Activity.SCHEDULE_SERVER, operation, "Find a host")
            await self.step(Activity.CREATE_PORTS, operation, "Create the ports")
            await self.step(Activity.SPAWN_SERVER, operation, "Build the server")
            await self.wait_for_server(operation, ServerStatus.ACTIVE, "Wait for the server to be built")

    async def _undo(self, operation: OperationInput, _code: str) -> Left:
        refusal = await self.undo(Activity.UNDO_CREATE, operation, "Undo what was made")
        return Left(intact=bool(refusal), refusal=refusal)
