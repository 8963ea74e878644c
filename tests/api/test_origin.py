"""Where a request comes from: networks that count as one caller, and proxies that are believed."""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import ValidationError

import local
from api.web.logins import FREE_FAILURES
from api.web.origin import address_of, origin_of, source_of
from domain.commands.acceptance import NOWHERE
from domain.settings import Settings
from tests.conftest import make_settings
from tests.support.stack import free_ports


@pytest.mark.parametrize(
    ("client", "address", "origin"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:0001:0002::", "2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1", "fe80::/64"),
        ("unknown", "", ""),
        ("192.0.2.1, 192.0.2.2", "", ""),
        ("\x1b[31m", "", ""),
        ("", "", ""),
    ],
)
def test_the_origin_is_an_ipv4_address_or_an_ipv6_network(client: str, address: str, origin: str) -> None:
    scope = {"type": "http", "client": (client, 1)}
    assert (address_of(scope), origin_of(scope)) == (address, origin)


def test_clients_of_a_unix_socket_have_one_origin() -> None:
    assert origin_of({"type": "http", "client": None}) == ""


@pytest.mark.parametrize("value", ["*", "0.0.0.0/0", "::/0", "proxy.example", "10.0.0.1/8", "10.0.0.1,", "10.0.0.0/33"])
def test_a_wrong_list_of_proxies_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="must"):
        make_settings("postgresql://unused/unused", forwarded_allow_ips=value)


@asynccontextmanager
async def server(settings: Settings, **environment: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real API process on the loopback."""
    [port] = free_ports(1)
    needed = {"DATABASE_URL": settings.database_url, "SECRET_KEY": secrets.token_urlsafe(48), "API_PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api"),
        cwd=local.ROOT,
        env=os.environ | needed | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    async with asyncio.timeout(60):
        while b"Uvicorn running" not in (line := await process.stderr.readline()):
            assert line
        draining = asyncio.create_task(process.stderr.read())
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1") as http:
                yield http
        finally:
            process.terminate()
            await draining
            await process.wait()


async def failing_logins(http: httpx.AsyncClient, username: str, *forwarded: str) -> list[int]:
    """The statuses of logins with wrong passwords, one for each value of X-Forwarded-For."""
    body = {"username": username, "password": "wrong"}
    answers = [await http.post("/auth/login", json=body, headers={"X-Forwarded-For": value}) for value in forwarded]
    return [answer.status_code for answer in answers]


async def test_a_made_up_forwarded_address_changes_nothing(settings: Settings) -> None:
    async with server(settings) as http:
        statuses = await failing_logins(http, "ada", *(f"203.0.113.{n}" for n in range(FREE_FAILURES + 1)))
    assert statuses == [401] * FREE_FAILURES + [429]


async def test_the_last_address_that_no_trusted_proxy_has_counts(settings: Settings) -> None:
    async with server(settings, FORWARDED_ALLOW_IPS="127.0.0.1, 10.0.0.0/8") as http:
        # What comes before the last proxy's entry is what the client has made up.
        same = [f"203.0.113.{n}, 192.0.2.1, 10.0.0.{n}" for n in range(FREE_FAILURES + 1)]
        assert await failing_logins(http, "ada", *same) == [401] * FREE_FAILURES + [429]
        assert await failing_logins(http, "ada", "192.0.2.2") == [401]
        garbage = ["unknown", "x" * 5000, "::x", "999.1.1.1", "_hidden", "192.0.2.1/32"]
        assert await failing_logins(http, "bob", *garbage) == [401] * FREE_FAILURES + [429]


def test_the_program_of_a_client_is_kept_short_and_printable() -> None:
    headers = [(b"user-agent", b"curl/8.5\x1b[31m\x00" + b"x" * 10_000)]
    source = source_of({"type": "http", "client": ("::ffff:192.0.2.1", 1), "headers": headers})
    assert source.address == "192.0.2.1"
    assert source.user_agent.startswith("curl/8.5?[31m?x")
    assert len(source.user_agent) == 256
    assert source_of({"type": "http", "client": None, "headers": []}) == NOWHERE
