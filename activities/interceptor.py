"""Wraps every activity: heartbeats, error codes, and failed attempts that show on their operation."""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.backends.protocol import BackendError
from domain import logs
from domain.data import outages
from domain.progress import step_records
from domain.rules.errors import CanceledError, ServiceError, SupersededError
from domain.rules.messages import WAITS, FailedAttemptInput, OperationInput

RPC_TIMEOUT = timedelta(seconds=2)
HEARTBEATS_PER_TIMEOUT = 4  # so that an activity counts as lost only after several missed heartbeats
# Limits how often the pause between attempts is doubled, so that the power below cannot overflow. The pause reaches the
# policy's maximum interval long before.
MAX_DOUBLINGS = 32

logger = logging.getLogger(__name__)


class OperationInterceptor(Interceptor):
    """Wraps every activity of a worker."""

    def __init__(self, engine: AsyncEngine, client: Client) -> None:
        self._engine = engine
        self._client = client

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Return a wrapper around the activity."""
        return _Inbound(next, self._engine, self._client)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, engine: AsyncEngine, client: Client) -> None:
        super().__init__(next)
        self._engine = engine
        self._client = client

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        logs.operation_id.set(str(_operation(input).operation_id))
        heartbeats = asyncio.create_task(_send_heartbeats(activity.info()))
        try:
            if activity.info().attempt > 1:
                await self._record_attempt(input)
            result = await super().execute_activity(input)
        except asyncio.CancelledError:
            _raise_unless_shutdown()
        except ServiceError as error:
            category = _category(is_usual=isinstance(error, SupersededError | CanceledError))
            raise ApplicationError(str(error), type=error.code, non_retryable=True, category=category) from error
        except BackendError as error:
            pause = _seconds_to_next_attempt(activity.info(), error.retry_after or 0.0)
            _log_refusal(error)
            if error.retryable:
                await self._record_failure(input, str(error), pause)
            raise ApplicationError(
                str(error),
                type=error.code,
                non_retryable=not error.retryable,
                next_retry_delay=timedelta(seconds=pause) if error.retry_after else None,
                category=_category(is_usual=True),
            ) from error
        except Exception as error:
            # Users see this message, so it names only the type: the text may hold statements, addresses or values.
            message = f"Internal error: {type(error).__name__}"
            if outages.is_outage(error):
                # Every attempt of every operation fails now. So the log says it once, not once for each of them.
                outages.log.failed(error)
            else:
                logger.exception("An activity failed")
            category = _category(is_usual=outages.is_outage(error))
            await self._record_failure(input, message, _seconds_to_next_attempt(activity.info()))
            raise ApplicationError(message, type="internal_error", category=category) from None
        else:
            outages.log.succeeded()
            return result
        finally:
            heartbeats.cancel()

    async def _record_attempt(self, input: ExecuteActivityInput) -> None:
        # Only information for users. If the database is down, the activity itself reports it.
        with contextlib.suppress(SQLAlchemyError, *outages.UNREACHABLE):
            info = activity.info()
            async with self._engine.begin() as tx:
                await step_records.note_attempt(
                    tx, _operation(input), info.attempt, of_wait=info.activity_type in WAITS
                )

    async def _record_failure(self, input: ExecuteActivityInput, error: str, pause: float) -> None:
        """Show the failed attempt on its operation and, at attempts 1, 2, 4, 8 ..., in its workflow."""
        operation = _operation(input)
        info = activity.info()
        try:
            async with self._engine.begin() as tx:
                await step_records.note_failed_attempt(tx, operation, info.attempt, error, pause)
        except (SQLAlchemyError, *outages.UNREACHABLE) as record_error:
            if outages.is_outage(record_error):
                outages.log.failed(record_error)
            else:
                logger.warning("Could not record the failed attempt: %s", outages.describe(record_error))
        if _is_power_of_two(info.attempt):
            await self._signal_workflow(info, error)

    async def _signal_workflow(self, info: activity.Info, error: str) -> None:
        """Tell the workflow, so that its details show the failed attempt; a workflow cannot see attempts itself."""
        failure = FailedAttemptInput(info.activity_type, info.attempt, error)
        handle = self._client.get_workflow_handle(info.workflow_id or "", run_id=info.workflow_run_id)
        with contextlib.suppress(RPCError):
            await handle.signal("note_failed_attempt", failure, rpc_timeout=RPC_TIMEOUT)


def _category(*, is_usual: bool) -> ApplicationErrorCategory:
    """The category of an error. It keeps the SDK from logging a traceback for one that is no bug."""
    return ApplicationErrorCategory.BENIGN if is_usual else ApplicationErrorCategory.UNSPECIFIED


def _log_refusal(error: BackendError) -> None:
    """Log what the cloud says: one line, and not for every attempt. While the cloud is away, all operations fail."""
    info = activity.info()
    if not error.retryable or _is_power_of_two(info.attempt):
        logger.warning("%s failed at attempt %d: %s: %s", info.activity_type, info.attempt, error.code, error)


def _operation(input: ExecuteActivityInput) -> OperationInput:
    """Return the operation from the activity's message, which is the operation or has it as a field."""
    message = input.args[0]
    operation: OperationInput = getattr(message, "operation", message)
    return operation


def _is_power_of_two(attempt: int) -> bool:
    """Return whether to signal this attempt: 1, 2, 4, 8 ...

    Every signal adds to the workflow's history and costs a workflow task. While the whole cloud is down, a signal for
    each attempt of each operation would be a load of its own.
    """
    return attempt & (attempt - 1) == 0


async def _send_heartbeats(info: activity.Info) -> None:
    """Send heartbeats until canceled, several within the heartbeat timeout."""
    if info.heartbeat_timeout is None:
        return
    pause = info.heartbeat_timeout.total_seconds() / HEARTBEATS_PER_TIMEOUT
    # Most activities end before the first heartbeat is due, which saves a call to Temporal for each of them. The pause
    # counts from the start that Temporal knows of, because this worker may have begun the activity late.
    elapsed = (datetime.now(UTC) - info.started_time).total_seconds()
    await asyncio.sleep(min(max(pause - elapsed, 0), pause))
    while True:
        activity.heartbeat()
        await asyncio.sleep(pause)


def _raise_unless_shutdown() -> NoReturn:
    details = activity.cancellation_details()
    if details and details.worker_shutdown:
        # The SDK cancels activities when their worker shuts down. If this were reported as a cancel, the workflow would
        # take it for a user's cancel and undo the operation. After a retryable error another worker continues. The
        # category keeps the SDK from logging a traceback for each of thousands of waits.
        message, category = "The worker is shutting down.", ApplicationErrorCategory.BENIGN
        raise ApplicationError(message, type="worker_shutdown", category=category) from None
    raise asyncio.CancelledError


def _seconds_to_next_attempt(info: activity.Info, at_least: float = 0.0) -> float:
    """Return the pause before the next attempt, as Temporal computes it from the retry policy, or a longer one."""
    policy = info.retry_policy
    if policy is None:
        return at_least
    doublings = min(info.attempt - 1, MAX_DOUBLINGS)
    pause = policy.initial_interval.total_seconds() * policy.backoff_coefficient**doublings
    longest = policy.maximum_interval.total_seconds() if policy.maximum_interval else pause
    return max(min(pause, longest), at_least)
