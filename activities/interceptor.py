"""What holds for every activity: it heartbeats, its errors have codes, and a failed attempt shows on its operation."""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.backends.protocol import BackendError
from domain.progress import step_records
from domain.rules.errors import ServiceError
from domain.rules.messages import FailedAttemptInput, OperationInput

RPC_TIMEOUT = timedelta(seconds=2)

logger = logging.getLogger(__name__)


class OperationInterceptor(Interceptor):
    """Wraps every activity of a worker."""

    def __init__(self, engine: AsyncEngine, client: Client) -> None:
        self._engine = engine
        self._client = client

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Put this between the worker and the activity."""
        return _Inbound(next, self._engine, self._client)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, engine: AsyncEngine, client: Client) -> None:
        super().__init__(next)
        self._engine = engine
        self._client = client

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        heart = asyncio.create_task(_beat(activity.info()))
        try:
            if activity.info().attempt > 1:
                await self._note_again(input)
            return await super().execute_activity(input)
        except asyncio.CancelledError:
            _raise_unless_shutdown()
        except ServiceError as error:
            raise ApplicationError(str(error), type=error.code, non_retryable=True) from error
        except BackendError as error:
            if error.retryable:
                await self._note(input, str(error))
            raise ApplicationError(str(error), type=error.code, non_retryable=not error.retryable) from error
        except Exception as error:
            # Its own text may hold statements, addresses or values that are no business of the user's.
            message = f"Internal error: {type(error).__name__}"
            logger.exception("An activity failed")
            await self._note(input, message)
            raise ApplicationError(message, type="internal_error") from None
        finally:
            heart.cancel()

    async def _note_again(self, input: ExecuteActivityInput) -> None:
        with contextlib.suppress(SQLAlchemyError, OSError):  # it is news for people; the activity says what is wrong
            async with self._engine.begin() as tx:
                await step_records.note_attempt(tx, _operation(input), activity.info().attempt)

    async def _note(self, input: ExecuteActivityInput, error: str) -> None:
        operation = _operation(input)
        info = activity.info()
        try:
            async with self._engine.begin() as tx:
                await step_records.note_failed_attempt(tx, operation, info.attempt, error, _retry_in(info))
        except (SQLAlchemyError, OSError):
            logger.warning("Could not note the failed attempt of operation %s", operation.operation_id)
        if _is_news(info.attempt):
            await self._tell_workflow(info, error)

    async def _tell_workflow(self, info: activity.Info, error: str) -> None:
        """Let the workflow show it; it learns of attempts from nobody else."""
        failure = FailedAttemptInput(info.activity_type, info.attempt, error)
        handle = self._client.get_workflow_handle(info.workflow_id or "", run_id=info.workflow_run_id)
        with contextlib.suppress(RPCError):
            await handle.signal("note_failed_attempt", failure, rpc_timeout=RPC_TIMEOUT)


def _operation(input: ExecuteActivityInput) -> OperationInput:
    message = input.args[0]
    operation: OperationInput = getattr(message, "operation", message)
    return operation


def _is_news(attempt: int) -> bool:
    """Attempts 1, 2, 4, 8 ...: when a whole cloud is away, telling of each would be a load of its own."""
    return attempt & (attempt - 1) == 0


async def _beat(info: activity.Info) -> None:
    if info.heartbeat_timeout is None:
        return
    pause = info.heartbeat_timeout.total_seconds() / 4
    # Most activities end before their first beat is due. It is due at once where this worker was slow to begin.
    waited = (datetime.now(UTC) - info.started_time).total_seconds()
    await asyncio.sleep(min(max(pause - waited, 0), pause))
    while True:
        activity.heartbeat()
        await asyncio.sleep(pause)


def _raise_unless_shutdown() -> NoReturn:
    details = activity.cancellation_details()
    if details and details.worker_shutdown:
        # Left alone it would count as cancelled, and the workflow would take that for a user's wish.
        raise ApplicationError("The worker is shutting down.", type="worker_shutdown") from None
    raise asyncio.CancelledError


def _retry_in(info: activity.Info) -> float:
    policy = info.retry_policy
    if policy is None:
        return 0.0
    doublings = min(info.attempt - 1, 32)  # beyond, the pause is capped long since and the power would overflow
    pause = policy.initial_interval.total_seconds() * policy.backoff_coefficient**doublings
    return min(pause, policy.maximum_interval.total_seconds()) if policy.maximum_interval else pause
