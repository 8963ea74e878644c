"""How a delete ends the operations that it superseded, before it removes anything."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, TypeVar

from sqlalchemy import Select, exists, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import aliased
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.backends.protocol import ComputeBackend
from domain.data import queries
from domain.data.models import Operation
from domain.progress import step_records
from domain.rules.messages import ENTERS, Activity, OperationInput, WorkflowsInput
from domain.rules.states import RESIZE_DECISIONS, Action, OperationStatus

# How long an operation that was superseded before the delete may still act. Its workflow ends at its next step, after a
# wait of half an hour at most, and a step takes minutes. A worker that was frozen in a call may be later than that.
ACTS_AFTER_END: Final = timedelta(days=1)
AT_ONCE: Final = 8  # calls to PostgreSQL or Temporal
# A decision that ends in one of these statuses was recorded by the workflow of its resize, which then ends.
RECORDED: Final = (OperationStatus.SUCCEEDED, OperationStatus.FAILED, OperationStatus.CANCELED)

A = TypeVar("A")
R = TypeVar("R")


class PreemptionActivities:
    """Activities that end other workflows. A workflow that is missing or closed counts as ended."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend, client: Client) -> None:
        self._engine = engine
        self._backend = backend
        self._client = client

    @activity.defn(name=Activity.PREEMPT_OPERATIONS)
    async def preempt_operations(self, input: OperationInput) -> list[str]:
        """Revoke the superseded operations and cancel the workflows that may be open; return those still open.

        The cancel is only a request: the workflow of DeleteVM waits for them to close, and terminates the rest.
        The VM may have thousands of other operations. Their workflows need no cancel: a workflow ends when it has
        recorded the end of its operation, and only that of a resize goes on. Nor do they need to be revoked: the
        workflow of an operation that failed or was canceled revoked it before it recorded that.
        """
        async with self._engine.begin() as tx:
            step = ENTERS[Activity.PREEMPT_OPERATIONS]
            _, deletion = await step_records.enter_step(tx, input, step, activity.info().attempt)
            superseded = await queries.fetch_all(tx, _superseded(deletion))
            resizes = await queries.fetch_all(tx, _undecided_resizes(deletion))
        # Revoke before canceling, so that nothing takes effect while the workflows end.
        await _few_at_once(self._backend.revoke, [operation.id for operation in superseded])
        # A set, because a confirm or revert usually has the same workflow as its resize.
        workflow_ids = sorted({operation.workflow_id for operation in [*superseded, *resizes]})
        await _few_at_once(self._cancel, workflow_ids)
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
        are_open = await _few_at_once(self._is_open, workflow_ids)
        return [id for id, is_open in zip(workflow_ids, are_open, strict=True) if is_open]

    async def _is_open(self, workflow_id: str) -> bool:
        # Describe each workflow by its id. The visibility index lags behind and could miss one that has just started.
        try:
            description = await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            _raise_unless_missing(error)
            return False
        return description.status is WorkflowExecutionStatus.RUNNING


async def _few_at_once(call: Callable[[A], Awaitable[R]], arguments: Sequence[A]) -> list[R]:
    """The results of the calls. All at once would take every connection from other operations, and run out of time."""
    results: list[R] = []
    for first in range(0, len(arguments), AT_ONCE):
        results += await asyncio.gather(*map(call, arguments[first : first + AT_ONCE]))
    return results


def _superseded(deletion: Operation) -> Select[Operation]:
    """Query the operations that the delete superseded, and those that something else superseded shortly before."""
    is_recent = Operation.finished_at > deletion.created_at - ACTS_AFTER_END
    return select(Operation).where(
        Operation.vm_id == deletion.vm_id, Operation.status == OperationStatus.SUPERSEDED, is_recent
    )


def _undecided_resizes(deletion: Operation) -> Select[Operation]:
    """Query the resizes whose workflows may still wait for a decision, for ever.

    There may be earlier ones beside the latest, because an administrator may have reset the VM's state since. A resize
    that somebody made in the cloud has no workflow.
    """
    decision = aliased(Operation)
    is_decided = exists().where(
        decision.vm_id == deletion.vm_id,
        decision.action.in_(RESIZE_DECISIONS),
        decision.status.in_(RECORDED),
        decision.workflow_id == Operation.workflow_id,
    )
    succeeded = (Operation.action == Action.RESIZE, Operation.status == OperationStatus.SUCCEEDED)
    has_workflow = Operation.workflow_id != ""
    return select(Operation).where(Operation.vm_id == deletion.vm_id, *succeeded, has_workflow, ~is_decided)


def _raise_unless_missing(error: RPCError) -> None:
    # Only "not found" means that the workflow is over. After any other error it may still run.
    if error.status is not RPCStatusCode.NOT_FOUND:
        raise error
