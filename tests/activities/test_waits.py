"""Waiting: many waiters share one look at the cloud, and none is answered from a look that began before it asked."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import servers
from activities.backends.protocol import BackendError, Server, Token
from activities.waits import WAIT_LIMIT, Poll, WaitActivities
from domain.rules.cloud import ServerStatus
from domain.rules.messages import OperationInput, WaitForServerInput
from domain.rules.states import Action
from domain.settings import Settings
from tests.activities.cloud import ENDLESS_DELAYS, server_spec
from tests.activities.conftest import Run
from tests.support.rows import add_held_vm


class RecordingBackend(MockBackend):
    """The mock cloud, which notes every look at it and can be made to hold one up."""

    poll_interval = 0.05

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.looks: list[set[UUID]] = []
        self.looking = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def list_servers(self, vm_ids: Collection[UUID]) -> Mapping[UUID, Server]:
        self.looks.append(set(vm_ids))
        seen = await super().list_servers(vm_ids)
        self.looking.set()
        await self.may_answer.wait()
        return seen


@pytest.fixture
async def cloud(settings: Settings) -> AsyncIterator[RecordingBackend]:
    """A recording cloud where nothing that is begun comes to an end by itself."""
    backend = RecordingBackend(settings.model_copy(update=ENDLESS_DELAYS))
    await backend.prepare()
    yield backend
    await backend.close()


async def add_server(cloud: MockBackend) -> UUID:
    """A server that is being built."""
    vm_id = uuid4()
    await cloud.create_server(Token(uuid4(), "spawning"), server_spec(vm_id))
    return vm_id


async def turn(engine: AsyncEngine, vm_ids: Collection[UUID], status: ServerStatus, fault: str | None = None) -> None:
    """The servers are in this status from now on."""
    values = {"status": status, "fault": fault, "due_at": None}
    async with engine.begin() as tx:
        await tx.execute(update(servers).where(servers.c.vm_id.in_(vm_ids)).values(values))


def waiting_for(vm_id: UUID, status: ServerStatus) -> WaitForServerInput:
    """The wait of some operation on the VM."""
    return WaitForServerInput(OperationInput(uuid4(), vm_id, Action.CREATE), status)


async def looks(cloud: RecordingBackend, number: int) -> None:
    """Return once the cloud has been looked at so many times more."""
    for _ in range(number):
        await cloud.looking.wait()
        cloud.looking.clear()


async def test_a_hundred_waiters_share_each_poll(cloud: RecordingBackend, engine: AsyncEngine, run: Run) -> None:
    waits, vm_ids = WaitActivities(engine, cloud), [await add_server(cloud) for _ in range(100)]
    asked = [waiting_for(vm_id, ServerStatus.ACTIVE) for vm_id in vm_ids]
    tasks = [asyncio.create_task(run(waits.wait_for_server, wait)) for wait in asked]
    async with asyncio.timeout(20):
        await looks(cloud, 3)
        await turn(engine, vm_ids, ServerStatus.ACTIVE)
        by_then = len(cloud.looks)
        await asyncio.gather(*tasks)
    assert all(look == set(vm_ids) for look in cloud.looks)
    assert 3 <= by_then <= len(cloud.looks) <= by_then + 2


async def test_polls_are_an_interval_apart(cloud: RecordingBackend) -> None:
    poll, vm_id, loop = (
        Poll(cloud.list_servers, cloud.poll_interval),
        await add_server(cloud),
        asyncio.get_running_loop(),
    )
    began = loop.time()
    for _ in range(4):
        await poll.next_result(vm_id)
    assert loop.time() - began >= 4 * cloud.poll_interval - 0.01
    assert cloud.looks == [{vm_id}] * 4


async def test_a_waiter_never_gets_the_result_of_a_poll_that_began_before_it(
    cloud: RecordingBackend, engine: AsyncEngine
) -> None:
    poll, vm_id = Poll(cloud.list_servers, cloud.poll_interval), await add_server(cloud)
    cloud.may_answer.clear()
    async with asyncio.timeout(5):
        early = asyncio.create_task(poll.next_result(vm_id))
        await cloud.looking.wait()
        await turn(engine, [vm_id], ServerStatus.ACTIVE)
        late = asyncio.create_task(poll.next_result(vm_id))
        await asyncio.sleep(0)
        cloud.may_answer.set()
        before, after = await early, await late
    assert before
    assert after
    assert (before.status, after.status) == (ServerStatus.BUILD, ServerStatus.ACTIVE)
    assert cloud.looks == [{vm_id}, {vm_id}]


async def test_there_is_no_poll_without_a_waiter(cloud: RecordingBackend) -> None:
    poll, vm_id = Poll(cloud.list_servers, cloud.poll_interval), await add_server(cloud)
    await poll.next_result(vm_id)
    await asyncio.sleep(3 * cloud.poll_interval)
    assert len(cloud.looks) == 1


async def test_a_waiter_that_is_cancelled_does_not_cancel_the_poll_of_others(cloud: RecordingBackend) -> None:
    poll, vm_id = Poll(cloud.list_servers, cloud.poll_interval), await add_server(cloud)
    leaving, staying = asyncio.create_task(poll.next_result(vm_id)), asyncio.create_task(poll.next_result(vm_id))
    await asyncio.sleep(0)
    leaving.cancel()
    server = await staying
    assert server
    assert server.status is ServerStatus.BUILD
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_a_poll_that_fails_fails_its_waiters_and_not_later_ones(cloud: RecordingBackend) -> None:
    vm_id = await add_server(cloud)

    async def look_at(vm_ids: Collection[UUID]) -> Mapping[UUID, Server]:
        if fails:
            raise BackendError("unreachable", "The cloud does not answer.", retryable=True)
        return await cloud.list_servers(vm_ids)

    poll, fails = Poll(look_at, cloud.poll_interval), True
    results = await asyncio.gather(*(poll.next_result(vm_id) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [BackendError] * 3
    fails = False
    assert await poll.next_result(vm_id)


@pytest.mark.parametrize("status", [ServerStatus.ACTIVE, ServerStatus.SHUTOFF])
async def test_a_wait_ends_when_the_server_has_the_status(
    cloud: RecordingBackend, engine: AsyncEngine, run: Run, status: ServerStatus
) -> None:
    vm_id = await add_server(cloud)
    wait = asyncio.create_task(run(WaitActivities(engine, cloud).wait_for_server, waiting_for(vm_id, status)))
    async with asyncio.timeout(5):
        await cloud.looking.wait()
        assert not wait.done()
        await turn(engine, [vm_id], status)
        await wait


async def test_a_wait_for_a_delete_ends_when_the_server_is_gone(
    cloud: RecordingBackend, engine: AsyncEngine, run: Run
) -> None:
    vm_id = await add_server(cloud)
    wait = asyncio.create_task(
        run(WaitActivities(engine, cloud).wait_for_server, waiting_for(vm_id, ServerStatus.GONE))
    )
    async with asyncio.timeout(5):
        await cloud.looking.wait()
        assert not wait.done()
        await cloud.purge(vm_id)
        await wait


async def test_a_wait_finds_a_server_that_was_built_before_the_first_poll(
    cloud: RecordingBackend, engine: AsyncEngine, run: Run
) -> None:
    vm_id = await add_server(cloud)
    async with engine.begin() as tx:
        await tx.execute(update(servers).values(due_at=func.now()))
    await run(WaitActivities(engine, cloud).wait_for_server, waiting_for(vm_id, ServerStatus.ACTIVE))


@pytest.mark.parametrize(("fault", "said"), [("No memory left.", "No memory left."), (None, "ERROR")])
async def test_a_wait_fails_if_the_server_is_in_error(
    cloud: RecordingBackend, engine: AsyncEngine, run: Run, fault: str | None, said: str
) -> None:
    vm_id = await add_server(cloud)
    await turn(engine, [vm_id], ServerStatus.ERROR, fault)
    with pytest.raises(BackendError, match=said) as refusal:
        await run(WaitActivities(engine, cloud).wait_for_server, waiting_for(vm_id, ServerStatus.ACTIVE))
    assert (refusal.value.code, refusal.value.retryable) == ("server_error", False)


async def test_a_wait_fails_if_the_server_is_gone(cloud: RecordingBackend, engine: AsyncEngine, run: Run) -> None:
    with pytest.raises(BackendError) as refusal:
        await run(WaitActivities(engine, cloud).wait_for_server, waiting_for(uuid4(), ServerStatus.ACTIVE))
    assert (refusal.value.code, refusal.value.retryable) == ("server_gone", False)


async def test_a_wait_continues_if_the_server_is_in_error_but_busy(
    cloud: RecordingBackend, engine: AsyncEngine, run: Run
) -> None:
    vm_id = await add_server(cloud)
    await turn(engine, [vm_id], ServerStatus.ERROR)
    await cloud.stop_server(Token(uuid4(), "powering_off"), vm_id)
    waits = WaitActivities(engine, cloud)
    wait = asyncio.create_task(run(waits.wait_for_server, waiting_for(vm_id, ServerStatus.SHUTOFF)))
    async with asyncio.timeout(5):
        await cloud.looking.wait()
        await turn(engine, [vm_id], ServerStatus.SHUTOFF)
        await wait


@pytest.mark.parametrize("status", [ServerStatus.ACTIVE, ServerStatus.SHUTOFF])
async def test_a_wait_for_a_resize_fails_if_the_server_is_idle_at_its_old_size(
    cloud: RecordingBackend, engine: AsyncEngine, run: Run, status: ServerStatus
) -> None:
    vm_id = await add_server(cloud)
    await turn(engine, [vm_id], status)
    with pytest.raises(BackendError) as refusal:
        async with asyncio.timeout(5):
            await run(WaitActivities(engine, cloud).wait_for_server, waiting_for(vm_id, ServerStatus.VERIFY_RESIZE))
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
    cloud: RecordingBackend, engine: AsyncEngine, run: Run, status: ServerStatus, wanted: ServerStatus
) -> None:
    vm_id = await add_server(cloud)
    async with engine.begin() as tx:
        await tx.execute(update(servers).values(status=status))  # still due, and therefore busy
    wait = asyncio.create_task(run(WaitActivities(engine, cloud).wait_for_server, waiting_for(vm_id, wanted)))
    async with asyncio.timeout(5):
        await looks(cloud, 3)
        assert not wait.done()
        await turn(engine, [vm_id], wanted)
        await wait


@pytest.mark.parametrize("wanted", [ServerStatus.SHUTOFF, ServerStatus.GONE])
async def test_other_waits_continue_while_the_server_is_idle(
    cloud: RecordingBackend, engine: AsyncEngine, run: Run, wanted: ServerStatus
) -> None:
    vm_id = await add_server(cloud)
    await turn(engine, [vm_id], ServerStatus.ACTIVE)
    wait = asyncio.create_task(run(WaitActivities(engine, cloud).wait_for_server, waiting_for(vm_id, wanted)))
    async with asyncio.timeout(5):
        await looks(cloud, 3)
        assert not wait.done()
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait


async def test_an_overdue_wait_fails_only_after_a_poll(
    cloud: RecordingBackend, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    waits, vm_id = WaitActivities(engine, cloud), await add_server(cloud)
    long_ago = datetime.now(UTC) - WAIT_LIMIT - timedelta(seconds=1)
    environment.info = replace(environment.info, scheduled_time=long_ago)
    with pytest.raises(BackendError, match="within 30 minutes") as refusal:
        await environment.run(waits.wait_for_server, waiting_for(vm_id, ServerStatus.ACTIVE))
    assert (refusal.value.code, refusal.value.retryable) == ("timed_out", False)
    await turn(engine, [vm_id], ServerStatus.ACTIVE)
    await environment.run(waits.wait_for_server, waiting_for(vm_id, ServerStatus.ACTIVE))


async def test_a_poll_that_is_not_answered_fails_and_is_retryable(
    cloud: RecordingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.waits.POLL_TIMEOUT", 0.05)
    poll, vm_id = Poll(cloud.list_servers, cloud.poll_interval), await add_server(cloud)
    cloud.may_answer.clear()
    with pytest.raises(BackendError) as refusal:
        await poll.next_result(vm_id)
    assert (refusal.value.code, refusal.value.retryable) == ("no_answer", True)
    monkeypatch.undo()
    cloud.may_answer.set()
    assert await poll.next_result(vm_id)


async def test_settling_waits_until_the_server_is_idle_and_refuses_later_calls(
    cloud: RecordingBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    await cloud.create_server(Token(uuid4(), "spawning"), server_spec(input.vm))
    settling = asyncio.create_task(run(WaitActivities(engine, cloud).settle_server, input))
    async with asyncio.timeout(5):
        await cloud.looking.wait()
        assert not settling.done()
        await turn(engine, [input.vm], ServerStatus.ACTIVE)
        assert await settling is ServerStatus.ACTIVE
    with pytest.raises(BackendError, match="revoked"):
        await cloud.stop_server(Token(input.operation_id, "powering_off"), input.vm)


async def test_settling_a_missing_server_returns_gone(cloud: RecordingBackend, engine: AsyncEngine, run: Run) -> None:
    input = await add_held_vm(engine, Action.DELETE)
    assert await run(WaitActivities(engine, cloud).settle_server, input) is ServerStatus.GONE


async def test_a_server_that_is_being_deleted_cannot_be_stopped(cloud: RecordingBackend) -> None:
    vm_id = await add_server(cloud)
    await cloud.delete_server(Token(uuid4(), "deleting"), vm_id)
    with pytest.raises(BackendError) as refusal:
        await cloud.stop_server(Token(uuid4(), "powering_off"), vm_id)
    assert refusal.value.code == "server_not_found"
