"""Polls: all waiters of a worker share them, and each gets a result that is newer than its question."""

import asyncio
from collections.abc import Collection, Mapping
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.protocol import BackendError
from activities.backends.resources import Ref, Server
from activities.waiting_operations import Waiter, WaitingOperations
from activities.waits import Poll, WaitActivities
from domain.rules.cloud import ServerStatus
from tests.activities.conftest import Run
from tests.activities.polled_cloud import PolledCloud, add_building_server, set_status, waiting_for


def waiter() -> Waiter:
    """Return a waiter whose operation the database does not have."""
    return Waiter(uuid4(), 0)


async def server_poll(cloud: PolledCloud, engine: AsyncEngine) -> tuple[Poll[Server], UUID]:
    """Return a poll of servers, and the VM of one that is being built."""
    return Poll(cloud.list_servers, cloud, WaitingOperations(engine)), await add_building_server(cloud)


async def test_a_hundred_waiters_share_each_poll(polled_cloud: PolledCloud, engine: AsyncEngine, run: Run) -> None:
    waits = WaitActivities(engine, polled_cloud)
    vm_ids = [await add_building_server(polled_cloud) for _ in range(100)]
    inputs = [waiting_for(vm_id, ServerStatus.ACTIVE) for vm_id in vm_ids]
    tasks = [asyncio.create_task(run(waits.wait_for_server, input)) for input in inputs]
    async with asyncio.timeout(20):
        while set(vm_ids) not in polled_cloud.polls:  # each has read its row first
            await polled_cloud.wait_for_polls()
        complete = polled_cloud.polls.index(set(vm_ids))
        await polled_cloud.wait_for_polls(3)
        await set_status(engine, vm_ids, ServerStatus.ACTIVE)
        before = len(polled_cloud.polls)
        await asyncio.gather(*tasks)
    assert all(ids == set(vm_ids) for ids in polled_cloud.polls[complete:])
    assert complete + 3 <= before <= len(polled_cloud.polls) <= before + 2


async def test_polls_are_an_interval_apart(polled_cloud: PolledCloud, engine: AsyncEngine) -> None:
    poll, vm_id = await server_poll(polled_cloud, engine)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(4):
        await poll.next_result(Ref(vm_id), waiter())
    assert loop.time() - began >= 4 * polled_cloud.poll_interval - 0.01
    assert polled_cloud.polls == [{vm_id}] * 4


async def test_a_waiter_never_gets_the_result_of_a_poll_that_began_before_it(
    polled_cloud: PolledCloud, engine: AsyncEngine
) -> None:
    poll, vm_id = await server_poll(polled_cloud, engine)
    polled_cloud.may_answer.clear()
    async with asyncio.timeout(5):
        early = asyncio.create_task(poll.next_result(Ref(vm_id), waiter()))
        await polled_cloud.wait_for_polls()
        await set_status(engine, [vm_id], ServerStatus.ACTIVE)
        late = asyncio.create_task(poll.next_result(Ref(vm_id), waiter()))
        await asyncio.sleep(0)
        polled_cloud.may_answer.set()
        first, second = await early, await late
    assert first
    assert second
    assert (first.status, second.status) == (ServerStatus.BUILD, ServerStatus.ACTIVE)
    assert polled_cloud.polls == [{vm_id}, {vm_id}]


async def test_there_is_no_poll_without_a_waiter(polled_cloud: PolledCloud, engine: AsyncEngine) -> None:
    poll, vm_id = await server_poll(polled_cloud, engine)
    await poll.next_result(Ref(vm_id), waiter())
    await asyncio.sleep(3 * polled_cloud.poll_interval)
    assert len(polled_cloud.polls) == 1


async def test_a_waiter_that_is_canceled_does_not_cancel_the_poll_of_others(
    polled_cloud: PolledCloud, engine: AsyncEngine
) -> None:
    poll, vm_id = await server_poll(polled_cloud, engine)
    canceled, other = (
        asyncio.create_task(poll.next_result(Ref(vm_id), waiter())),
        asyncio.create_task(poll.next_result(Ref(vm_id), waiter())),
    )
    await asyncio.sleep(0)
    canceled.cancel()
    server = await other
    assert server
    assert server.status is ServerStatus.BUILD
    with pytest.raises(asyncio.CancelledError):
        await canceled


async def test_a_poll_that_fails_fails_its_waiters_and_not_later_ones(
    polled_cloud: PolledCloud, engine: AsyncEngine
) -> None:
    vm_id = await add_building_server(polled_cloud)

    async def list_or_fail(vms: Collection[Ref]) -> Mapping[UUID, Server]:
        if fails:
            raise BackendError("unreachable", "The cloud does not answer.", retryable=True)
        return await polled_cloud.list_servers(vms)

    poll, fails = Poll(list_or_fail, polled_cloud, WaitingOperations(engine)), True
    results = await asyncio.gather(*(poll.next_result(Ref(vm_id), waiter()) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [BackendError] * 3
    fails = False
    assert await poll.next_result(Ref(vm_id), waiter())


async def test_a_poll_that_is_not_answered_fails_and_is_retryable(
    polled_cloud: PolledCloud, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polled_cloud, "poll_timeout", 0.05)
    poll, vm_id = await server_poll(polled_cloud, engine)
    polled_cloud.may_answer.clear()
    with pytest.raises(BackendError) as refusal:
        await poll.next_result(Ref(vm_id), waiter())
    assert (refusal.value.code, refusal.value.retryable) == ("no_answer", True)
    monkeypatch.undo()
    polled_cloud.may_answer.set()
    assert await poll.next_result(Ref(vm_id), waiter())
