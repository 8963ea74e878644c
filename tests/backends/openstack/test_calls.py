"""The guarded path: each call takes effect once, whatever is lost on the way."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack.calls import Calls, Found
from activities.backends.openstack.connection import Cloud
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.openstack.ledger import Ledger
from activities.backends.protocol import BackendError, Token
from domain.settings import Settings
from tests.backends.openstack.cloud_server import REQUEST_ID, CloudServer, Reply
from tests.backends.openstack.guarded import CREATED, Creation, delete, let_time_pass, replies, rows, sent

CUT = Reply(is_cut=True)


async def fails(creation: Creation, calls: Calls) -> BackendError:
    """Make the call, which must fail, and return its error."""
    with pytest.raises(BackendError) as caught:
        await creation.run(calls)
    return caught.value


async def test_a_call_is_sent_once_and_its_answer_is_kept(
    calls: Calls, cloud: Cloud, server: CloudServer, settings: Settings, engine: AsyncEngine
) -> None:
    creation, other_worker = Creation(), Ledger(settings)
    replies(server, CREATED)
    before = datetime.now(UTC) - timedelta(seconds=2)
    first = await creation.run(calls)
    assert (first.cloud_id, first.request_id) == ("cloud-id", REQUEST_ID)
    assert before < first.since <= datetime.now(UTC)
    assert await creation.run(Calls(cloud, other_worker)) == first
    assert await rows(engine, creation.token) == [(1, "accepted", "cloud-id", None)]
    assert sent(server) == 1
    await other_worker.close()


async def test_what_is_there_already_is_not_made_again(calls: Calls, server: CloudServer, engine: AsyncEngine) -> None:
    creation = Creation(found=Found("there"))
    assert (await creation.run(calls)).cloud_id == "there"
    creation.found = None
    assert (await creation.run(calls)).cloud_id == "there"
    assert await rows(engine, creation.token) == [(1, "accepted", "there", None)]
    assert sent(server) == 0
    assert creation.looks == [None]


@pytest.mark.parametrize(
    ("lost", "code"),
    [
        (CUT, "cloud_timeout"),
        (Reply(504), "cloud_timeout"),
        (Reply(500), "cloud_error"),
        (Reply(202, "<html>"), "cloud_error"),
    ],
    ids=["cut", "504", "500", "unreadable"],
)
async def test_a_call_whose_answer_is_lost_is_looked_for_and_not_repeated(
    calls: Calls, server: CloudServer, engine: AsyncEngine, lost: Reply, code: str
) -> None:
    creation = Creation()
    replies(server, lost)
    assert (await fails(creation, calls)).code == code
    assert await rows(engine, creation.token) == [(1, "ambiguous", None, code)]
    settling = await fails(creation, calls)
    assert isinstance(settling, CloudError)
    assert (settling.code, settling.retryable, settling.retry_after) == ("settling", True, 10.0)
    creation.found = Found("late")
    accepted = await creation.run(calls)
    assert (accepted.cloud_id, accepted.request_id) == ("late", None)
    assert await rows(engine, creation.token) == [(1, "accepted", "late", None)]
    assert sent(server) == 1


async def test_the_look_gets_the_time_of_the_cloud_before_the_first_sending(
    calls: Calls, cloud: Cloud, server: CloudServer
) -> None:
    server.clock_ahead = 3600.0
    await cloud.get(Service.COMPUTE, "/servers/detail")  # as a look does
    creation = Creation()
    replies(server, CUT, CUT)
    await fails(creation, calls)
    await fails(creation, calls)
    first, second = creation.looks
    assert first is None
    assert second is not None
    assert timedelta(minutes=59) < second - datetime.now(UTC) < timedelta(hours=1)


async def test_a_call_that_stays_lost_is_sent_again_after_the_settle_time_with_the_next_number(
    calls: Calls, server: CloudServer, engine: AsyncEngine
) -> None:
    creation = Creation()
    replies(server, CUT, CUT, CREATED)
    for attempt in (1, 2):
        assert (await fails(creation, calls)).code == "cloud_timeout"
        await let_time_pass(engine, 110)
        settling = await fails(creation, calls)
        assert isinstance(settling, CloudError)
        assert settling.retry_after is not None
        assert 5 < settling.retry_after <= 10
        assert sent(server) == attempt
        await let_time_pass(engine, 11)
    assert (await creation.run(calls)).cloud_id == "cloud-id"
    assert [request.body["server"]["name"] for request in server.seen("POST", "/servers")] == [
        "attempt-1",
        "attempt-2",
        "attempt-3",
    ]
    assert await rows(engine, creation.token) == [
        (1, "ambiguous", None, "cloud_timeout"),
        (2, "ambiguous", None, "cloud_timeout"),
        (3, "accepted", "cloud-id", None),
    ]


async def test_a_delete_whose_answer_is_lost_is_repeated_at_once(calls: Calls, server: CloudServer) -> None:
    token = Token(uuid4(), "deleting")
    server.add(Service.COMPUTE, "DELETE", "/servers/1", CUT, Reply(204))
    with pytest.raises(CloudError, match="did not answer"):
        await delete(calls, token)
    await delete(calls, token)
    await delete(calls, token)
    assert len(server.seen("DELETE", "/servers/1")) == 2


@pytest.mark.parametrize("refusal", [Reply(503), Reply(409, {"conflictingRequest": {"message": "task_state"}})])
async def test_a_call_that_was_refused_is_repeated_under_its_number(
    calls: Calls, server: CloudServer, engine: AsyncEngine, refusal: Reply
) -> None:
    creation = Creation()
    replies(server, refusal, CREATED)
    error = await fails(creation, calls)
    assert error.retryable
    assert await rows(engine, creation.token) == [(1, "refused", None, error.code)]
    await creation.run(calls)
    assert await rows(engine, creation.token) == [(1, "accepted", "cloud-id", None)]
    assert creation.attempts == [1, 1]
    assert creation.looks[0] is None, "nothing was sent before"


async def test_a_call_that_never_reached_the_cloud_is_unsent(
    calls: Calls, server: CloudServer, engine: AsyncEngine
) -> None:
    creation = Creation()
    server.login_replies.append(Reply(503))
    assert (await fails(creation, calls)).code == "cloud_unavailable"
    assert await rows(engine, creation.token) == [(1, "unsent", None, "cloud_unavailable")]
    replies(server, CREATED)
    await creation.run(calls)
    assert creation.looks == [None, None]
    assert sent(server) == 1


async def test_the_database_away_before_the_sending_sends_nothing(
    calls: Calls, ledger: Ledger, server: CloudServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(ledger, "permit", fail)
    with pytest.raises(ConnectionRefusedError):
        await Creation().run(calls)
    assert sent(server) == 0


async def test_a_thread_that_slept_over_its_permission_sends_nothing(
    calls: Calls, server: CloudServer, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    creation = Creation()
    monkeypatch.setattr("activities.backends.openstack.calls.PERMIT_AGE", -1.0)
    assert (await fails(creation, calls)).code == "not_sent"
    assert await rows(engine, creation.token) == [(1, "unsent", None, None)]
    assert sent(server) == 0


async def test_a_login_that_expires_in_the_middle_of_a_call_sends_it_again_with_a_new_permission(
    calls: Calls, ledger: Ledger, server: CloudServer, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    creation, asked, permit = Creation(), [], ledger.permit

    async def ask(*arguments: object) -> object:
        asked.append(arguments)
        return await permit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger, "permit", ask)
    replies(server, Reply(401), CREATED)
    await creation.run(calls)
    assert len(asked) == 2
    assert await rows(engine, creation.token) == [(1, "accepted", "cloud-id", None)]


async def test_of_runs_at_the_same_time_one_sends(
    calls: Calls, cloud: Cloud, server: CloudServer, settings: Settings, engine: AsyncEngine
) -> None:
    other_ledger = Ledger(settings)
    workers = [calls, Calls(cloud, other_ledger)]
    for number in range(1, 11):
        creation = Creation()
        replies(server, Reply(202, CREATED.body, delay=0.02))
        runs = (creation.run(workers[run % 2]) for run in range(6))
        results = await asyncio.gather(*runs, return_exceptions=True)
        codes = {result.code for result in results if isinstance(result, BackendError)}
        assert codes <= {"taken_over", "settling"}
        assert sent(server) == number
        assert (await creation.run(calls)).cloud_id == "cloud-id"
        assert await rows(engine, creation.token) == [(1, "accepted", "cloud-id", None)]
    await other_ledger.close()


async def test_a_late_answer_does_not_undo_what_was_found_meanwhile(
    calls: Calls, ledger: Ledger, server: CloudServer, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    creation, end = Creation(), ledger.end

    async def find_first(*arguments: object, **known: object) -> None:
        creation.found = Found("found")
        await creation.run(calls)
        await end(*arguments, **known)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger, "end", find_first)
    replies(server, CUT)
    await fails(creation, calls)
    assert await rows(engine, creation.token) == [(1, "accepted", "found", None)]
