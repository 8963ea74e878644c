"""Cancels and errors, as workflows see them."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, is_cancelled_exception

from domain.rules.errors import CanceledError


def raise_if_canceled() -> None:
    """Raise CancelledError if the workflow has been canceled.

    Needed after every activity that is awaited with WAIT_CANCELLATION_COMPLETED. If such an activity succeeds just when
    a cancel arrives, the SDK returns the result and raises nothing, and the cancel would be lost.
    """
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


def reason_of(error: BaseException) -> tuple[str, str]:
    """Return the code and the message of an error that ended an operation or one of its activities."""
    if isinstance(error, ApplicationError):
        return error.type or "internal_error", error.message
    if is_cancelled_exception(error) or not isinstance(error, ActivityError):
        return CanceledError.code, "The operation was canceled."
    if isinstance(error.cause, ApplicationError) and error.retry_state is RetryState.NON_RETRYABLE_FAILURE:
        return error.cause.type or "internal_error", error.cause.message
    if workflow.cancellation_reason() is not None:
        return CanceledError.code, "The operation was canceled."
    last = getattr(error.cause, "message", "no answer")
    return "retries_exhausted", f"A step did not succeed in half an hour of attempts. Last error: {last}"
