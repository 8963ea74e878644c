"""The base of all workflows: steps, waits, and one way to record a success or a failure.

The order of activities, timers and `workflow.patched` calls is part of the histories of running workflows. A change
here must keep that order, be behind a new patch id, or depend on the result of an activity, as in `first_steps`:
results are part of the history, too. tests/replay checks this.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from types import NoneType
from typing import Any, TypeVar, overload

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.workflow import ActivityCancellationType

from domain.rules import lifecycle
from domain.rules.cloud import ServerStatus
from domain.rules.errors import CanceledError, NotBegunError, SupersededError
from domain.rules.messages import (
    Activity,
    CheckFlavorInput,
    FailedAttemptInput,
    FailOperationInput,
    OperationInput,
    StateResult,
    WaitForServerInput,
    WaitForVolumeInput,
    WorkflowsInput,
    waits_queue,
)
from domain.rules.table import TABLE, Residue
from workflows.errors import raise_if_canceled, reason_of
from workflows.outcomes import AfterFailure, Aftermath, CloudState, Outcome
from workflows.view import View

T = TypeVar("T")
Input = OperationInput | FailOperationInput | WorkflowsInput | CheckFlavorInput
WaitInput = OperationInput | WaitForServerInput | WaitForVolumeInput

# A cloud may take a minute to answer, and a step first looks for what an earlier attempt has done.
CALL_LIMIT = timedelta(seconds=150)
WAIT_SLICE = timedelta(minutes=5)  # an activity that waits for longer is started again
HEARTBEAT = timedelta(seconds=3)
# Longer than that of steps, because a worker may have thousands of waits and each heartbeat is a call to Temporal. If a
# worker dies, its steps continue after HEARTBEAT, and the ends of its waits are noticed after this time.
WAIT_HEARTBEAT = timedelta(seconds=15)
FOREVER = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
# Half an hour of attempts. The limit is a count, not a time, so that hours without a worker do not fail an operation.
HALF_AN_HOUR = replace(FOREVER, maximum_attempts=63)

# Since this patch, a failure whose undo finds that no step had begun is recorded as NOT_BEGUN. Workflows that started
# before it treat that answer as a refused undo. The id may go, by way of `workflow.deprecate_patch`, once no workflow
# that started before it is open or can be reset, that is, once the namespace's retention has passed.
SEES_NOT_BEGUN = "sees-not-begun"


class OperationWorkflow:
    """A workflow that carries out an operation on a VM or another resource."""

    def __init__(self) -> None:
        self.view = View()
        self._interruption = ""

    @workflow.query
    def state(self) -> StateResult:
        """Return the VM's status and task state as this workflow knows them."""
        return self.view.state

    @workflow.signal
    def note_failed_attempt(self, failure: FailedAttemptInput | None = None) -> None:
        """Show why an attempt of an activity failed. It changes nothing else."""
        if isinstance(failure, FailedAttemptInput):  # people can send any payload by hand
            self.view.attempt_failed(failure)

    @asynccontextmanager
    async def carrying_out(
        self,
        operation: OperationInput,
        *,
        after_failure: AfterFailure | None = None,
        success_state: CloudState | None = None,
    ) -> AsyncIterator[Outcome]:
        """Carry out the operation in the body, then record its success or failure.

        After a failure or a cancel, `after_failure` undoes or observes what is left; by default it observes the server.
        If the cloud then shows the `success_state`, the operation still counts as a success. A superseded operation
        undoes and records nothing, because the operation that superseded it does.
        """
        outcome = Outcome()
        self._interruption = operation.interruption
        self.view.operation_started(operation)
        try:
            yield outcome
        except (ActivityError, ApplicationError, asyncio.CancelledError) as error:
            after_failure = after_failure or self.observe_after_failure
            outcome.succeeded = await self._end_failed(operation, after_failure, success_state, error)
        else:
            if outcome.is_recorded:
                self._show_success(operation)
            outcome.succeeded = outcome.is_recorded or await self._record_success(operation)

    async def first_steps(self, names: Sequence[Activity], operation: OperationInput, summary: str) -> bool:
        """Do several steps in the first one's activity. Return False if only the first was done, by an older worker.

        The result is in the history. So a workflow that began with an older worker goes on as that worker would, and no
        patch id is needed.
        """
        first, *_, last = names
        has_combined = bool(await self.step(first, replace(operation, combines=True), summary, bool))
        if has_combined:
            self.view.step_entered(last)
        return has_combined

    @overload
    async def step(self, name: Activity, input: Input, summary: str) -> None: ...
    @overload
    async def step(self, name: Activity, input: Input, summary: str, result: type[T]) -> T: ...
    async def step(self, name: Activity, input: Input, summary: str, result: type[Any] = NoneType) -> Any:
        """Do one step. It is retried until it succeeds, fails for good, or HALF_AN_HOUR is over."""
        if self._interruption:
            message = "Its workflow ended without a record. Its changes were undone, or left as the cloud has them."
            raise ApplicationError(message, type=self._interruption)
        self.view.activity_started(name, summary)
        answer = await workflow.execute_activity(
            name,
            input,
            result_type=result,
            summary=summary,
            start_to_close_timeout=CALL_LIMIT,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=HALF_AN_HOUR,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        raise_if_canceled()
        return answer

    async def wait_for_server(self, operation: OperationInput, status: ServerStatus, summary: str) -> None:
        """Wait until the cloud shows the server in `status`."""
        await self.wait(Activity.WAIT_FOR_SERVER, WaitForServerInput(operation, status), summary)

    async def wait_and_record(self, operation: OperationInput, status: ServerStatus, summary: str) -> bool:
        """Do the same, do what is left of the operation, and record its success, all in one activity.

        Return False if an older worker has only waited (see `first_steps`).
        """
        input = WaitForServerInput(operation, status, records=True)
        return await self.wait(Activity.WAIT_FOR_SERVER, input, summary)

    async def wait(self, name: Activity, input: WaitInput, summary: str) -> bool:
        """Wait for the cloud, on the task queue of waits. Return whether the success is recorded.

        The activity has its own time limit, and checks it only after a poll. So if the cloud finishes while no worker
        runs for an hour, the wait still succeeds.
        """
        self.view.activity_started(name, summary)
        is_recorded = await workflow.execute_activity(
            name,
            input,
            result_type=bool,
            summary=summary,
            task_queue=waits_queue(workflow.info().task_queue),
            start_to_close_timeout=WAIT_SLICE,
            heartbeat_timeout=WAIT_HEARTBEAT,
            retry_policy=FOREVER,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        if not is_recorded:  # else a cancel came too late
            raise_if_canceled()
        return bool(is_recorded)

    async def run_until_done(  # noqa: PLR0913 - an activity's own options
        self,
        name: Activity,
        input: Input,
        summary: str,
        result: type[T],
        *,
        task_queue: str | None = None,
        limit: timedelta = CALL_LIMIT,
        heartbeat: timedelta = HEARTBEAT,
    ) -> T:
        """Run an activity, with retries, until it succeeds or fails for good, even if the workflow is canceled."""
        self.view.activity_started(name, summary)
        activity = workflow.start_activity(
            name,
            input,
            result_type=result,
            summary=summary,
            task_queue=task_queue,
            start_to_close_timeout=limit,
            heartbeat_timeout=heartbeat,
            retry_policy=FOREVER,
        )
        # A cancel of the workflow interrupts the await, but the shield keeps it from the activity. A later cancel would
        # interrupt the next await, hence the loop. Without both, a record or an undo would be abandoned halfway.
        while not activity.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(activity)
        answer: T = activity.result()
        return answer

    async def undo(self, name: Activity, operation: OperationInput, summary: str) -> str:
        """Undo something. Return the error's message if the cloud refuses, else an empty string."""
        try:
            await self.run_until_done(name, operation, summary, NoneType)
        except ActivityError as error:
            code, message = reason_of(error)
            if code == SupersededError.code or (code == NotBegunError.code and workflow.patched(SEES_NOT_BEGUN)):
                raise
            return message
        return ""

    async def observe_server(self, operation: OperationInput) -> ServerStatus:
        """Wait until the cloud has finished with the server, and return the server's status."""
        return await self.observe(Activity.SETTLE_SERVER, operation, "Wait until the server is at rest", ServerStatus)

    async def observe(self, name: Activity, operation: OperationInput, summary: str, result: type[T]) -> T:
        """Observe a resource after a failure, on the task queue of waits."""
        queue = waits_queue(workflow.info().task_queue)
        return await self.run_until_done(
            name, operation, summary, result, task_queue=queue, limit=WAIT_SLICE, heartbeat=WAIT_HEARTBEAT
        )

    async def observe_after_failure(self, operation: OperationInput, _code: str) -> Aftermath:
        """Observe the server: the default after a failure, if there is nothing to undo."""
        status = await self.observe_server(operation)
        return Aftermath(status, Residue.RUNNING if status is ServerStatus.ACTIVE else Residue.UNKNOWN)

    async def _end_failed(
        self,
        operation: OperationInput,
        after_failure: AfterFailure,
        success_state: CloudState | None,
        error: BaseException,
    ) -> bool:
        """End an operation after a failure or a cancel. Return whether it counts as a success."""
        code, message = reason_of(error)
        if code == SupersededError.code:
            return False
        self.view.operation_failed(message)
        try:
            aftermath = await after_failure(operation, code)
        except ActivityError as refusal:
            refusal_code, refusal_message = reason_of(refusal)
            if refusal_code == SupersededError.code:
                raise_if_canceled()  # so that Temporal shows a canceled workflow as canceled, not as completed
                return False
            is_not_begun = refusal_code == NotBegunError.code
            aftermath = Aftermath(residue=Residue.NOT_BEGUN) if is_not_begun else Aftermath(undo_error=refusal_message)
        if aftermath.succeeded or (aftermath.observed is not None and aftermath.observed is success_state):
            return await self._record_success(operation)
        if aftermath.undo_error not in message:  # an empty string is in every message
            message = f"{message} After that: {aftermath.undo_error}"
        await self._record_failure(operation, code, message, aftermath)
        return False

    async def _record_success(self, operation: OperationInput) -> bool:
        if not await self._record(Activity.FINISH_OPERATION, operation, "Record the success"):
            return False
        self._show_success(operation)
        return True

    def _show_success(self, operation: OperationInput) -> None:
        if operation.previous_status:
            last = TABLE[operation.action].steps[-1]
            self.view.operation_ended(lifecycle.finish(operation.action, last, operation.previous_status))
        else:
            self.view.operation_ended(None)

    async def _record_failure(self, operation: OperationInput, code: str, message: str, aftermath: Aftermath) -> None:
        """Record the failure and fail the workflow with it."""
        canceled = code == CanceledError.code or workflow.cancellation_reason() is not None
        residue, leftovers = aftermath.residue, aftermath.leftovers
        failure = FailOperationInput.of(operation, code, message, residue, canceled=canceled, leftovers=leftovers)
        if not await self._record(Activity.FAIL_OPERATION, failure, "Record the failure"):
            raise_if_canceled()
            return
        previous = operation.previous_status
        self.view.operation_ended(lifecycle.fail(operation.action, previous, residue) if previous else None)
        # Only after the record: an operation whose workflow ends without a record stays open.
        raise_if_canceled()
        raise ApplicationError(message, type=code, non_retryable=True)

    async def _record(self, name: Activity, input: Input, summary: str) -> bool:
        """Record the end of an operation. Return False if the operation was superseded before."""
        try:
            await self.run_until_done(name, input, summary, NoneType)
        except ActivityError as error:
            if reason_of(error)[0] != SupersededError.code:
                raise
            return False
        return True
