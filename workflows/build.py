"""Create a VM."""

from temporalio import workflow

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity, OperationInput
from domain.rules.table import Residue
from workflows.steps import Aftermath, OperationWorkflow


@workflow.defn
class CreateVM(OperationWorkflow):
    """Builds a VM's server. A failed build is removed from the cloud."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a create operation."""
        async with self.carrying_out(operation, after_failure=self._undo):
            await self.step(Activity.SCHEDULE_SERVER, operation, "Record that the build begins")
            await self.step(Activity.CREATE_PORTS, operation, "Create the ports")
            await self.step(Activity.SPAWN_SERVER, operation, "Build the server")
            await self.wait_for_server(operation, ServerStatus.ACTIVE, "Wait for the server to be built")

    async def _undo(self, operation: OperationInput, _code: str) -> Aftermath:
        error = await self.undo(Activity.UNDO_CREATE, operation, "Remove the server and its ports")
        return Aftermath(residue=Residue.STILL_THERE if error else Residue.UNKNOWN, undo_error=error)
