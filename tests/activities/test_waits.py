"""Waiting for servers: a wait ends when the server has the status, or fails once it will never have it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.backends.mock.schema import servers
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from activities.patience import WAIT_LIMIT
from activities.waits import WaitActivities
from domain.rules.cloud import ServerStatus
from domain.rules.states import Action
from tests.activities.cloud import server_spec
from tests.activities.conftest import Run
from tests.activities.polled_cloud import PolledCloud, add_building_server, set_status, waiting_for
from tests.support.rows import add_held_vm


@pytest.mark.parametrize("status", [ServerStatus.ACTIVE, ServerStatus.SHUTOFF])
async def test_a_wait_ends_when_the_server_has_the_status(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, status: ServerStatus
) -> None:
    vm_id = await add_building_server(polled_cloud)
    wait = asyncio.create_task(run(WaitActivities(engine, polled_cloud).wait_for_server, waiting_for(vm_id, status)))
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls()
        assert not wait.done()
        await set_status(engine, [vm_id], status)
        await wait


async def test_a_wait_for_a_delete_ends_when_the_server_is_gone(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run
) -> None:
    vm_id = await add_building_server(polled_cloud)
    wait = asyncio.create_task(
        run(WaitActivities(engine, polled_cloud).wait_for_server, waiting_for(vm_id, ServerStatus.GONE))
    )
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls()
        assert not wait.done()
        await polled_cloud.purge(Ref(vm_id))
        await wait


async def test_a_wait_finds_a_server_that_was_built_before_the_first_poll(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run
) -> None:
    vm_id = await add_building_server(polled_cloud)
    async with engine.begin() as tx:
        await tx.execute(update(servers).values(due_at=func.now()))
    await run(WaitActivities(engine, polled_cloud).wait_for_server, waiting_for(vm_id, ServerStatus.ACTIVE))


@pytest.mark.parametrize(("fault", "message"), [("No memory left.", "No memory left."), (None, "ERROR")])
async def test_a_wait_fails_if_the_server_is_in_error(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, fault: str | None, message: str
) -> None:
    vm_id = await add_building_server(polled_cloud)
    await set_status(engine, [vm_id], ServerStatus.ERROR, fault)
    with pytest.raises(BackendError, match=message) as refusal:
        await run(WaitActivities(engine, polled_cloud).wait_for_server, waiting_for(vm_id, ServerStatus.ACTIVE))
    assert (refusal.value.code, refusal.value.retryable) == ("server_error", False)


async def test_a_wait_fails_if_the_server_is_gone(polled_cloud: PolledCloud, engine: AsyncEngine, run: Run) -> None:
    with pytest.raises(BackendError) as refusal:
        await run(WaitActivities(engine, polled_cloud).wait_for_server, waiting_for(uuid4(), ServerStatus.ACTIVE))
    assert (refusal.value.code, refusal.value.retryable) == ("server_gone", False)


async def test_a_wait_continues_if_the_server_is_in_error_but_busy(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run
) -> None:
    vm_id = await add_building_server(polled_cloud)
    await set_status(engine, [vm_id], ServerStatus.ERROR)
    await polled_cloud.stop_server(Token(uuid4(), "powering_off"), Ref(vm_id))
    waits = WaitActivities(engine, polled_cloud)
    wait = asyncio.create_task(run(waits.wait_for_server, waiting_for(vm_id, ServerStatus.SHUTOFF)))
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls()
        await set_status(engine, [vm_id], ServerStatus.SHUTOFF)
        await wait


@pytest.mark.parametrize("status", [ServerStatus.ACTIVE, ServerStatus.SHUTOFF])
async def test_a_wait_for_a_resize_fails_if_the_server_is_idle_at_its_old_size(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, status: ServerStatus
) -> None:
    vm_id = await add_building_server(polled_cloud)
    await set_status(engine, [vm_id], status)
    waits = WaitActivities(engine, polled_cloud)
    with pytest.raises(BackendError) as refusal:
        async with asyncio.timeout(5):
            await run(waits.wait_for_server, waiting_for(vm_id, ServerStatus.VERIFY_RESIZE))
    assert (refusal.value.code, refusal.value.retryable) == ("no_valid_host", False)


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (ServerStatus.ACTIVE, ServerStatus.VERIFY_RESIZE),
        (ServerStatus.SHUTOFF, ServerStatus.VERIFY_RESIZE),
        (ServerStatus.RESIZE, ServerStatus.VERIFY_RESIZE),
        (ServerStatus.VERIFY_RESIZE, ServerStatus.ACTIVE),
        (ServerStatus.REVERT_RESIZE, ServerStatus.SHUTOFF),
    ],
)
async def test_a_wait_for_a_resize_continues_while_the_server_is_busy(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, status: ServerStatus, wanted: ServerStatus
) -> None:
    vm_id = await add_building_server(polled_cloud)
    async with engine.begin() as tx:
        await tx.execute(update(servers).values(status=status))  # a change is still due, so they are busy
    wait = asyncio.create_task(run(WaitActivities(engine, polled_cloud).wait_for_server, waiting_for(vm_id, wanted)))
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls(3)
        assert not wait.done()
        await set_status(engine, [vm_id], wanted)
        await wait


@pytest.mark.parametrize("wanted", [ServerStatus.SHUTOFF, ServerStatus.GONE])
async def test_other_waits_continue_while_the_server_is_idle(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, wanted: ServerStatus
) -> None:
    vm_id = await add_building_server(polled_cloud)
    await set_status(engine, [vm_id], ServerStatus.ACTIVE)
    wait = asyncio.create_task(run(WaitActivities(engine, polled_cloud).wait_for_server, waiting_for(vm_id, wanted)))
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls(3)
        assert not wait.done()
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait


async def test_only_a_delete_that_takes_long_is_asked_about_while_the_server_is_busy(
    polled_cloud: PolledCloud, engine: AsyncEngine, environment: ActivityEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = WaitActivities(engine, polled_cloud)
    vm_id, asked = await add_building_server(polled_cloud), asyncio.Event()

    async def is_over(operation_id: UUID, vm: Ref) -> bool:
        del operation_id
        assert vm.id == vm_id
        asked.set()
        return False

    monkeypatch.setattr(polled_cloud, "is_over", is_over)
    for age, status in ((0, ServerStatus.GONE), (60, ServerStatus.ACTIVE), (60, ServerStatus.GONE)):
        assert not asked.is_set()
        environment.info = replace(environment.info, scheduled_time=datetime.now(UTC) - timedelta(seconds=age))
        wait = asyncio.create_task(environment.run(waits.wait_for_server, waiting_for(vm_id, status)))
        await polled_cloud.wait_for_polls(3)
        wait.cancel()
        await asyncio.wait([wait])
    assert asked.is_set()


async def test_an_overdue_wait_fails_only_after_a_poll(
    polled_cloud: PolledCloud, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    waits, vm_id = WaitActivities(engine, polled_cloud), await add_building_server(polled_cloud)
    long_ago = datetime.now(UTC) - WAIT_LIMIT - timedelta(seconds=1)
    environment.info = replace(environment.info, scheduled_time=long_ago)
    with pytest.raises(BackendError, match="within 30 minutes") as refusal:
        await environment.run(waits.wait_for_server, waiting_for(vm_id, ServerStatus.ACTIVE))
    assert (refusal.value.code, refusal.value.retryable) == ("timed_out", False)
    await set_status(engine, [vm_id], ServerStatus.ACTIVE)
    await environment.run(waits.wait_for_server, waiting_for(vm_id, ServerStatus.ACTIVE))


@pytest.mark.parametrize("hours", [-2, 2])
async def test_the_clock_of_the_workers_machine_may_be_wrong(
    polled_cloud: PolledCloud, engine: AsyncEngine, environment: ActivityEnvironment, hours: int
) -> None:
    waits, vm_id = WaitActivities(engine, polled_cloud), await add_building_server(polled_cloud)
    now = datetime.now(UTC) + timedelta(hours=hours)  # by Temporal's clock
    environment.info = replace(environment.info, scheduled_time=now - WAIT_LIMIT / 2, started_time=now)
    wait = asyncio.create_task(environment.run(waits.wait_for_server, waiting_for(vm_id, ServerStatus.ACTIVE)))
    await polled_cloud.wait_for_polls(3)
    assert not wait.done()
    wait.cancel()
    await asyncio.wait([wait])
    environment.info = replace(environment.info, scheduled_time=now - WAIT_LIMIT * 2)
    with pytest.raises(BackendError, match="within 30 minutes"):
        await environment.run(waits.wait_for_server, waiting_for(vm_id, ServerStatus.ACTIVE))


async def test_settling_waits_until_the_server_is_idle_and_refuses_later_calls(
    polled_cloud: PolledCloud, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    await polled_cloud.create_server(Token(uuid4(), "spawning"), server_spec(input.vm))
    settling = asyncio.create_task(run(WaitActivities(engine, polled_cloud).settle_server, input))
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls()
        assert not settling.done()
        await set_status(engine, [input.vm], ServerStatus.ACTIVE)
        assert await settling is ServerStatus.ACTIVE
    with pytest.raises(BackendError, match="revoked"):
        await polled_cloud.stop_server(Token(input.operation_id, "powering_off"), Ref(input.vm))


async def test_settling_a_missing_server_returns_gone(polled_cloud: PolledCloud, engine: AsyncEngine, run: Run) -> None:
    input = await add_held_vm(engine, Action.DELETE)
    assert await run(WaitActivities(engine, polled_cloud).settle_server, input) is ServerStatus.GONE


async def test_a_server_that_is_being_deleted_cannot_be_stopped(polled_cloud: PolledCloud) -> None:
    vm_id = await add_building_server(polled_cloud)
    await polled_cloud.delete_server(Token(uuid4(), "deleting"), Ref(vm_id))
    with pytest.raises(BackendError) as refusal:
        await polled_cloud.stop_server(Token(uuid4(), "powering_off"), Ref(vm_id))
    assert refusal.value.code == "server_not_found"
