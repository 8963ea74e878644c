"""How a delete ends the operations that it superseded, before it removes anything."""

import asyncio
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.backends.protocol import ComputeBackend
from domain.data import queries
from domain.data.models import Operation
from domain.progress import step_records
from domain.rules.messages import ENTERS, Activity, OperationInput, WorkflowsInput
from domain.rules.states import Action, OperationStatus

UNSUCCESSFUL = (OperationStatus.SUPERSEDED, OperationStatus.FAILED, OperationStatus.CANCELED)


class PreemptionActivities:
    """Activities that end other workflows. A workflow that is missing or closed counts as ended."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend, client: Client) -> None:
        self._engine = engine
        self._backend = backend
        self._client = client

    @activity.defn(name=Activity.PREEMPT_OPERATIONS)
    async def preempt_operations(self, input: OperationInput) -> list[str]:
        """Revoke the VM's unsuccessful operations and cancel the workflows that may be open; return those still open.

        The cancel is only a request: the workflow of DeleteVM waits for them to close, and terminates the rest.
        """
        async with self._engine.begin() as tx:
            await step_records.enter_step(tx, input, ENTERS[Activity.PREEMPT_OPERATIONS], activity.info().attempt)
            of_vm = select(Operation).where(Operation.vm_id == input.vm_id)
            unsuccessful = await queries.fetch_all(tx, of_vm.where(Operation.status.in_(UNSUCCESSFUL)))
            # A resize that succeeded may still wait for its confirm. That is true of earlier resizes too, because an
            # administrator may have reset the VM's state since.
            succeeded = (Operation.action == Action.RESIZE, Operation.status == OperationStatus.SUCCEEDED)
            resizes = await queries.fetch_all(tx, of_vm.where(*succeeded))
        # Revoke operations that failed or were canceled too: a worker that lost contact may still run one of their
        # calls. Revoke before canceling, so that nothing takes effect while the workflows end.
        await asyncio.gather(*(self._backend.revoke(operation.id) for operation in unsuccessful))
        superseded = [operation for operation in unsuccessful if operation.status is OperationStatus.SUPERSEDED]
        # A set, because a confirm or revert usually has the same workflow as its resize.
        workflow_ids = sorted({operation.workflow_id for operation in [*superseded, *resizes]})
        await asyncio.gather(*(self._cancel(id) for id in workflow_ids))
        return await self._still_open(workflow_ids)

    @activity.defn(name=Activity.LIST_OPEN_WORKFLOWS)
    async def list_open_workflows(self, input: WorkflowsInput) -> list[str]:
        """Return those of the workflows that are still open."""
        return await self._still_open(input.workflow_ids)

    @activity.defn(name=Activity.TERMINATE_WORKFLOWS)
    async def terminate_workflows(self, input: WorkflowsInput) -> None:
        """Terminate workflows that did not close after their cancel."""
        for workflow_id in input.workflow_ids:
            try:
                await self._client.get_workflow_handle(workflow_id).terminate("Superseded by a delete of the VM")
            except RPCError as error:
                _raise_unless_missing(error)

    async def _cancel(self, workflow_id: str) -> None:
        try:
            await self._client.get_workflow_handle(workflow_id).cancel()
        except RPCError as error:
            _raise_unless_missing(error)

    async def _still_open(self, workflow_ids: Sequence[str]) -> list[str]:
        are_open = await asyncio.gather(*(self._is_open(id) for id in workflow_ids))
        return [id for id, is_open in zip(workflow_ids, are_open, strict=True) if is_open]

    async def _is_open(self, workflow_id: str) -> bool:
        # Describe each workflow by its id. The visibility index lags behind and could miss one that has just started.
        try:
            description = await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            _raise_unless_missing(error)
            return False
        return description.status is WorkflowExecutionStatus.RUNNING


def _raise_unless_missing(error: RPCError) -> None:
    # Only "not found" means that the workflow is over. After any other error it may still run.
    if error.status is not RPCStatusCode.NOT_FOUND:
        raise error
