"""Which connections make place for new ones: nobody who waits, reads or is refused shuts others out."""

import logging
import time

import pytest

from api.web.origin import network_of
from tests.api.server.conftest import running_site
from tests.api.server.test_limits import GET, POST, WAIT, is_alive
from tests.support.waiting import block_until


def test_a_new_connection_of_one_address_takes_the_place_of_its_longest_idle_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running_site(api_connections_per_address=8) as site:
        other = site.client("127.0.0.2")
        assert is_alive(other)
        clients = [site.client() for _ in range(8)]
        for client in clients:
            assert is_alive(client)
            time.sleep(0.01)  # the server's clock counts milliseconds
        assert is_alive(clients[0])  # now the second one is idle for the longest time
        assert is_alive(site.client())
        assert clients[1].is_closed()
        assert all(is_alive(client) for client in [*clients[2:], clients[0], other])
        with caplog.at_level(logging.WARNING):
            site.pass_time(1)
        [record] = [record for record in caplog.records if record.name == "api.server.connections"]
        assert record.message == "closed the longest waiting connections, because there were 8 of one address: 1"


@pytest.mark.parametrize("flood", [b"", GET, GET[:-2], POST + b"Content-Length: 9\r\n\r\n"])
def test_a_full_set_of_waiting_connections_shuts_nobody_out(flood: bytes) -> None:
    with running_site() as site:
        site.server.connections.limit = site.server.connections.limit_per_address = 20
        friend = site.client("127.0.0.2")
        assert is_alive(friend)
        for _ in range(100):
            site.client().send(flood)
        for _ in range(10):
            assert is_alive(site.client("127.0.0.3"))
        assert is_alive(friend)  # the address with the most connections loses them first
        assert site.server.connections.count <= 20


def test_a_connection_whose_change_is_being_made_keeps_its_place() -> None:
    with running_site(api_connections_per_address=3) as site:
        clients = [site.client() for _ in range(3)]
        for client in clients:
            client.send(WAIT.replace(b"GET", b"POST"))
        block_until(lambda: len(site.seen) == 3)
        answer = site.client().read()
        assert (answer.status, answer.json()["code"]) == (503, "overloaded")
        assert is_alive(site.client("127.0.0.2"))
        site.gate.set()
        assert [client.read().status for client in clients] == [200, 200, 200]
        assert is_alive(site.client())


@pytest.mark.parametrize("flood", [WAIT, WAIT.replace(b"GET /wait", b"POST /refused")])
def test_reads_that_wait_and_refusals_shut_nobody_out(caplog: pytest.LogCaptureFixture, flood: bytes) -> None:
    """The client of a read that is cut can send it again, and a refused request has changed nothing."""
    with running_site() as site:
        site.server.connections.limit, site.server.connections.limit_per_address = 20, 10
        change = site.client("127.0.0.4")
        change.send(WAIT.replace(b"GET", b"POST"))
        for address in ("127.0.0.2", "127.0.0.3"):
            for _ in range(20):
                site.client(address).send(flood)
        assert all(is_alive(site.client(f"127.0.0.{number}")) for number in range(5, 15))
        site.pass_time(1)
        assert "cut the longest reads, because there were 20: " in caplog.text
        site.gate.set()
        assert change.read().status == 200


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_the_64_of_an_ipv6_address_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


# Answers to clients that are still sending.
