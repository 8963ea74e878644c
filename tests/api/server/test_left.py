"""Requests whose client has left, or was cut, and that the application still works on."""

import logging
import socket
import struct

import pytest

from api.server import connections, phases
from tests.api.server.conftest import Site
from tests.api.server.test_limits import POST, WAIT, is_alive
from tests.support.waiting import block_until

BODY = WAIT.replace(b"GET", b"POST")[:-2] + b"Content-Length: 9000\r\n\r\n" + b"z" * 9000
BEGUN, BROKEN = WAIT.replace(b"/wait", b"/begun"), WAIT.replace(b"/wait", b"/broken")


def leave(site: Site, request: bytes, times: int, source: str = "127.0.0.1") -> None:
    """Send a request over many connections, one after the other, and close each as soon as the application has it."""
    for _ in range(times):
        seen = len(site.seen)
        client = site.client(source)
        client.send(request)
        block_until(lambda seen=seen: len(site.seen) > seen)  # type: ignore[misc]
        site.clients.remove(client)
        client.close()


def tasks_of(site: Site) -> int:
    """How many requests the application works on."""
    return len(site.server.server_state.tasks)


@pytest.mark.parametrize(("request_", "size"), [(BODY, 9000), (BEGUN, 0), (BROKEN, 0)])
def test_a_request_counts_until_its_task_ends(site: Site, request_: bytes, size: int) -> None:
    leave(site, request_, 3)
    block_until(lambda: site.server.connections.held == 3 * (size + phases.SIZE_OF_LEFT))
    assert site.server.connections.count == tasks_of(site) == 3
    site.gate.set()
    block_until(lambda: not site.server.connections.count)
    assert (site.server.connections.held, site.server.connections.by_address, tasks_of(site)) == (0, {}, 0)


@pytest.mark.parametrize("request_", [WAIT, BODY], ids=["GET", "POST"])
def test_requests_whose_clients_have_left_hold_a_bounded_memory_and_cost_others_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, request_: bytes
) -> None:
    monkeypatch.setattr(connections, "MOST_HELD", 10 * phases.SIZE_OF_LEFT)
    slow, change = site.client("127.0.0.8"), site.client("127.0.0.9")
    slow.send(POST + b"Content-Length: 20000\r\n\r\n" + b"z" * 19_000)
    change.send(BODY)
    block_until(lambda: site.server.connections.held == 28_000)
    leave(site, request_, 40)
    block_until(lambda: tasks_of(site) <= 12)  # a canceled task takes a turn of the loop to end
    assert site.server.connections.held <= connections.MOST_HELD
    slow.send(b"z" * 1000)
    site.gate.set()
    assert [client.read().status for client in (slow, change)] == [200, 200]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_requests_whose_clients_have_left_make_place_for_new_connections(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.server.connections, "limit", 20)
    monkeypatch.setattr(site.server.connections, "limit_per_address", 10)
    idle, change = site.client(), site.client("127.0.0.9")
    assert is_alive(idle)
    change.send(BODY)
    leave(site, BODY, 30)
    block_until(lambda: tasks_of(site) <= 11)
    assert is_alive(idle)
    site.gate.set()
    assert change.read().status == 200


def test_a_request_whose_sender_had_gone_before_it_was_accepted_is_not_carried_out(site: Site) -> None:
    """The kernel still has its bytes, but no address: nobody would know who has made a change."""

    def send_and_reset() -> None:
        with socket.create_connection(("127.0.0.1", site.port)) as client:
            client.sendall(WAIT.replace(b"GET /wait", b"DELETE /gone"))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    for _ in range(5):
        site.in_loop(send_and_reset)
    assert is_alive(site.client())
    assert [seen["path"] for seen in site.seen] == ["/"]
    block_until(lambda: site.server.connections.count == 1)


@pytest.mark.parametrize("request_", [WAIT, BODY, BEGUN])
def test_a_request_whose_connection_is_cut_ends_without_an_error(
    site: Site, caplog: pytest.LogCaptureFixture, request_: bytes
) -> None:
    site.client().send(request_)
    block_until(lambda: bool(site.seen))
    [connection] = site.server.connections._all()
    site.in_loop(lambda: site.server.connections._abort(connection, "cut"))
    block_until(lambda: not tasks_of(site))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
