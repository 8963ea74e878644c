"""What is common to all activities: coded errors, and failed attempts that show on their operation."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.backends.protocol import BackendError
from domain import logs
from domain.data import outages
from domain.data.outages import OutageLog
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
from tests.activities.intercepted import BUSY, REFUSED, SignalRecorder, failure, intercepted
from tests.support.rows import add_held_vm, read_operation


@pytest.fixture(autouse=True)
def _own_outage_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each test see the first outage of the process."""
    monkeypatch.setattr(outages, "log", OutageLog())


async def database_now(engine: AsyncEngine) -> datetime:
    """Return the time of the database's clock."""
    async with engine.connect() as connection:
        now: datetime = (await connection.execute(select(func.now()))).scalar_one()
        return now


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
    raised = await failure(engine, environment, error, input)
    assert (raised.type, raised.message, raised.non_retryable) == (error.code, str(error), True)
    assert await read_operation(engine, input.operation_id) == before


@pytest.mark.parametrize("error", [BUSY, REFUSED])
async def test_a_backend_error_keeps_its_code_and_whether_it_is_retryable(
    engine: AsyncEngine, environment: ActivityEnvironment, error: BackendError
) -> None:
    raised = await failure(engine, environment, error, await add_held_vm(engine, Action.STOP))
    assert (raised.type, raised.message, raised.non_retryable) == (error.code, str(error), not error.retryable)


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


@pytest.mark.parametrize(("attempt", "wish", "pause"), [(1, 7.0, 7.0), (50, 3.0, 5.0)])
async def test_the_next_attempt_is_not_before_the_time_that_the_cloud_asks_for(
    engine: AsyncEngine, environment: ActivityEnvironment, attempt: int, wish: float, pause: float
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    environment.info = replace(environment.info, attempt=attempt)
    before = await database_now(engine)
    error = BackendError("rate_limited", "The cloud asks for a pause.", retryable=True, retry_after=wish)
    raised = await failure(engine, environment, error, input)
    operation = await read_operation(engine, input.operation_id)
    assert operation.next_retry_at
    assert raised.next_retry_delay == timedelta(seconds=pause)
    assert before <= operation.next_retry_at - timedelta(seconds=pause) <= await database_now(engine)


async def test_only_attempts_that_are_powers_of_two_are_signaled_to_the_workflow(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input, recorder = await add_held_vm(engine, Action.STOP), SignalRecorder()
    for attempt in range(1, 40):
        environment.info = replace(environment.info, attempt=attempt)
        await failure(engine, environment, BUSY, input, recorder)
    info = environment.info
    assert {(workflow, signal) for workflow, signal, _ in recorder.signals} == {
        (info.workflow_id, "note_failed_attempt")
    }
    failures = [message for _, _, message in recorder.signals]
    assert failures == [FailedAttemptInput(info.activity_type, n, "The cloud is busy.") for n in (1, 2, 4, 8, 16, 32)]


async def test_a_workflow_that_cannot_be_signaled_does_not_change_the_error(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input, recorder = await add_held_vm(engine, Action.STOP), SignalRecorder()
    recorder.error = RPCError("gone", RPCStatusCode.NOT_FOUND, b"")
    raised = await failure(engine, environment, BUSY, input, recorder)
    assert (raised.type, raised.non_retryable) == ("busy", False)
    assert (await read_operation(engine, input.operation_id)).last_error == "The cloud is busy."


async def test_a_failure_that_is_not_retryable_is_not_signaled(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    recorder = SignalRecorder()
    await failure(engine, environment, REFUSED, await add_held_vm(engine, Action.STOP), recorder)
    assert recorder.signals == []


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
    """A step that is retried for ever reaches attempts whose doubled pause no float can hold."""
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
    unreachable = create_async_engine("postgresql+asyncpg://postgres@127.0.0.1:1/none")
    assert (await failure(unreachable, environment, BUSY, input)).type == "busy"
    await unreachable.dispose()


async def test_an_outage_is_one_line_in_the_log_however_many_attempts_fail(
    engine: AsyncEngine, environment: ActivityEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    unreachable = create_async_engine("postgresql+asyncpg://postgres@127.0.0.1:1/none")
    input = await add_held_vm(engine, Action.STOP)
    for _ in range(5):
        error = await failure(unreachable, environment, ConnectionRefusedError("refused"), input)
        assert (error.type, error.non_retryable) == ("internal_error", False)
        assert error.category is ApplicationErrorCategory.BENIGN, "otherwise the SDK logs a traceback for each attempt"
    assert [record.getMessage() for record in caplog.records] == [
        "PostgreSQL is unavailable, work waits for it: ConnectionRefusedError: refused"
    ]
    await unreachable.dispose()


async def test_what_the_cloud_says_is_one_line_in_the_log_at_the_attempts_1_2_4_8(
    engine: AsyncEngine, environment: ActivityEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    for attempt, error in ((1, BUSY), (2, BUSY), (3, BUSY), (4, BUSY), (3, REFUSED)):
        environment.info = replace(environment.info, attempt=attempt, activity_type="wait_for_server")
        raised = await failure(engine, environment, error, input)
        assert raised.category is ApplicationErrorCategory.BENIGN, "otherwise the SDK logs a traceback for each attempt"
    assert [record.getMessage() for record in caplog.records] == [
        *(f"wait_for_server failed at attempt {attempt}: busy: The cloud is busy." for attempt in (1, 2, 4)),
        "wait_for_server failed at attempt 3: quota: The cloud's quota is used up.",
    ]


async def test_an_operation_that_another_one_supersedes_is_no_traceback_in_the_log(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    for error, category in (
        (SupersededError("Too late."), ApplicationErrorCategory.BENIGN),
        (IllegalStepError("No such step."), ApplicationErrorCategory.UNSPECIFIED),
    ):
        assert (await failure(engine, environment, error, input)).category is category


async def test_the_log_lines_of_an_activity_name_its_operation(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = await add_held_vm(engine, Action.STOP)

    async def body(_: object) -> str:
        return logs.operation_id.get()

    assert await intercepted(engine, environment, body, input) == str(input.operation_id)


async def test_a_new_attempt_is_recorded_and_has_no_retry_time(engine: AsyncEngine) -> None:
    """The interceptor records it, because some activities, such as the waits, record nothing themselves."""
    input = await add_held_vm(engine, Action.STOP)
    environment = ActivityEnvironment()
    await failure(engine, environment, BUSY, WaitForServerInput(input, ServerStatus.SHUTOFF))
    assert (await read_operation(engine, input.operation_id)).next_retry_at
    environment.info = replace(environment.info, attempt=2)

    async def check(_: object) -> None:
        operation = await read_operation(engine, input.operation_id)
        assert (operation.attempt, operation.next_retry_at, operation.last_error) == (2, None, str(BUSY))

    await intercepted(engine, environment, check, WaitForServerInput(input, ServerStatus.SHUTOFF))
