"""What a client may use: time and memory; and answers that reach a client which is still sending."""

import asyncio
import http.client
import json
import socket
import urllib.error
import urllib.request
from typing import Any
from unittest.mock import AsyncMock

import pytest

from api.server import connections, phases
from api.server.connection import Connection
from api.web.middleware import BufferedBody
from api.web.problems import MAX_BODY
from tests.api.server.conftest import HOST, Client, Site, running_site
from tests.support.waiting import block_until

GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
WAIT = b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST


def is_alive(client: Client) -> bool:
    """Whether a request over the connection is answered."""
    try:
        return client.ask(GET).status == 200
    except (OSError, IndexError):
        return False


# Time.


def test_a_connection_that_sends_nothing_is_closed(site: Site) -> None:
    client = site.client()
    assert is_alive(site.client())  # so that the server has accepted the first connection too
    site.pass_time(phases.HEAD_TIME + 1)
    assert client.is_closed()


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "second"])
def test_a_head_that_takes_too_long_is_refused(site: Site, before: bytes) -> None:
    client = site.client()
    if before:
        client.ask(before)
    client.send(GET[:-2], b"X")
    site.pass_time(phases.HEAD_TIME - 2)
    client.send(b": y")
    site.pass_time(phases.HEAD_TIME + 1)
    answer = client.read()
    assert (answer.status, answer.json()["code"]) == (408, "request_timeout")
    assert client.is_closed()


@pytest.mark.parametrize("framing", [b"Content-Length: 9\r\n\r\n1", b"Transfer-Encoding: chunked\r\n\r\n9\r\n1"])
def test_a_body_that_takes_too_long_is_refused(site: Site, framing: bytes) -> None:
    client = site.client()
    client.send(POST + framing, b"2")
    site.pass_time(phases.BODY_TIME - 2)
    client.send(b"3")
    site.pass_time(phases.BODY_TIME + 1)
    answer = client.read()
    assert (answer.status, answer.json()["code"]) == (408, "request_timeout")
    assert client.is_closed()
    assert not site.seen


def test_an_idle_connection_is_kept_as_long_as_the_setting_says() -> None:
    with running_site(api_keep_alive=100) as site:
        client = site.client()
        for _ in range(3):
            assert is_alive(client)
            site.pass_time(95)
        site.pass_time(101)
        assert client.is_closed()


def test_a_request_that_is_being_served_may_take_any_time(site: Site) -> None:
    client = site.client()
    client.send(WAIT)
    block_until(lambda: site.seen)
    site.pass_time(10_000)
    site.gate.set()
    assert client.read().status == 200


def test_a_client_that_does_not_read_its_answer_is_cut_off(site: Site) -> None:
    client = site.client()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.send(b"GET /large HTTP/1.1\r\n%b\r\n" % HOST * 20)
    block_until(lambda: site.server.connections.held)
    site.pass_time(phases.WRITE_TIME + 1)
    block_until(lambda: not site.server.connections.count)
    assert site.server.connections.held == 0


# Memory.


def test_the_requests_after_one_that_is_being_served_stay_with_the_client(site: Site) -> None:
    client = site.client()
    client.send(WAIT)
    block_until(lambda: site.seen)
    client.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        client.send(GET * 1_000_000)
    assert 0 < site.server.connections.held <= 32 * 1024
    assert len(site.seen) == 1


@pytest.mark.parametrize(
    "flood", [GET[:-2] + b"X: " + b"y" * 30_000, POST + b"Content-Length: 9999\r\n\r\n" + b"z" * 9000]
)
def test_if_all_unfinished_requests_hold_too_much_the_oldest_are_closed(
    site: Site, flood: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "MOST_HELD", 100_000)
    for _ in range(40):
        site.client().send(flood)
    block_until(site.clients[0].is_closed)
    assert site.server.connections.held <= 100_000
    assert is_alive(site.client())
    site.server.connections._next_line = 0.0
    site.pass_time(0)
    assert any("unfinished data" in record.message for record in caplog.records)


@pytest.mark.parametrize("path", [b"/", b"/wait"], ids=["for their client", "for us"])
def test_an_address_that_holds_too_much_costs_others_no_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    """Its requests wait for their client, which has not sent all of them, or for us."""
    monkeypatch.setattr(connections, "MOST_HELD", 100_000)
    slow = site.client("127.0.0.9")
    slow.send(POST + b"Content-Length: 20000\r\n\r\n" + b"z" * 19_000)
    block_until(lambda: site.server.connections.held == 19_000)
    length = 9000 if path == b"/wait" else 9999
    flood = [site.client() for _ in range(40)]
    for client in flood:
        client.send(b"POST " + path + b" HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % length + b"z" * 9000)
    block_until(flood[0].is_closed)
    assert site.server.connections.held <= 100_000
    slow.send(b"z" * 1000)
    assert slow.read().status == 200


def test_a_large_head_counts_as_long_as_its_request_is_served(site: Site) -> None:
    site.client().send(WAIT[:-2] + b"X: " + b"y" * 10_000 + b"\r\n\r\n")
    block_until(lambda: 0 < site.server.connections.held < 10_000)
    site.gate.set()
    block_until(lambda: not site.server.connections.held)


@pytest.mark.parametrize(("framing", "status"), [(b"", 200), (b"Content-Length: 99999999\r\n", 413)])
def test_a_connection_whose_request_is_answered_keeps_nothing_of_it(site: Site, framing: bytes, status: int) -> None:
    """It may be idle, or throw away what still comes, for more than a minute."""
    assert site.ask(POST + framing + b"X: " + b"y" * 30_000 + b"\r\n\r\n").status == status
    block_until(lambda: not site.server.connections.held)
    [connection] = site.server.connections._all()
    assert isinstance(connection, Connection)
    assert (connection.cycle, connection.task, connection.waiting) == (None, None, b"")
    assert not connection.reader._fields
    assert not connection.reader.part_of_head


def test_the_body_of_a_get_is_not_kept(site: Site) -> None:
    """A stream of events would keep it for hours."""
    get, post = (method + b" / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nz" for method in (b"GET", b"POST"))
    assert [site.ask(request).json()["body"] for request in (get, post)] == ["", "z"]


def test_no_part_of_a_body_costs_a_copy_of_those_before_it() -> None:
    """A body of 800 kB that came byte by byte took all of a processor at 2,000 packets a second."""
    copied: list[bytes] = []

    class Part(bytes):
        def __radd__(self, before: object) -> Any:
            if isinstance(before, bytes):  # they cannot grow, so the sum is a copy
                copied.append(before)
            return NotImplemented

    parts = [{"type": "http.request", "body": Part(b"z"), "more_body": more} for more in (True, True, False)]

    async def receive() -> Any:
        return parts.pop(0)

    async def answer(_scope: Any, receive: Any, _send: Any) -> None:
        assert (await receive())["body"] == b"zzz"

    asyncio.run(
        BufferedBody(answer)({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, AsyncMock())
    )
    assert not any(copied)


def test_large_requests_that_wait_for_an_answer_are_bounded_and_small_ones_are_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_HELD", 1_000_000)
    small = site.client()
    small.send(WAIT[:-2] + b"Content-Length: 9\r\n\r\n" + b"z" * 9)
    block_until(lambda: site.server.connections.held == 9)
    for _ in range(40):
        site.client().send(WAIT[:-2] + b"Content-Length: 200000\r\n\r\n" + b"z" * 200_000)
    block_until(lambda: site.server.connections.count < 10)
    assert site.server.connections.held <= 1_000_000
    site.gate.set()
    assert small.read().status == 200
    block_until(lambda: not site.server.connections.held)


def test_a_closed_connection_gives_its_bytes_back_at_once(site: Site) -> None:
    client = site.client()
    client.send(WAIT[:-2] + b"Content-Length: 100000\r\n\r\n" + b"z" * 90_000)
    block_until(lambda: site.server.connections.held == 90_000)
    [connection] = site.server.connections._all()
    assert isinstance(connection, Connection)

    cycle = connection.cycle
    assert cycle
    left = []

    def close() -> None:
        cycle.body = bytearray(90_000)  # as if the application had had no time yet to take it
        connection.abort()
        left.append(len(cycle.body))

    site.in_loop(close)
    assert left == [0]


def test_closed_connections_hold_nothing(site: Site) -> None:
    for data in (GET[:-2], POST + b"Content-Length: 9\r\n\r\nabc", GET, WAIT + GET, b"nonsense\n"):
        site.client().send(data)
    block_until(lambda: site.server.connections.count == 5)
    site.gate.set()  # a client that has sent further requests is missed only when it gets its answer
    site.close_clients()
    assert (site.server.connections.held, site.server.connections.by_address) == (0, {})


@pytest.mark.parametrize("size", [MAX_BODY + 1, 1_000_000, 30_000_000])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_client_that_sends_a_large_body_reads_the_413(site: Site, size: int, *, is_chunked: bool) -> None:
    body = (b"x" * 10_000 for _ in range(size // 10_000 + 1)) if is_chunked else b"x" * size
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    connection.request("POST", "/", body, encode_chunked=is_chunked)
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["code"]) == (413, "body_too_large")
    assert answer.headers["Connection"] == "close"
    connection.close()
    assert not site.seen


def test_urllib_reads_the_413(site: Site) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"http://127.0.0.1:{site.port}/", b"x" * 5_000_000)
    assert error.value.code == 413
    error.value.close()


@pytest.mark.parametrize("bound", ["MOST_LINGERING", "LINGER_TIME"])
def test_what_a_refused_client_still_sends_is_bounded(site: Site, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if bound == "MOST_LINGERING":
        monkeypatch.setattr("api.server.connection.MOST_LINGERING", 1_000_000)
    client = site.client()
    assert client.ask(POST + b"Content-Length: 100000000\r\n\r\n").status == 413
    if bound == "LINGER_TIME":
        site.pass_time(phases.LINGER_TIME + 1)
    with pytest.raises(ConnectionError):
        client.send(b"x" * 100_000_000)


def test_a_body_is_asked_for_if_the_client_expects_that(site: Site) -> None:
    client = site.client()
    client.send(POST + b"Content-Length: 4\r\nExpect: 100-Continue\r\n\r\n")
    assert client.file.readline() + client.file.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert client.ask(b"abcd").json()["body"] == "abcd"
    answer = client.ask(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (MAX_BODY + 1))
    assert answer.status == 413
    old = site.client()
    assert old.ask(b"POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", b"a").json()["body"] == "a"
    assert old.is_closed()
