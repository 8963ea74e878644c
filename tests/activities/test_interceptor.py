"""What holds for every activity: coded errors, failed attempts that show, heartbeats, and who canceled it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from temporalio.activity import ActivityCancellationDetails
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.backends.protocol import BackendError
from activities.interceptor import OperationInterceptor
from domain.rules.cloud import ServerStatus
from domain.rules.errors import IllegalStepError, ServiceError, SupersededError
from domain.rules.messages import (
    FailedAttemptInput,
    FailOperationInput,
    OperationInput,
    WaitForServerInput,
    WorkflowsInput,
)
from domain.rules.states import Action
from tests.support.rows import add_held_vm, read_operation

Body = Callable[[Any], Awaitable[object]]
BUSY = BackendError("busy", "The cloud is busy.", retryable=True)
REFUSED = BackendError("quota", "The cloud's quota is used up.", retryable=False)


class _Activity(ActivityInboundInterceptor):
    """The end of the chain: the activity itself."""

    def __init__(self, body: Body) -> None:
        self._body = body

    async def execute_activity(self, input: ExecuteActivityInput) -> object:
        return await self._body(*input.args)


class Listener:
    """A Temporal client that writes down what workflows are told; while `error` is set it raises that."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, FailedAttemptInput]] = []
        self.error: Exception | None = None

    def get_workflow_handle(self, workflow_id: str, *, run_id: str | None) -> Any:
        """Itself, as the workflow's handle."""
        assert run_id
        self._workflow_id = workflow_id
        return self

    async def signal(self, name: str, message: FailedAttemptInput, **_options: Any) -> None:
        """Listen."""
        if self.error:
            raise self.error
        self.told.append((self._workflow_id, name, message))


async def intercepted(
    engine: AsyncEngine,
    environment: ActivityEnvironment,
    body: Body,
    message: object,
    listener: Listener | None = None,
) -> object:
    """Run the activity behind the interceptor."""
    client = cast("Client", listener or Listener())
    inbound = OperationInterceptor(engine, client).intercept_activity(_Activity(body))
    input = ExecuteActivityInput(fn=body, args=[message], executor=None, headers={})
    answer: object = await environment.run(inbound.execute_activity, input)
    return answer


async def database_now(engine: AsyncEngine) -> datetime:
    """The time of the database's clock."""
    async with engine.connect() as connection:
        now: datetime = (await connection.execute(select(func.now()))).scalar_one()
        return now


def raising(error: BaseException) -> Body:
    """An activity that fails."""

    async def body(_: object) -> object:
        raise error

    return body


async def failure(
    engine: AsyncEngine,
    environment: ActivityEnvironment,
    error: BaseException,
    message: object,
    listener: Listener | None = None,
) -> ApplicationError:
    """What Temporal is told when the activity fails so."""
    with pytest.raises(ApplicationError) as told:
        await intercepted(engine, environment, raising(error), message, listener)
    return told.value


async def test_the_result_of_an_activity_is_passed_on(engine: AsyncEngine, environment: ActivityEnvironment) -> None:
    input = await add_held_vm(engine, Action.STOP)

    async def body(message: object) -> object:
        return message

    assert await intercepted(engine, environment, body, input) is input


@pytest.mark.parametrize("error", [SupersededError("Too late."), IllegalStepError("No such step.")])
async def test_a_service_error_is_not_retryable_and_keeps_its_code(
    engine: AsyncEngine, environment: ActivityEnvironment, error: ServiceError
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    before = await read_operation(engine, input.operation_id)
    told = await failure(engine, environment, error, input)
    assert (told.type, told.message, told.non_retryable) == (error.code, str(error), True)
    assert await read_operation(engine, input.operation_id) == before


@pytest.mark.parametrize("error", [BUSY, REFUSED])
async def test_a_backend_error_keeps_its_code_and_whether_it_is_retryable(
    engine: AsyncEngine, environment: ActivityEnvironment, error: BackendError
) -> None:
    told = await failure(engine, environment, error, await add_held_vm(engine, Action.STOP))
    assert (told.type, told.message, told.non_retryable) == (error.code, str(error), not error.retryable)


async def test_a_failed_attempt_is_recorded_with_the_time_of_the_next_one(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    for attempt, pause in ((1, 1), (2, 2), (3, 4), (4, 5), (50, 5)):
        environment.info = replace(environment.info, attempt=attempt)
        before = await database_now(engine)
        await failure(engine, environment, BUSY, input)
        after = await database_now(engine)
        operation = await read_operation(engine, input.operation_id)
        assert (operation.attempt, operation.last_error) == (attempt, "The cloud is busy.")
        assert operation.next_retry_at
        assert before <= operation.next_retry_at - timedelta(seconds=pause) <= after


async def test_only_attempts_that_are_powers_of_two_are_signaled_to_the_workflow(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input, listener = await add_held_vm(engine, Action.STOP), Listener()
    for attempt in range(1, 40):
        environment.info = replace(environment.info, attempt=attempt)
        await failure(engine, environment, BUSY, input, listener)
    info = environment.info
    assert {(workflow, signal) for workflow, signal, _ in listener.told} == {(info.workflow_id, "note_failed_attempt")}
    told = [message for _, _, message in listener.told]
    assert told == [FailedAttemptInput(info.activity_type, n, "The cloud is busy.") for n in (1, 2, 4, 8, 16, 32)]


async def test_a_workflow_that_cannot_be_signaled_does_not_change_the_error(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input, listener = await add_held_vm(engine, Action.STOP), Listener()
    listener.error = RPCError("gone", RPCStatusCode.NOT_FOUND, b"")
    told = await failure(engine, environment, BUSY, input, listener)
    assert (told.type, told.non_retryable) == ("busy", False)
    assert (await read_operation(engine, input.operation_id)).last_error == "The cloud is busy."


async def test_a_failure_that_is_not_retryable_is_not_signaled(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    listener = Listener()
    await failure(engine, environment, REFUSED, await add_held_vm(engine, Action.STOP), listener)
    assert listener.told == []


async def test_a_failure_that_is_not_retryable_records_no_next_attempt(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    await failure(engine, environment, REFUSED, input)
    assert (await read_operation(engine, input.operation_id)).next_retry_at is None


async def test_a_failure_is_recorded_without_a_retry_policy_too(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    environment.info = replace(environment.info, retry_policy=None)
    input = await add_held_vm(engine, Action.STOP)
    await failure(engine, environment, BUSY, input)
    assert (await read_operation(engine, input.operation_id)).last_error == "The cloud is busy."


async def test_the_pause_of_a_very_late_attempt_does_not_overflow(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    """A step that is retried for ever reaches attempts for which the doubling alone would overflow."""
    policy = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
    environment.info = replace(environment.info, attempt=2_000, retry_policy=policy)
    input = await add_held_vm(engine, Action.STOP)
    assert (await failure(engine, environment, BUSY, input)).type == "busy"
    assert (await read_operation(engine, input.operation_id)).attempt == 2_000


@pytest.mark.parametrize(
    "wrap",
    [
        lambda operation: WaitForServerInput(operation, ServerStatus.ACTIVE),
        lambda operation: FailOperationInput(operation, "no_luck", "It went wrong."),
        lambda operation: WorkflowsInput(operation, ("a-workflow",)),
    ],
)
async def test_the_operation_is_found_in_every_message(
    engine: AsyncEngine, environment: ActivityEnvironment, wrap: Callable[[OperationInput], object]
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    await failure(engine, environment, BUSY, wrap(input))
    assert (await read_operation(engine, input.operation_id)).last_error == "The cloud is busy."


async def test_an_unexpected_error_is_retryable_and_shows_only_its_type(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    error = await failure(engine, environment, ZeroDivisionError("secret detail"), input)
    assert (error.type, error.message, error.non_retryable) == (
        "internal_error",
        "Internal error: ZeroDivisionError",
        False,
    )
    assert error.__cause__ is None
    operation = await read_operation(engine, input.operation_id)
    assert operation.last_error == "Internal error: ZeroDivisionError"


async def test_the_error_is_reported_even_if_the_database_is_down(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    away = create_async_engine("postgresql+asyncpg://postgres@127.0.0.1:1/none")
    assert (await failure(away, environment, BUSY, input)).type == "busy"
    await away.dispose()


async def test_heartbeats_are_sent_until_the_activity_ends(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    beats: list[None] = []
    third = asyncio.Event()

    def beat(*_: object) -> None:
        beats.append(None)
        if len(beats) == 3:
            third.set()

    async def body(_: object) -> object:
        return await third.wait()

    environment.on_heartbeat = beat
    environment.info = replace(environment.info, heartbeat_timeout=timedelta(seconds=0.04))
    async with asyncio.timeout(5):
        await intercepted(engine, environment, body, await add_held_vm(engine, Action.STOP))
    at_end = len(beats)
    await asyncio.sleep(0.05)
    assert len(beats) == at_end


@pytest.mark.parametrize(("late", "beats"), [(timedelta(0), 0), (timedelta(hours=1), 1)])
async def test_a_short_activity_sends_a_heartbeat_only_if_it_began_late(
    engine: AsyncEngine, environment: ActivityEnvironment, late: timedelta, beats: int
) -> None:
    """Each beat is a call to Temporal, and most activities end before the first is due."""
    heard: list[object] = []
    environment.on_heartbeat = lambda *details: heard.append(details)
    began = datetime.now(UTC) - late
    environment.info = replace(environment.info, heartbeat_timeout=timedelta(hours=1), started_time=began)

    async def body(_: object) -> None:
        await asyncio.sleep(0.05)

    await intercepted(engine, environment, body, await add_held_vm(engine, Action.STOP))
    assert len(heard) == beats


async def _canceled(engine: AsyncEngine, environment: ActivityEnvironment, why: ActivityCancellationDetails) -> None:
    """Cancel an activity while it runs."""
    running = asyncio.Event()

    async def body(_: object) -> object:
        running.set()
        return await asyncio.Event().wait()

    input = await add_held_vm(engine, Action.STOP)
    call = asyncio.create_task(intercepted(engine, environment, body, input))
    await running.wait()
    environment.cancel(why)
    async with asyncio.timeout(5):
        await call


async def test_a_worker_shutdown_is_a_retryable_error_and_not_a_cancel(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    with pytest.raises(ApplicationError) as told:
        await _canceled(engine, environment, ActivityCancellationDetails(worker_shutdown=True))
    assert (told.value.type, told.value.non_retryable) == ("worker_shutdown", False)


@pytest.mark.parametrize(
    "why",
    [
        ActivityCancellationDetails(cancel_requested=True),
        ActivityCancellationDetails(not_found=True),
        ActivityCancellationDetails(timed_out=True),
    ],
)
async def test_a_cancel_from_the_server_is_passed_on_as_a_cancel(
    engine: AsyncEngine, environment: ActivityEnvironment, why: ActivityCancellationDetails
) -> None:
    with pytest.raises(asyncio.CancelledError):
        await _canceled(engine, environment, why)


async def test_a_new_attempt_is_recorded_and_has_no_retry_time(engine: AsyncEngine) -> None:
    """Also where the activity itself records nothing, as a wait."""
    input = await add_held_vm(engine, Action.STOP)
    environment = ActivityEnvironment()
    await failure(engine, environment, BUSY, WaitForServerInput(input, ServerStatus.SHUTOFF))
    assert (await read_operation(engine, input.operation_id)).next_retry_at
    environment.info = replace(environment.info, attempt=2)

    async def look(_: object) -> None:
        operation = await read_operation(engine, input.operation_id)
        assert (operation.attempt, operation.next_retry_at, operation.last_error) == (2, None, str(BUSY))

    await intercepted(engine, environment, look, WaitForServerInput(input, ServerStatus.SHUTOFF))
