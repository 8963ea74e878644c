"""What every operation's story is told with: steps, waits, one way to end badly, and what an operator sees."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from types import NoneType
from typing import Any, TypeVar, overload

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, is_cancelled_exception
from temporalio.workflow import ActivityCancellationType

from domain.rules import lifecycle
from domain.rules.cloud import ImageState, PortState, ServerStatus, VolumeState
from domain.rules.errors import CanceledError, NotBegunError, SupersededError
from domain.rules.messages import (
    Activity,
    CheckFlavorInput,
    FailedAttemptInput,
    FailOperationInput,
    OperationInput,
    RemainsResult,
    StateResult,
    WaitForServerInput,
    WaitForVolumeInput,
    WorkflowsInput,
    waits_queue,
)
from domain.rules.table import TABLE
from workflows.view import View

T = TypeVar("T")
Message = OperationInput | FailOperationInput | WorkflowsInput | CheckFlavorInput
Wait = OperationInput | WaitForServerInput | WaitForVolumeInput
Seen = ServerStatus | VolumeState | ImageState | PortState

CALL_LIMIT = timedelta(seconds=60)
WAIT_SLICE = timedelta(minutes=5)
HEARTBEAT = timedelta(seconds=3)
FOR_EVER = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
# Half an hour of trying. Attempts are counted and not time, so that hours without any worker fail nothing.
HALF_AN_HOUR = replace(FOR_EVER, maximum_attempts=63)
SEES_NOT_BEGUN = "sees-not-begun"  # the patch since which nothing is looked at where nothing was done


@dataclass(frozen=True, slots=True)
class Left:
    """What a failure has left: how the server, volume or port shows itself, if that was seen, and what that means.

    `lifecycle.fail` says what an `intact` server is; `applied` says that the operation did what it was asked;
    `remains`, of a delete, what the cloud still has; `refusal`, why the cloud did not undo what was done.
    """

    seen: Seen | None = None
    intact: bool = False
    applied: bool = False
    remains: RemainsResult | None = None
    refusal: str = ""


@dataclass(slots=True)
class Outcome:
    """Whether an operation has been recorded as a success."""

    succeeded: bool = False


Aftermath = Callable[[OperationInput, str], Awaitable[Left]]
"""What follows the failure of an operation, told its code; whatever cancels come meanwhile."""


class OperationWorkflow:
    """A workflow that carries out operations on one VM or another resource, usually one."""

    def __init__(self) -> None:
        self.view = View()
        self._interruption = ""

    @workflow.query
    def state(self) -> StateResult:
        """What the VM shows as far as this workflow knows."""
        return self.view.state

    @workflow.signal
    def note_failed_attempt(self, failure: FailedAttemptInput | None = None) -> None:
        """Show why an attempt failed; it is news from an activity to people and changes nothing."""
        if isinstance(failure, FailedAttemptInput):  # anything comes where a person sends the signal by hand
            self.view.failed(failure)

    @asynccontextmanager
    async def carrying_out(
        self, operation: OperationInput, *, aftermath: Aftermath | None = None, arrives: Seen | None = None
    ) -> AsyncIterator[Outcome]:
        """Record how the body ended: well, or, after a failure or a cancel, badly.

        `aftermath` removes what was made; without it the server is left to settle. The operation has ended well after
        all if what it is about is seen where it `arrives`. An operation that was superseded undoes and records
        nothing: whoever superseded it does.
        """
        outcome = Outcome()
        self._interruption = operation.interruption
        self.view.begins(operation)
        try:
            yield outcome
        except (ActivityError, ApplicationError, asyncio.CancelledError) as error:
            outcome.succeeded = await self._end_badly(operation, aftermath or self.settle, arrives, error)
        else:
            outcome.succeeded = await self._finish(operation)

    @overload
    async def step(self, name: Activity, input: Message, summary: str) -> None: ...
    @overload
    async def step(self, name: Activity, input: Message, summary: str, result: type[T]) -> T: ...
    async def step(self, name: Activity, input: Message, summary: str, result: type[Any] = NoneType) -> Any:
        """Do one step; tried until it succeeds, is refused for good, or HALF_AN_HOUR is over."""
        if self._interruption:
            message = "Its workflow ended without recording how; what it had begun was undone, or left to settle."
            raise ApplicationError(message, type=self._interruption)
        self.view.does(name, summary)
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
        heed_cancel()
        return answer

    async def wait_for_server(self, operation: OperationInput, status: ServerStatus, summary: str) -> None:
        """Wait until the cloud shows the server in `status`."""
        await self.wait(Activity.WAIT_FOR_SERVER, WaitForServerInput(operation, status), summary)

    async def wait(self, name: Activity, input: Wait, summary: str) -> None:
        """Wait for the cloud, on the queue where waiting starves nobody.

        How long is too long the activity decides, after a look: what got there while nobody looked has arrived.
        """
        self.view.does(name, summary)
        await workflow.execute_activity(
            name,
            input,
            summary=summary,
            task_queue=waits_queue(workflow.info().task_queue),
            start_to_close_timeout=WAIT_SLICE,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=FOR_EVER,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        heed_cancel()

    async def insist(  # noqa: PLR0913 - an activity's own options
        self,
        name: Activity,
        input: Message,
        summary: str,
        result: type[T],
        *,
        task_queue: str | None = None,
        limit: timedelta = CALL_LIMIT,
    ) -> T:
        """Have something recorded, undone or answered, whatever cancels come meanwhile; tried until it is refused."""
        self.view.does(name, summary)
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

    async def undo(self, name: Activity, operation: OperationInput, summary: str) -> str:
        """Have something undone; returns why it is not, where the cloud refuses even that."""
        try:
            await self.insist(name, operation, summary, NoneType)
        except ActivityError as refusal:
            code, message = _reason(refusal)
            if code == SupersededError.code or (code == NotBegunError.code and workflow.patched(SEES_NOT_BEGUN)):
                raise
            return message
        return ""

    async def settle(self, operation: OperationInput, _code: str) -> Left:
        """Let the cloud end what it is at, and see what then shows."""
        seen = await self.look(Activity.SETTLE_SERVER, operation, "See how the server settles", ServerStatus)
        return Left(seen, intact=seen is ServerStatus.ACTIVE)

    async def look(self, name: Activity, operation: OperationInput, summary: str, result: type[T]) -> T:
        """See what a failure has left, for which waiting may be needed."""
        queue = waits_queue(workflow.info().task_queue)
        return await self.insist(name, operation, summary, result, task_queue=queue, limit=WAIT_SLICE)

    async def _end_badly(
        self, operation: OperationInput, aftermath: Aftermath, arrives: Seen | None, error: BaseException
    ) -> bool:
        code, message = _reason(error)
        if code == SupersededError.code:
            return False
        self.view.fails(message)
        has_begun = True
        try:
            left = await aftermath(operation, code)
        except ActivityError as refusal:
            why, detail = _reason(refusal)
            if why == SupersededError.code:
                heed_cancel()
                return False
            has_begun = why != NotBegunError.code
            left = Left(refusal=detail if has_begun else "")
        if left.seen is not None and left.seen is arrives:
            return await self._finish(operation)
        if left.refusal not in message:
            message = f"{message} After that: {left.refusal}"
        await self._fail(operation, code, message, left, has_begun=has_begun)
        return False

    async def _finish(self, operation: OperationInput) -> bool:
        if not await self._record(Activity.FINISH_OPERATION, operation, "Record the success"):
            return False
        if operation.previous_status:
            last = TABLE[operation.action].steps[-1]
            self.view.ends(lifecycle.finish(operation.action, last, operation.previous_status))
        else:
            self.view.ends(None)
        return True

    async def _fail(self, operation: OperationInput, code: str, message: str, left: Left, *, has_begun: bool) -> None:
        canceled = code == CanceledError.code or workflow.cancellation_reason() is not None
        seen = (left.intact, left.applied, left.remains)
        failure = FailOperationInput(operation, code, message, canceled, *seen, begun=has_begun)
        if not await self._record(Activity.FAIL_OPERATION, failure, "Record the failure"):
            heed_cancel()
            return
        was = operation.previous_status
        status = lifecycle.fail(operation.action, was, intact=left.intact, begun=has_begun) if was else None
        self.view.ends(status)
        heed_cancel()
        raise ApplicationError(message, type=code, non_retryable=True)

    async def _record(self, name: Activity, input: Message, summary: str) -> bool:
        """Whether the end was recorded; it is not where somebody superseded the operation."""
        try:
            await self.insist(name, input, summary, NoneType)
        except ActivityError as refusal:
            if _reason(refusal)[0] != SupersededError.code:
                raise
            return False
        return True


def heed_cancel() -> None:
    """End here if a cancel has come; the success of an activity swallows one that comes just before it."""
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


def _reason(error: BaseException) -> tuple[str, str]:
    """The code and the message of what ended an operation, or a part of it."""
    if isinstance(error, ApplicationError):
        return error.type or "internal_error", error.message
    if is_cancelled_exception(error) or not isinstance(error, ActivityError):
        return CanceledError.code, "The operation was canceled."
    if isinstance(error.cause, ApplicationError) and error.retry_state is RetryState.NON_RETRYABLE_FAILURE:
        return error.cause.type or "internal_error", error.cause.message
    if workflow.cancellation_reason() is not None:
        return CanceledError.code, "The operation was canceled."
    last = getattr(error.cause, "message", "no answer")
    return "retries_exhausted", f"A step did not succeed in half an hour of trying; last: {last}"
