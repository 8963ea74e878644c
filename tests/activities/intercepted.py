"""Runs activities behind the interceptor, and records what it signals to their workflows."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.backends.protocol import BackendError
from activities.interceptor import OperationInterceptor
from domain.rules.messages import FailedAttemptInput

Body = Callable[[Any], Awaitable[object]]
BUSY = BackendError("busy", "The cloud is busy.", retryable=True)
REFUSED = BackendError("quota", "The cloud's quota is used up.", retryable=False)


class _Activity(ActivityInboundInterceptor):
    """The last of the chain of interceptors: it runs the activity."""

    def __init__(self, body: Body) -> None:
        self._body = body

    async def execute_activity(self, input: ExecuteActivityInput) -> object:
        return await self._body(*input.args)


class SignalRecorder:
    """A Temporal client that records the signals to workflows; while `error` is set, it raises that."""

    def __init__(self) -> None:
        self.signals: list[tuple[str, str, FailedAttemptInput]] = []
        self.error: Exception | None = None

    def get_workflow_handle(self, workflow_id: str, *, run_id: str | None) -> Any:
        """Return itself as the workflow's handle."""
        assert run_id
        self._workflow_id = workflow_id
        return self

    async def signal(self, name: str, message: FailedAttemptInput, **_options: Any) -> None:
        """Record the signal."""
        if self.error:
            raise self.error
        self.signals.append((self._workflow_id, name, message))


async def intercepted(
    engine: AsyncEngine,
    environment: ActivityEnvironment,
    body: Body,
    message: object,
    signals: SignalRecorder | None = None,
) -> object:
    """Run the activity behind the interceptor and return its result."""
    client = cast("Client", signals or SignalRecorder())
    inbound = OperationInterceptor(engine, client).intercept_activity(_Activity(body))
    input = ExecuteActivityInput(fn=body, args=[message], executor=None, headers={})
    result: object = await environment.run(inbound.execute_activity, input)
    return result


def raising(error: BaseException) -> Body:
    """Return an activity that fails with the error."""

    async def body(_: object) -> object:
        raise error

    return body


async def failure(
    engine: AsyncEngine,
    environment: ActivityEnvironment,
    error: BaseException,
    message: object,
    signals: SignalRecorder | None = None,
) -> ApplicationError:
    """Return the error that Temporal gets when the activity fails with this one."""
    with pytest.raises(ApplicationError) as raised:
        await intercepted(engine, environment, raising(error), message, signals)
    return raised.value
