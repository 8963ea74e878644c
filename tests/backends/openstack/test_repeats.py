"""Calls that the cloud accepted and did not carry out, and calls of which nobody knows whether it did."""

from datetime import datetime
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack.calls import Accepted, Calls, Found, Request
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.protocol import BackendError, Token
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.guarded import Creation, let_time_pass, replies, rows, sent


class Detach:
    """Detaches something. `failed` are the requests that are known to have failed."""

    def __init__(self, server: CloudServer, *, compensates: bool = False) -> None:
        self.token = Token(uuid4(), "detaching", compensates)
        self.failed: set[str | None] = set()
        self.found: Found | None = None
        answers = [Reply(202, None, {"X-Openstack-Request-Id": f"req-{number}"}) for number in range(1, 4)]
        server.add(Service.COMPUTE, "DELETE", "/servers/1", *answers)

    async def run(self, calls: Calls) -> str | None:
        """Make the call, and return the id of the request that was accepted."""
        request = Request(Service.COMPUTE, "DELETE", "/servers/1")
        accepted = await calls.call(self.token, "detach", lambda _: request, self._find, self._has_failed)
        return accepted.request_id

    async def _find(self, _: datetime | None) -> Found | None:
        return self.found

    async def _has_failed(self, accepted: Accepted) -> bool:
        return accepted.request_id in self.failed


async def test_only_an_accepted_call_that_failed_is_sent_again(
    calls: Calls, server: CloudServer, engine: AsyncEngine
) -> None:
    detach = Detach(server)
    assert [await detach.run(calls) for _ in range(2)] == ["req-1", "req-1"]
    detach.failed = {"req-1"}
    assert [await detach.run(calls) for _ in range(2)] == ["req-2", "req-2"]
    assert len(server.seen("DELETE", "/servers/1")) == 2
    assert await rows(engine, detach.token) == [(1, "accepted", None, None)]


async def test_of_two_runs_that_know_of_the_failure_one_sends_again(calls: Calls, server: CloudServer) -> None:
    detach = Detach(server)
    await detach.run(calls)
    detach.failed = {"req-1"}
    late = Detach(server)
    late.token = detach.token

    async def look(accepted: Accepted) -> bool:
        assert accepted.request_id == "req-1"
        await detach.run(calls)  # another worker is faster
        return True

    late._has_failed = look  # type: ignore[method-assign]
    with pytest.raises(BackendError) as raised:
        await late.run(calls)
    assert (raised.value.code, raised.value.retryable) == ("taken_over", True)
    assert len(server.seen("DELETE", "/servers/1")) == 2


@pytest.mark.parametrize("compensates", [True, False])
async def test_after_a_revocation_only_an_undo_is_sent_again(
    calls: Calls, server: CloudServer, *, compensates: bool
) -> None:
    detach = Detach(server, compensates=compensates)
    await detach.run(calls)
    detach.failed = {"req-1"}
    await calls.revoke(detach.token.operation_id)
    assert await detach.run(calls) == ("req-2" if compensates else "req-1")


async def test_what_somebody_else_did_after_the_failure_is_not_done_again(calls: Calls, server: CloudServer) -> None:
    detach = Detach(server)
    await detach.run(calls)
    detach.failed, detach.found = {"req-1"}, Found()
    assert await detach.run(calls) is None
    assert len(server.seen("DELETE", "/servers/1")) == 1


async def test_an_operation_is_settled_once_its_lost_calls_are_old_enough(
    calls: Calls, server: CloudServer, engine: AsyncEngine
) -> None:
    creation = Creation()
    operation_id = creation.token.operation_id
    await calls.check_settled(operation_id, "create_server")
    replies(server, Reply(is_cut=True))
    with pytest.raises(CloudError):
        await creation.run(calls)
    await calls.check_settled(operation_id, "delete_server")
    await calls.check_settled(uuid4(), "create_server")
    with pytest.raises(CloudError) as raised:
        await calls.check_settled(operation_id, "create_server")
    assert (raised.value.code, raised.value.retryable) == ("settling", True)
    await let_time_pass(engine, 121)
    await calls.check_settled(operation_id, "create_server")


@pytest.mark.parametrize("lost", [Reply(503), Reply(202, {"server": {"id": "made"}})], ids=["refused", "accepted"])
async def test_a_call_whose_end_is_known_is_settled(calls: Calls, server: CloudServer, lost: Reply) -> None:
    creation = Creation()
    replies(server, lost)
    if lost.status == 503:
        with pytest.raises(CloudError):
            await creation.run(calls)
    else:
        await creation.run(calls)
    assert sent(server) == 1
    await calls.check_settled(creation.token.operation_id, "create_server")


async def test_calls_that_undo_do_not_keep_an_undo_from_ending(calls: Calls, server: CloudServer) -> None:
    creation = Creation(Token(uuid4(), "undoing", compensates=True))
    replies(server, Reply(is_cut=True))
    with pytest.raises(CloudError):
        await creation.run(calls)
    await calls.check_settled(creation.token.operation_id, "create_server")
