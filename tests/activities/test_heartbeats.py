"""Heartbeats of activities, and the difference between a cancel and the shutdown of a worker."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.activity import ActivityCancellationDetails
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from domain.rules.states import Action
from tests.activities.intercepted import intercepted
from tests.support.rows import add_held_vm


async def test_heartbeats_are_sent_until_the_activity_ends(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    sent: list[object] = []
    third = asyncio.Event()

    def record(*details: object) -> None:
        sent.append(details)
        if len(sent) == 3:
            third.set()

    async def body(_: object) -> object:
        return await third.wait()

    environment.on_heartbeat = record
    environment.info = replace(environment.info, heartbeat_timeout=timedelta(seconds=0.04))
    async with asyncio.timeout(5):
        await intercepted(engine, environment, body, await add_held_vm(engine, Action.STOP))
    at_end = len(sent)
    await asyncio.sleep(0.05)
    assert len(sent) == at_end


@pytest.mark.parametrize(("delay", "heartbeats"), [(timedelta(0), 0), (timedelta(hours=1), 1)])
async def test_a_short_activity_sends_a_heartbeat_only_if_it_began_late(
    engine: AsyncEngine, environment: ActivityEnvironment, delay: timedelta, heartbeats: int
) -> None:
    """Each heartbeat is a call to Temporal. Most activities end before the first is due."""
    sent: list[object] = []
    environment.on_heartbeat = lambda *details: sent.append(details)
    began = datetime.now(UTC) - delay
    environment.info = replace(environment.info, heartbeat_timeout=timedelta(hours=1), started_time=began)

    async def body(_: object) -> None:
        await asyncio.sleep(0.05)

    await intercepted(engine, environment, body, await add_held_vm(engine, Action.STOP))
    assert len(sent) == heartbeats


async def _cancel_running_activity(
    engine: AsyncEngine, environment: ActivityEnvironment, details: ActivityCancellationDetails
) -> None:
    """Cancel an activity while it runs."""
    running = asyncio.Event()

    async def body(_: object) -> object:
        running.set()
        return await asyncio.Event().wait()

    input = await add_held_vm(engine, Action.STOP)
    call = asyncio.create_task(intercepted(engine, environment, body, input))
    await running.wait()
    environment.cancel(details)
    async with asyncio.timeout(5):
        await call


async def test_a_worker_shutdown_is_a_retryable_error_and_not_a_cancel(
    engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    with pytest.raises(ApplicationError) as raised:
        await _cancel_running_activity(engine, environment, ActivityCancellationDetails(worker_shutdown=True))
    assert (raised.value.type, raised.value.non_retryable) == ("worker_shutdown", False)
    assert raised.value.category is ApplicationErrorCategory.BENIGN, "otherwise the SDK logs a traceback for each wait"


@pytest.mark.parametrize(
    "details",
    [
        ActivityCancellationDetails(cancel_requested=True),
        ActivityCancellationDetails(not_found=True),
        ActivityCancellationDetails(timed_out=True),
    ],
)
async def test_a_cancel_from_the_server_is_passed_on_as_a_cancel(
    engine: AsyncEngine, environment: ActivityEnvironment, details: ActivityCancellationDetails
) -> None:
    with pytest.raises(asyncio.CancelledError):
        await _cancel_running_activity(engine, environment, details)
