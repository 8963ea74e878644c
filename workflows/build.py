"""Create a VM."""

from temporalio import workflow
from temporalio.exceptions import ActivityError

from domain.rules.cloud import ServerStatus
from domain.rules.errors import BUILD_AGAIN
from domain.rules.messages import Activity, OperationInput
from domain.rules.table import Residue
from workflows.errors import reason_of
from workflows.outcomes import Aftermath, Outcome
from workflows.steps import OperationWorkflow


@workflow.defn
class CreateVM(OperationWorkflow):
    """Builds a VM's server. A failed build is removed from the cloud."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a create operation."""
        async with self.carrying_out(operation, after_failure=self._undo) as outcome:
            steps = (Activity.SCHEDULE_SERVER, Activity.CREATE_PORTS, Activity.SPAWN_SERVER)
            if not await self.first_steps(steps, operation, "Create the ports, build the server"):
                await self.step(Activity.CREATE_PORTS, operation, "Create the ports")
                await self._spawn(operation)
            while not await self._is_built(operation, outcome):
                await self._spawn(operation)

    async def _spawn(self, operation: OperationInput) -> None:
        await self.step(Activity.SPAWN_SERVER, operation, "Build the server")

    async def _is_built(self, operation: OperationInput, outcome: Outcome) -> bool:
        """Wait for the server; return false if it failed for a reason that may pass. The backend limits how often."""
        summary = "Wait for the server to be built"
        try:
            outcome.is_recorded = await self.wait_and_record(operation, ServerStatus.ACTIVE, summary)
        except ActivityError as error:
            if reason_of(error)[0] != BUILD_AGAIN:
                raise
            return False
        return True

    async def _undo(self, operation: OperationInput, _code: str) -> Aftermath:
        error = await self.undo(Activity.UNDO_CREATE, operation, "Remove the server and its ports")
        return Aftermath(residue=Residue.STILL_THERE if error else Residue.UNKNOWN, undo_error=error)
