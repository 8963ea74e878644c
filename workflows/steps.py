"""What every operation's story is told with: steps, waits, and one way to end badly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from types import NoneType
from typing import Any, TypeVar, overload

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, is_cancelled_exception
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

CALL_LIMIT = timedelta(seconds=60)
WAIT_SLICE = timedelta(minutes=5)
HEARTBEAT = timedelta(seconds=3)
WAIT_HEARTBEAT = timedelta(seconds=5)
FOR_EVER = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
# Half an hour of trying. Attempts are counted and not time, so that hours without any worker fail nothing.
HALF_AN_HOUR = replace(FOR_EVER, maximum_attempts=63)


@overload
async def step(name: Activity, input: Message, summary: str) -> None: ...
@overload
async def step(name: Activity, input: Message, summary: str, result: type[T]) -> T: ...
async def step(name: Activity, input: Message, summary: str, result: type[Any] = NoneType) -> Any:
    """Do one step; tried until it succeeds, is refused for good, or HALF_AN_HOUR is over."""
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
    _heed_cancel()
    return answer


async def wait_for_server(operation: OperationInput, status: ServerStatus, summary: str) -> None:
    """Wait until the cloud shows the server in `status`, on the queue where waiting starves nobody.

    How long is too long the activity decides, after a look: a server that got there while nobody looked has arrived.
    """
    await workflow.execute_activity(
        Activity.WAIT_FOR_SERVER,
        WaitForServerInput(operation, status),
        summary=summary,
        task_queue=waits_queue(workflow.info().task_queue),
        start_to_close_timeout=WAIT_SLICE,
        heartbeat_timeout=WAIT_HEARTBEAT,
        retry_policy=FOR_EVER,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )
    _heed_cancel()


def _heed_cancel() -> None:
    """End here if a cancel has come; the success of an activity swallows one that comes just before it."""
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


async def insist(  # noqa: PLR0913 - an activity's own options
    name: Activity,
    input: Message,
    summary: str,
    result: type[T],
    *,
    task_queue: str | None = None,
    limit: timedelta = CALL_LIMIT,
) -> T:
    """Have something recorded, undone or answered, whatever cancels come meanwhile; tried until it is refused."""
    call = workflow.start_activity(
        name,
        input,
        result_type=result,
        summary=summary,
        task_queue=task_queue,
        start_to_close_timeout=limit,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=FOR_EVER,
    )
    while not call.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(call)
    answer: T = call.result()
    return answer


@asynccontextmanager
async def carrying_out(
    operation: OperationInput, *, undo: Activity | None = None, arrives: ServerStatus | None = None
) -> AsyncIterator[None]:
    """Record how the body ended: well, or, after a failure or a cancel, badly.

    `undo` removes what was made; without it the server is left to settle, and the operation has ended well after all if
    that is in the status where it `arrives`. An operation that was superseded undoes and records nothing: whoever
    superseded it does.
    """
    try:
        yield
    except (ActivityError, asyncio.CancelledError) as error:
        await _end_badly(operation, undo, arrives, error)
    else:
        await _finish(operation)


async def _end_badly(
    operation: OperationInput, undo: Activity | None, arrives: ServerStatus | None, error: BaseException
) -> None:
    if _is_superseded(error):
        return
    code, message = _reason(error)
    seen: ServerStatus | None = None
    try:
        if undo:
            await insist(undo, operation, "Undo what was made", NoneType)
        else:
            seen = await _settle(operation)
    except ActivityError as refusal:
        if _is_superseded(refusal):
            _heed_cancel()
            return
        message = f"{message} What is left in the cloud is not known: {_reason(refusal)[1]}"
    if seen is not None and seen is arrives:
        await _finish(operation)
    else:
        await _fail(operation, code, message, intact=seen is ServerStatus.ACTIVE)


async def _settle(operation: OperationInput) -> ServerStatus:
    return await insist(
        Activity.SETTLE_SERVER,
        operation,
        "See how the server settles",
        ServerStatus,
        task_queue=waits_queue(workflow.info().task_queue),
        limit=WAIT_SLICE,
    )


async def _finish(operation: OperationInput) -> None:
    try:
        await insist(Activity.FINISH_OPERATION, operation, "Record the success", NoneType)
    except ActivityError as refusal:
        if not _is_superseded(refusal):
            raise


async def _fail(operation: OperationInput, code: str, message: str, *, intact: bool) -> None:
    canceled = workflow.cancellation_reason() is not None
    failure = FailOperationInput(operation, code, message, canceled=canceled, intact=intact)
    try:
        await insist(Activity.FAIL_OPERATION, failure, "Record the failure", NoneType)
    except ActivityError as refusal:
        if not _is_superseded(refusal):
            raise
        _heed_cancel()
        return
    _heed_cancel()
    raise ApplicationError(message, type=code, non_retryable=True)


def _is_superseded(error: BaseException) -> bool:
    return _reason(error)[0] == SupersededError.code


def _reason(error: BaseException) -> tuple[str, str]:
    """The code and the message of what ended an operation, or a part of it."""
    if is_cancelled_exception(error) or not isinstance(error, ActivityError):
        return "canceled", "The operation was canceled."
    if isinstance(error.cause, ApplicationError) and error.retry_state is RetryState.NON_RETRYABLE_FAILURE:
        return error.cause.type or "internal_error", error.cause.message
    if workflow.cancellation_reason() is not None:
        return "canceled", "The operation was canceled."
    last = getattr(error.cause, "message", "no answer")
    return "retries_exhausted", f"A step did not succeed in half an hour of trying; last: {last}"
