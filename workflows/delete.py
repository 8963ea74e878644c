"""Delete a VM, whatever state it is in."""

from dataclasses import replace
from datetime import timedelta

from temporalio import workflow

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity, LeftoversResult, OperationInput, WorkflowsInput
from workflows.outcomes import Aftermath
from workflows.steps import OperationWorkflow

CANCEL_GRACE = timedelta(seconds=60)
POLL_INTERVAL = timedelta(milliseconds=500)

# Since this patch, a failed delete lists what the cloud still has of the VM, because VMs have volumes and interfaces.
# Histories keep the id, so it still has its first name. It may go, by way of `workflow.deprecate_patch`, once no delete
# that started before it is open or can be reset.
LISTS_LEFTOVERS = "list-remains"


@workflow.defn
class DeleteVM(OperationWorkflow):
    """Ends the VM's other workflows, then removes everything that was made for the VM."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a delete operation."""
        async with self.carrying_out(operation, after_failure=self._list_leftovers) as outcome:
            await self._end_superseded_workflows(operation)
            has_resources = await self.step(Activity.DELETE_SERVER, operation, "Delete the server", bool)
            summary = "Wait for the server to be gone"
            if has_resources:
                await self.wait_for_server(operation, ServerStatus.GONE, summary)
                summary = "Release its volumes, remove unfinished images"
                await self.step(Activity.RELEASE_RESOURCES, operation, summary)
            else:
                outcome.is_recorded = await self.wait_and_record(operation, ServerStatus.GONE, summary)

    async def _end_superseded_workflows(self, operation: OperationInput) -> None:
        """Cancel the workflows of superseded operations and wait until they have ended.

        They must not act on the VM while its parts are removed. Those that ignore their cancel are terminated.
        """
        summary = "Cancel the VM's other workflows"
        still_open = await self.step(Activity.PREEMPT_OPERATIONS, operation, summary, list[str])
        deadline = workflow.now() + CANCEL_GRACE
        while still_open and workflow.now() < deadline:
            await workflow.sleep(POLL_INTERVAL, summary="Give canceled workflows time to end")
            workflows = WorkflowsInput(operation, tuple(still_open))
            summary = "Check which workflows are still open"
            still_open = await self.step(Activity.LIST_OPEN_WORKFLOWS, workflows, summary, list[str])
        if still_open:
            workflows = WorkflowsInput(operation, tuple(still_open))
            await self.step(Activity.TERMINATE_WORKFLOWS, workflows, "Terminate workflows that did not end")

    async def _list_leftovers(self, operation: OperationInput, code: str) -> Aftermath:
        aftermath = await self.observe_after_failure(operation, code)
        if not workflow.patched(LISTS_LEFTOVERS):
            return aftermath
        summary = "Remove unfinished images, list what else is left"
        leftovers = await self.run_until_done(Activity.SETTLE_REMAINS, operation, summary, LeftoversResult)
        return replace(aftermath, leftovers=leftovers)
