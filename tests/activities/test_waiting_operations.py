"""Waits learn from the database that their operation should not go on, and that the cloud answers again."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.backends.protocol import Token
from activities.waits import WaitActivities
from domain.data.models import Operation
from domain.progress import step_records
from domain.rules.cloud import ServerStatus
from domain.rules.errors import CanceledError, ServiceError, SupersededError
from domain.rules.messages import WAITS, Activity, OperationInput, WaitForServerInput
from domain.rules.states import Action
from domain.upkeep.attention import ATTENTION, MANY_ATTEMPTS
from tests.activities.cloud import server_spec
from tests.activities.conftest import Run
from tests.activities.intercepted import BUSY, failure, intercepted
from tests.activities.polled_cloud import PolledCloud, set_status
from tests.support.rows import add_held_vm, claim, read_operation


async def add_waiting(engine: AsyncEngine, cloud: PolledCloud, **values: Any) -> OperationInput:
    """Add a VM whose server is being built, and return its create."""
    input = await add_held_vm(engine, Action.CREATE, **values)
    await cloud.create_server(Token(uuid4(), "spawning"), server_spec(input.vm))
    return input


async def change(engine: AsyncEngine, input: OperationInput, **values: Any) -> None:
    """Change the operation's row."""
    async with engine.begin() as tx:
        await tx.execute(update(Operation).where(Operation.id == input.operation_id).values(values))


async def retrying(engine: AsyncEngine) -> list[Any]:
    """Return the operations that need attention because they are retried again and again."""
    async with engine.connect() as connection:
        rows = await connection.execute(ATTENTION)
        return [row.operation_id for row in rows if row.kind == "operation_retrying"]


async def supersede(engine: AsyncEngine, input: OperationInput) -> None:
    """Delete the VM."""
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.DELETE)


async def restart(engine: AsyncEngine, input: OperationInput) -> None:
    """Give the operation a new workflow."""
    await change(engine, input, epoch=1)


async def request_cancel(engine: AsyncEngine, input: OperationInput) -> None:
    """Request the operation's cancel."""
    await change(engine, input, cancel_requested_by="ada")


@pytest.mark.parametrize(
    ("stop", "error"), [(supersede, SupersededError), (restart, SupersededError), (request_cancel, CanceledError)]
)
async def test_a_wait_ends_once_its_operation_should_not_go_on(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, stop: Any, error: type[ServiceError]
) -> None:
    """It learns so from the database: its heartbeats, whose answers would tell it too, are far apart."""
    input, other = [await add_waiting(engine, polled_cloud) for _ in range(2)]
    waits = WaitActivities(engine, polled_cloud)
    wait, others_wait = [
        asyncio.create_task(run(waits.wait_for_server, WaitForServerInput(waiting, ServerStatus.ACTIVE)))
        for waiting in (input, other)
    ]
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls()
        assert not wait.done()
        await stop(engine, input)
        with pytest.raises(error):
            await wait
        await polled_cloud.wait_for_polls()
        assert not others_wait.done()
        await set_status(engine, [other.vm], ServerStatus.ACTIVE)
        await others_wait


async def test_a_request_to_cancel_does_not_end_the_observation_of_what_a_failure_has_left(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run
) -> None:
    input = await add_waiting(engine, polled_cloud, cancel_requested_by="ada")
    settling = asyncio.create_task(run(WaitActivities(engine, polled_cloud).settle_server, input))
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls(3)
        assert not settling.done()
        await supersede(engine, input)
        with pytest.raises(SupersededError):
            await settling


async def test_a_wait_goes_on_while_the_database_does_not_answer(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    input = await add_waiting(engine, polled_cloud)
    monkeypatch.setattr("activities.waiting_operations.CHECK_TIMEOUT", 0.0)
    waits = WaitActivities(engine, polled_cloud)
    wait = asyncio.create_task(run(waits.wait_for_server, WaitForServerInput(input, ServerStatus.ACTIVE)))
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls(2)
        await set_status(engine, [input.vm], ServerStatus.ACTIVE)
        await wait


async def test_a_healthy_wait_of_half_an_hour_needs_no_attention_and_one_that_fails_does(
    polled_cloud: PolledCloud, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    """A wait begins a new attempt every five minutes, and whenever its worker stops."""
    input = await add_waiting(engine, polled_cloud)
    message, waits = WaitForServerInput(input, ServerStatus.ACTIVE), WaitActivities(engine, polled_cloud)
    info = replace(environment.info, activity_type=Activity.WAIT_FOR_SERVER)
    for attempt in range(1, MANY_ATTEMPTS + 3):
        environment.info = replace(info, attempt=attempt)
        look = asyncio.create_task(intercepted(engine, environment, waits.wait_for_server, message))
        await polled_cloud.wait_for_polls(2)
        look.cancel()
        await asyncio.wait([look])
        assert await retrying(engine) == []
    await failure(engine, environment, BUSY, message)
    assert await retrying(engine) == [input.operation_id]
    environment.info = replace(info, attempt=attempt + 1)
    waits = WaitActivities(engine, polled_cloud)  # one whose check is due at its first poll
    look = asyncio.create_task(intercepted(engine, environment, waits.wait_for_server, message))
    await polled_cloud.wait_for_polls(2)
    assert await retrying(engine) == []
    operation = await read_operation(engine, input.operation_id)
    assert (operation.last_error, operation.next_retry_at) == (None, None)
    look.cancel()
    await asyncio.wait([look])


async def test_a_wait_shows_what_the_cloud_waits_for_until_it_goes_on(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.waiting_operations.CHECK_INTERVAL", 0.0)
    input, other = [await add_waiting(engine, polled_cloud, last_error="of an earlier poll") for _ in range(2)]
    polled_cloud.reasons[input.vm] = "Waiting for the host."
    waits = WaitActivities(engine, polled_cloud)
    messages = [WaitForServerInput(waiting, ServerStatus.ACTIVE) for waiting in (input, other)]
    tasks = [asyncio.create_task(run(waits.wait_for_server, message)) for message in messages]
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls(3)
        shown = [(await read_operation(engine, waiting.operation_id)).last_error for waiting in (input, other)]
        assert shown == ["Waiting for the host.", None]
        polled_cloud.reasons.clear()
        await polled_cloud.wait_for_polls(3)
        assert (await read_operation(engine, input.operation_id)).last_error is None
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("name", [name for name in Activity if name not in WAITS])
async def test_a_step_whose_attempts_all_hang_needs_attention(
    engine: AsyncEngine, environment: ActivityEnvironment, name: Activity
) -> None:
    """Temporal ends an attempt that hangs, and the attempt cannot record that."""
    input = await add_held_vm(engine, Action.STOP)
    environment.info = replace(environment.info, activity_type=name, attempt=MANY_ATTEMPTS)

    async def look(_: object) -> None:
        assert await retrying(engine) == [input.operation_id]

    await intercepted(engine, environment, look, input)


async def test_a_step_keeps_the_error_of_its_last_attempt_while_it_is_retried(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.STOP, last_error="of an earlier step")
    errors = []
    for attempt, error in ((1, None), (2, "busy"), (3, "busy again")):
        async with engine.begin() as tx:
            await step_records.enter(tx, input, attempt)
        errors.append((await read_operation(engine, input.operation_id)).last_error)
        async with engine.begin() as tx:
            if error:
                await step_records.note_failed_attempt(tx, input, attempt, error, 1.0)
    assert errors == [None, step_records.NO_ANSWER, "busy"]
