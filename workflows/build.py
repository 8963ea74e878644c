"""The making of a VM."""

from temporalio import workflow

from domain.messages import Activity, OperationInput, ServerStatus
from workflows.steps import carrying_out, step, wait_for_server


@workflow.defn
class CreateVM:
    """Builds a VM's server; a build that fails leaves nothing behind in the cloud."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one create operation."""
        async with carrying_out(operation, undo=Activity.UNDO_CREATE):
            await step(Activity.SCHEDULE_SERVER, operation, "Find a host")
            await step(Activity.CREATE_PORTS, operation, "Create the ports")
            await step(Activity.SPAWN_SERVER, operation, "Build the server")
            await wait_for_server(operation, ServerStatus.ACTIVE, "Wait for the server to be built")
