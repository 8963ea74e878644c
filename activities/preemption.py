"""What a delete does to the operations it took over from: their workflows end before anything is removed."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.backends.protocol import ComputeBackend
from domain import store
from domain.lifecycle import OperationStatus, TaskState
from domain.messages import Activity, OperationInput, WorkflowsInput
from domain.models import Operation


class PreemptionActivities:
    """Activities that end other workflows; one that is missing or closed is done."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend, client: Client) -> None:
        self._engine = engine
        self._backend = backend
        self._client = client

    @activity.defn(name=Activity.PREEMPT_OPERATIONS)
    async def preempt_operations(self, input: OperationInput) -> list[str]:
        """Revoke and cancel every superseded operation of the VM; returns the workflow ids that were still open."""
        async with self._engine.begin() as tx:
            await store.enter_step(tx, input, TaskState.DELETING, activity.info().attempt)
            superseded = await store.fetch_all(
                tx,
                select(Operation).where(Operation.vm_id == input.vm_id, Operation.status == OperationStatus.SUPERSEDED),
            )
        for operation in superseded:
            await self._backend.revoke(operation.id)
        return [operation.workflow_id for operation in superseded if await self._cancel(operation.workflow_id)]

    @activity.defn(name=Activity.LIST_OPEN_WORKFLOWS)
    async def list_open_workflows(self, input: WorkflowsInput) -> list[str]:
        """Those of the workflows that are still open."""
        return [id for id in input.workflow_ids if await self._is_open(id)]

    @activity.defn(name=Activity.TERMINATE_WORKFLOWS)
    async def terminate_workflows(self, input: WorkflowsInput) -> None:
        """End workflows that did not heed their cancellation."""
        for workflow_id in input.workflow_ids:
            try:
                await self._client.get_workflow_handle(workflow_id).terminate("Pre-empted by a delete of the VM")
            except RPCError as error:
                _pass_over_missing(error)

    async def _cancel(self, workflow_id: str) -> bool:
        try:
            await self._client.get_workflow_handle(workflow_id).cancel()
        except RPCError as error:
            _pass_over_missing(error)
            return False
        return True

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
