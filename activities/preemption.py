"""What a delete does to the operations it took over from: their workflows end before anything is removed."""

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

UNFINISHED = (OperationStatus.SUPERSEDED, OperationStatus.FAILED, OperationStatus.CANCELED)


class PreemptionActivities:
    """Activities that end other workflows; one that is missing or closed is done."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend, client: Client) -> None:
        self._engine = engine
        self._backend = backend
        self._client = client

    @activity.defn(name=Activity.PREEMPT_OPERATIONS)
    async def preempt_operations(self, input: OperationInput) -> list[str]:
        """Revoke what may still act on the VM, cancel what was superseded; returns the workflow ids still open.

        An operation that failed or was canceled may have left a call under way on a worker that stalled. A resize that
        succeeded may still wait to be confirmed, also one of before, whose VM's state was reset.
        """
        async with self._engine.begin() as tx:
            await step_records.enter_step(tx, input, ENTERS[Activity.PREEMPT_OPERATIONS], activity.info().attempt)
            of_vm = select(Operation).where(Operation.vm_id == input.vm_id)
            unfinished = await queries.fetch_all(tx, of_vm.where(Operation.status.in_(UNFINISHED)))
            resizes = (Operation.action == Action.RESIZE, Operation.status == OperationStatus.SUCCEEDED)
            resized = await queries.fetch_all(tx, of_vm.where(*resizes))
        await asyncio.gather(*(self._backend.revoke(operation.id) for operation in unfinished))
        superseded = [one for one in unfinished if one.status is OperationStatus.SUPERSEDED]
        may_be_open = sorted({one.workflow_id for one in [*superseded, *resized]})
        await asyncio.gather(*(self._cancel(id) for id in may_be_open))
        return await self._still_open(may_be_open)

    @activity.defn(name=Activity.LIST_OPEN_WORKFLOWS)
    async def list_open_workflows(self, input: WorkflowsInput) -> list[str]:
        """Those of the workflows that are still open."""
        return await self._still_open(input.workflow_ids)

    @activity.defn(name=Activity.TERMINATE_WORKFLOWS)
    async def terminate_workflows(self, input: WorkflowsInput) -> None:
        """End workflows that did not heed their cancellation."""
        for workflow_id in input.workflow_ids:
            try:
                await self._client.get_workflow_handle(workflow_id).terminate("Pre-empted by a delete of the VM")
            except RPCError as error:
                _pass_over_missing(error)

    async def _cancel(self, workflow_id: str) -> None:
        try:
            await self._client.get_workflow_handle(workflow_id).cancel()
        except RPCError as error:
            _pass_over_missing(error)

    async def _still_open(self, workflow_ids: Sequence[str]) -> list[str]:
        are_open = await asyncio.gather(*(self._is_open(id) for id in workflow_ids))
        return [id for id, is_open in zip(workflow_ids, are_open, strict=True) if is_open]

    async def _is_open(self, workflow_id: str) -> bool:
        try:
            description = await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            _pass_over_missing(error)
            return False
        return description.status is WorkflowExecutionStatus.RUNNING


def _pass_over_missing(error: RPCError) -> None:
    if error.status is not RPCStatusCode.NOT_FOUND:
        raise error
