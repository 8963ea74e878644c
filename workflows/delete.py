"""The end of a VM, from whatever state it is in."""

from dataclasses import replace
from datetime import timedelta

from temporalio import workflow

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity, OperationInput, RemainsResult, WorkflowsInput
from workflows.steps import Left, OperationWorkflow

PATIENCE = timedelta(seconds=60)
REMAINS = "list-remains"  # since there are volumes and interfaces
LOOK_EVERY = timedelta(milliseconds=500)


@workflow.defn
class DeleteVM(OperationWorkflow):
    """Ends what else runs on a VM, then removes everything that was made for it."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one delete operation."""
        async with self.carrying_out(operation, aftermath=self._see_what_remains):
            await self._end_other_workflows(operation)
            leaves = await self.step(Activity.DELETE_SERVER, operation, "Delete the server", bool)
            await self.wait_for_server(operation, ServerStatus.GONE, "Wait for the server to be gone")
            if leaves:
                await self.step(Activity.RELEASE_RESOURCES, operation, "Free its volumes, remove half-made images")

    async def _see_what_remains(self, operation: OperationInput, code: str) -> Left:
        left = await self.settle(operation, code)
        if not workflow.patched(REMAINS):
            return left
        summary = "Remove half-made images, see what else the cloud still has"
        return replace(left, remains=await self.insist(Activity.SETTLE_REMAINS, operation, summary, RemainsResult))

    async def _end_other_workflows(self, operation: OperationInput) -> None:
        """Cancel what the delete took over from, and see it end before anything is removed."""
        summary = "Cancel what else runs on the VM"
        canceled = await self.step(Activity.PREEMPT_OPERATIONS, operation, summary, list[str])
        give_up_at = workflow.now() + PATIENCE
        while canceled and workflow.now() < give_up_at:
            await workflow.sleep(LOOK_EVERY, summary="Give canceled workflows time to end")
            rest = WorkflowsInput(operation, tuple(canceled))
            summary = "See which workflows are still open"
            canceled = await self.step(Activity.LIST_OPEN_WORKFLOWS, rest, summary, list[str])
        if canceled:
            rest = WorkflowsInput(operation, tuple(canceled))
            await self.step(Activity.TERMINATE_WORKFLOWS, rest, "Terminate workflows that did not end")
