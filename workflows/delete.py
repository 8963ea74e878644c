"""The end of a VM, from whatever state it is in."""

from datetime import timedelta

from temporalio import workflow

from domain.messages import Activity, OperationInput, ServerStatus, WorkflowsInput
from workflows.steps import carrying_out, step, wait_for_server

PATIENCE = timedelta(seconds=60)
LOOK_EVERY = timedelta(milliseconds=500)


@workflow.defn
class DeleteVM:
    """Ends what else runs on a VM, then removes everything that was made for it."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one delete operation."""
        async with carrying_out(operation):
            await _end_other_workflows(operation)
            await step(Activity.DELETE_SERVER, operation, "Delete the server")
            await wait_for_server(operation, ServerStatus.GONE, "Wait for the server to be gone")


async def _end_other_workflows(operation: OperationInput) -> None:
    """Cancel what the delete took over from, and see it end before anything is removed."""
    canceled = await step(Activity.PREEMPT_OPERATIONS, operation, "Cancel what else runs on the VM", list[str])
    give_up_at = workflow.now() + PATIENCE
    while canceled and workflow.now() < give_up_at:
        await workflow.sleep(LOOK_EVERY, summary="Give canceled workflows time to end")
        rest = WorkflowsInput(operation, tuple(canceled))
        canceled = await step(Activity.LIST_OPEN_WORKFLOWS, rest, "See which workflows are still open", list[str])
    if canceled:
        rest = WorkflowsInput(operation, tuple(canceled))
        await step(Activity.TERMINATE_WORKFLOWS, rest, "Terminate workflows that did not end")
