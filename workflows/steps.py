"""What every operation's story is told with: steps, waits, and one way to end badly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import NoneType
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception
from temporalio.exceptions import TimeoutError as StepTimeoutError
from temporalio.workflow import ActivityCancellationType

from domain.errors import SupersededError
from domain.messages import (
    Activity,
    FailOperationInput,
    OperationInput,
    ServerStatus,
    WaitForServerInput,
    WorkflowsInput,
    waits_queue,
)

T = TypeVar("T")
Message = OperationInput | FailOperationInput | WorkflowsInput

STEP_LIMIT = timedelta(minutes=30)
CALL_LIMIT = timedelta(seconds=60)
HEARTBEAT = timedelta(seconds=3)
RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))


async def step(name: Activity, operation: OperationInput, summary: str) -> None:
    """Do one step of the lifecycle table; retried until it succeeds, is refused for good, or STEP_LIMIT is over."""
    await workflow.execute_activity(
        name,
        operation,
        summary=summary,
        start_to_close_timeout=CALL_LIMIT,
        schedule_to_close_timeout=STEP_LIMIT,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=RETRY,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


async def wait_for_server(operation: OperationInput, status: ServerStatus, summary: str) -> None:
    """Wait until the cloud shows the server in `status`, on the queue where waiting starves nobody."""
    await workflow.execute_activity(
        Activity.WAIT_FOR_SERVER,
        WaitForServerInput(operation, status),
        summary=summary,
        task_queue=waits_queue(workflow.info().task_queue),
        start_to_close_timeout=STEP_LIMIT,
        schedule_to_close_timeout=STEP_LIMIT,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=RETRY,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


async def insist(name: Activity, input: Message, summary: str, result: type[T]) -> T:
    """Have something recorded, undone or answered; retried for ever, as the story cannot go on without it."""
    answer: T = await workflow.execute_activity(
        name,
        input,
        result_type=result,
        summary=summary,
        start_to_close_timeout=CALL_LIMIT,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=RETRY,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )
    return answer


@asynccontextmanager
async def carrying_out(
    operation: OperationInput, *, undo: Activity | None = None, keeps_running_server: bool = False
) -> AsyncIterator[None]:
    """Record how the body ended: well, or after `undo` with the reason why not.

    With `keeps_running_server` a failure leaves a server that is seen to run as it was. An operation that was
    superseded neither undoes nor records anything: whoever superseded it does.
    """
    try:
        yield
        await insist(Activity.FINISH_OPERATION, operation, "Record the success", NoneType)
    except (ActivityError, asyncio.CancelledError) as error:
        await _end_badly(operation, error, undo, keeps_running_server=keeps_running_server)


async def _end_badly(
    operation: OperationInput, error: BaseException, undo: Activity | None, *, keeps_running_server: bool
) -> None:
    canceled = is_cancelled_exception(error)
    code, message = _reason(error)
    if code == SupersededError.code:
        return
    try:
        if undo:
            await insist(undo, operation, "Undo what was made", NoneType)
        intact = keeps_running_server and await insist(
            Activity.IS_SERVER_RUNNING, operation, "See whether the server still runs", bool
        )
        failure = FailOperationInput(operation, code, message, canceled=canceled, intact=intact)
        await insist(Activity.FAIL_OPERATION, failure, "Record the failure", NoneType)
    except ActivityError as refusal:
        if _reason(refusal)[0] != SupersededError.code:
            raise
        if not canceled:
            return
    if canceled:
        raise error
    raise ApplicationError(message, type=code, non_retryable=True) from error


def _reason(error: BaseException) -> tuple[str, str]:
    """The code and the message of what ended an operation."""
    if is_cancelled_exception(error):
        return "canceled", "The operation was canceled."
    cause = error.cause if isinstance(error, ActivityError) else error
    if isinstance(cause, ApplicationError):
        return cause.type or "internal_error", cause.message
    if isinstance(cause, StepTimeoutError):
        last = f" Last error: {cause.cause}" if cause.cause else ""
        return "timed_out", f"A step did not succeed in time.{last}"
    return "internal_error", "An internal error ended the operation."
