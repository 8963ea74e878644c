"""Nothing is sent for an operation after its revocation, nor for an activity after its cancellation."""

import asyncio
import contextlib
import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack.calls import Calls
from activities.backends.openstack.connection import Cloud
from activities.backends.openstack.ledger import Ledger, Permission, Run
from activities.backends.protocol import BackendError, Token
from domain.settings import Settings
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.guarded import CREATED, Creation, all_threads_busy, replies, rows, sent, until


async def code_of(call: asyncio.Task[object]) -> str:
    """The code of the error with which the call ends."""
    with pytest.raises(BackendError) as caught:
        await call
    return caught.value.code


def start(creation: Creation, calls: Calls) -> asyncio.Task[object]:
    """Begin a call."""
    return asyncio.create_task(creation.run(calls))


async def test_calls_of_a_revoked_operation_are_refused(calls: Calls, server: CloudServer) -> None:
    creation = Creation()
    await calls.revoke(creation.token.operation_id)
    await calls.revoke(creation.token.operation_id)
    assert await code_of(start(creation, calls)) == "token_revoked"
    assert (sent(server), creation.looks) == (0, [])


async def test_a_compensating_call_is_sent_after_the_revocation(calls: Calls, server: CloudServer) -> None:
    creation = Creation(Token(uuid4(), "undo", compensates=True))
    await calls.revoke(creation.token.operation_id)
    replies(server, CREATED)
    await creation.run(calls)
    assert sent(server) == 1


async def test_a_call_that_waits_for_a_thread_sees_the_revocation(
    calls: Calls, cloud: Cloud, server: CloudServer, settings: Settings
) -> None:
    other_worker = Ledger(settings)
    for revoker in (calls, Calls(cloud, other_worker)):
        creation = Creation()
        async with all_threads_busy(cloud, server):
            call = start(creation, calls)
            await until(lambda: len(calls._flights) == 1)
            async with asyncio.timeout(20):
                await revoker.revoke(creation.token.operation_id)
        assert await code_of(call) == "token_revoked"
    assert sent(server) == 0
    await other_worker.close()


async def test_revoke_waits_for_a_request_that_is_on_its_way(
    calls: Calls, cloud: Cloud, server: CloudServer, settings: Settings, engine: AsyncEngine
) -> None:
    creation, held, other_worker = Creation(), threading.Event(), Ledger(settings)
    replies(server, Reply(202, CREATED.body, held_by=held))
    call = start(creation, calls)
    await until(lambda: sent(server) == 1)
    revokes = [
        asyncio.create_task(worker.revoke(creation.token.operation_id))
        for worker in (calls, Calls(cloud, other_worker))
    ]
    await asyncio.wait(revokes, timeout=0.5)
    assert not any(revoke.done() for revoke in revokes)
    held.set()
    await asyncio.gather(*revokes)
    assert await rows(engine, creation.token) == [(1, "accepted", "cloud-id", None)]
    await call
    await other_worker.close()


async def test_revoke_does_not_wait_for_other_operations_nor_for_calls_that_compensate(
    calls: Calls, server: CloudServer
) -> None:
    held, undo = threading.Event(), Creation(Token(uuid4(), "undo", compensates=True))
    replies(server, *[Reply(202, CREATED.body, held_by=held)] * 2)
    running = [start(creation, calls) for creation in (undo, Creation())]
    await until(lambda: sent(server) == 2)
    async with asyncio.timeout(20):
        await calls.revoke(undo.token.operation_id)
    held.set()
    await asyncio.gather(*running)


async def test_revoke_waits_for_the_request_of_a_worker_that_died_no_longer_than_it_may_take(
    calls: Calls, ledger: Ledger, settings: Settings
) -> None:
    dead, run = Ledger(settings), Run(Token(uuid4(), "spawning"), 1)
    await dead.intend(run, "create_server", calls._cloud.now("compute"))  # type: ignore[arg-type]
    assert await dead.permit(run, timedelta(seconds=0.6)) is Permission.GRANTED
    await dead.close()
    revoke = asyncio.create_task(calls.revoke(run.token.operation_id))
    await asyncio.wait([revoke], timeout=0.3)
    assert not revoke.done()
    await revoke
    assert not await ledger.is_in_flight(run.token.operation_id)


async def test_a_new_login_does_not_carry_a_request_over_a_revocation(
    calls: Calls, server: CloudServer, engine: AsyncEngine
) -> None:
    creation, held = Creation(), threading.Event()
    replies(server, Reply(401, held_by=held), CREATED)
    call = start(creation, calls)
    await until(lambda: sent(server) == 1)
    revoke = asyncio.create_task(calls.revoke(creation.token.operation_id))
    await asyncio.wait([revoke], timeout=0.3)
    held.set()
    assert await code_of(call) == "token_revoked"
    async with asyncio.timeout(20):
        await revoke
    assert await rows(engine, creation.token) == [(1, "unsent", None, None)]
    assert sent(server) == 1


async def test_nothing_is_sent_once_revoke_has_returned(
    calls: Calls, cloud: Cloud, server: CloudServer, settings: Settings
) -> None:
    other_worker, total = Ledger(settings), 0
    workers = [calls, Calls(cloud, other_worker)]
    for round in range(30):
        operation_id, before = uuid4(), sent(server)
        replies(server, *[Reply(202, CREATED.body)] * 4)
        creations = [Creation(Token(operation_id, f"step-{number}")) for number in range(4)]
        running = [start(creation, workers[number % 2]) for number, creation in enumerate(creations)]
        if round % 2:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(round * 0.002)  # a little longer in each round
        await workers[round % 2].revoke(operation_id)
        at_return = sent(server)
        for call in running:
            with contextlib.suppress(BackendError):
                await call
        assert sent(server) == at_return
        total += at_return - before
        server.replies.clear()
    assert 0 < total < 30 * 4, "some calls came before the revocation, some after it"
    await other_worker.close()


async def test_a_canceled_call_that_waits_for_a_thread_is_never_sent(
    calls: Calls, cloud: Cloud, server: CloudServer, engine: AsyncEngine
) -> None:
    creation = Creation()
    async with all_threads_busy(cloud, server):
        call = start(creation, calls)
        await until(lambda: len(calls._flights) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await until(lambda: not calls._flights)
    assert await rows(engine, creation.token) == [(1, "unsent", None, None)]
    assert sent(server) == 0


async def test_a_call_that_is_canceled_after_its_permission_is_not_sent(
    calls: Calls, ledger: Ledger, server: CloudServer, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    creation, permit = Creation(), ledger.permit

    async def cancel_then_permit(run: Run, flight: timedelta) -> Permission:
        permission = await permit(run, flight)
        call.cancel()
        await asyncio.sleep(0.05)
        return permission

    monkeypatch.setattr(ledger, "permit", cancel_then_permit)
    call = start(creation, calls)
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: not calls._flights)
    assert await rows(engine, creation.token) == [(1, "unsent", None, None)]
    assert sent(server) == 0


@pytest.mark.parametrize(
    ("answer", "row"),
    [
        (CREATED, (1, "accepted", "cloud-id", None)),
        (Reply(is_cut=True), (1, "ambiguous", None, "cloud_timeout")),
    ],
    ids=["accepted", "lost"],
)
async def test_a_call_that_is_canceled_on_its_way_ends_in_the_ledger(
    calls: Calls, server: CloudServer, engine: AsyncEngine, answer: Reply, row: tuple[object, ...]
) -> None:
    creation, held = Creation(), threading.Event()
    replies(server, Reply(answer.status, answer.body, is_cut=answer.is_cut, held_by=held))
    call = start(creation, calls)
    await until(lambda: sent(server) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await rows(engine, creation.token) == [(1, "ambiguous", None, None)], "as long as nothing better is known"
    held.set()
    await until(lambda: not calls._flights)
    assert await rows(engine, creation.token) == [row]


async def test_closing_stops_what_was_not_sent(calls: Calls, cloud: Cloud, server: CloudServer) -> None:
    async with all_threads_busy(cloud, server):
        call = start(Creation(), calls)
        await until(lambda: len(calls._flights) == 1)
        await calls.close(grace=0.1)
    assert await code_of(call) == "not_sent"
    assert sent(server) == 0
