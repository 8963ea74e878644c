"""Attacks on the login page: nobody can keep others from logging in, or learns a password from the log."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.web import security
from api.web.dependencies import ProcessState
from api.web.logins import FREE_FAILURES, FREE_FAILURES_OF_ORIGIN
from domain.settings import Settings
from tests.api.conftest import PASSWORD, running
from tests.api.test_problems import check_problem

HOME, OFFICE = "192.0.2.1", "198.51.100.7"
Flood = Callable[[httpx.AsyncClient, asyncio.Event, Iterator[int]], Coroutine[Any, Any, None]]


def at(app: FastAPI, address: str) -> httpx.AsyncClient:
    """A client with this address."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://api/api/v1")


async def log_in(http: httpx.AsyncClient, password: str, username: str = "grace") -> httpx.Response:
    """The answer to a login."""
    return await http.post("/auth/login", json={"username": username, "password": password})


@pytest.fixture
def slow_hashes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """One hash at a time, each of a tenth of a second; returns how often passwords were checked."""
    checked: Counter[str] = Counter()

    async def verify_slowly(password: str, _: str | None) -> bool:
        checked[password] += 1
        await asyncio.sleep(0.1)
        return password == PASSWORD

    monkeypatch.setattr("api.app.HASHING_SLOTS", 1)
    monkeypatch.setattr("api.web.slots.SLOT_TIMEOUT", 20.0)  # a busy machine is no attack
    monkeypatch.setattr(security, "_BCRYPT_COST", 4)
    monkeypatch.setattr(security, "verify_password", verify_slowly)
    return checked


@pytest.fixture
def no_refusal_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals take no time."""
    monkeypatch.setattr("api.web.admission.REFUSAL_DELAY", 0.0)


async def register(http: httpx.AsyncClient, username: str = "grace") -> httpx.Response:
    """The answer to a registration."""
    account = {"username": username, "email": f"{username}@navy.test", "password": PASSWORD}
    return await http.post("/auth/register", json=account)


async def test_three_addresses_cannot_keep_others_from_logging_in(
    settings: Settings, slow_hashes: Counter[str]
) -> None:
    """The attack of the issue: eight connections from each of three addresses, all with wrong passwords."""
    statuses: Counter[int] = Counter()
    is_over = asyncio.Event()

    async def attack(http: httpx.AsyncClient) -> None:
        while not is_over.is_set():  # a cancel would only end one request, with a 503 as in a shutdown
            statuses[(await log_in(http, "wrong")).status_code] += 1

    async with running(settings) as app:
        await register(at(app, HOME))
        attackers = [at(app, f"203.0.113.{n}") for n in range(3) for _ in range(8)]
        attacks = [asyncio.create_task(attack(http)) for http in attackers]
        await asyncio.sleep(0.05)
        honest = [await log_in(at(app, f"198.51.100.{n}"), PASSWORD) for n in range(5)]
        is_over.set()
        await asyncio.gather(*attacks)
    assert [answer.status_code for answer in honest] == [200] * 5
    assert slow_hashes["wrong"] <= 3 * (FREE_FAILURES + 1)
    assert statuses[429] > 0


@pytest.mark.usefixtures("no_refusal_delay")
async def test_a_login_that_comes_too_soon_is_refused_without_a_hash(
    settings: Settings, slow_hashes: Counter[str]
) -> None:
    async with running(settings) as app:
        await register(at(app, HOME))
        http = at(app, OFFICE)
        answers = [await log_in(http, "wrong") for _ in range(FREE_FAILURES + 3)]
        known = [answer.json()["code"] for answer in answers]
        assert known == ["invalid_credentials"] * FREE_FAILURES + ["too_many_failed_logins"] * 3
        check_problem(await log_in(http, PASSWORD), 429, "too_many_failed_logins")
        assert answers[-1].headers["Retry-After"] == "1"
        assert slow_hashes["wrong"] == FREE_FAILURES
        assert slow_hashes[PASSWORD] == 0
        assert (await log_in(at(app, HOME), PASSWORD)).status_code == 200


@pytest.mark.usefixtures("slow_hashes", "no_refusal_delay")
async def test_a_new_user_can_log_in_from_where_others_have_failed(settings: Settings) -> None:
    async with running(settings) as app:
        for n in range(FREE_FAILURES_OF_ORIGIN + 1):
            answer = await log_in(at(app, HOME), "wrong", f"user-{n}")
        check_problem(answer, 429, "too_many_failed_logins")
        await register(at(app, HOME))
        assert (await log_in(at(app, HOME), PASSWORD)).status_code == 200


@pytest.mark.usefixtures("slow_hashes", "no_refusal_delay")
async def test_all_addresses_of_one_ipv6_network_are_one_caller(settings: Settings) -> None:
    async with running(settings) as app:
        for n in range(FREE_FAILURES_OF_ORIGIN):
            assert (await log_in(at(app, f"2001:db8::{n:x}:1"), "wrong", f"user-{n}")).status_code == 401
        assert (await log_in(at(app, "2001:db8:0:0:ffff::"), "wrong")).status_code == 429
        assert (await log_in(at(app, "2001:db8:0:1::"), "wrong")).status_code == 401


async def register_and_log_in(http: httpx.AsyncClient, is_over: asyncio.Event, numbers: Iterator[int]) -> None:
    """Register one account after the other, and log in to each."""
    while not is_over.is_set():
        name = f"user-{next(numbers)}"
        await register(http, name)
        await log_in(http, PASSWORD, name)


async def log_in_again_and_again(http: httpx.AsyncClient, is_over: asyncio.Event, numbers: Iterator[int]) -> None:
    """Log in to accounts that were logged in to from this address before."""
    while not is_over.is_set():
        await log_in(http, PASSWORD, f"own-{next(numbers) % 8}")


@pytest.mark.parametrize(("flood", "addresses"), [(register_and_log_in, 3), (log_in_again_and_again, 14)])
async def test_registrations_and_good_logins_leave_places_for_others(
    settings: Settings, slow_hashes: Counter[str], monkeypatch: pytest.MonkeyPatch, flood: Flood, addresses: int
) -> None:
    """Known owners go first. Attackers who are known, at more addresses than the queue has places, shut nobody out."""

    async def hash_slowly(_: str) -> str:
        await asyncio.sleep(0.1)
        return "hash"

    numbers, is_over = itertools.count(), asyncio.Event()
    attackers = [f"203.0.113.{n}" for n in range(addresses)]
    async with running(settings) as app:
        for name in ("grace", *(f"own-{n}" for n in range(8))):
            assert (await register(at(app, "192.0.2.2"), name)).status_code == 201
        process: ProcessState = app.state.vmapi
        process.logins.note_owner(HOME, "grace")
        for address, n in itertools.product(attackers, range(8)):
            process.logins.note_owner(address, f"own-{n}")
        monkeypatch.setattr(security, "hash_password", hash_slowly)
        floods = [asyncio.create_task(flood(at(app, address), is_over, numbers)) for address in 3 * attackers]
        await asyncio.sleep(2.5)
        honest = [await log_in(at(app, address), PASSWORD) for address in (HOME, "198.51.100.1", "198.51.100.2", HOME)]
        is_over.set()
        await asyncio.gather(*floods)
    assert [answer.status_code for answer in honest] == [200] * 4
    assert slow_hashes[PASSWORD] > 5


@pytest.mark.usefixtures("slow_hashes", "no_refusal_delay")
async def test_a_failed_login_is_logged_with_account_and_address_but_never_a_password(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(settings) as app:
        await register(at(app, HOME))
        await log_in(at(app, OFFICE), "wrong-Secret-1", "GRACE")
        await log_in(at(app, "2001:db8::1"), "wrong-Secret-1", "my-Password-1")
        await log_in(at(app, "not\x1b[31m an address"), "wrong-Secret-1", "x\u2028y")
    lines = [record.getMessage() for record in caplog.records if record.name == "api.web.passwords"]
    assert lines == [
        f"login of grace from {OFFICE} failed",
        "login of an unknown user from 2001:db8::1 failed",
        "login of an unknown user from an unknown address failed",
    ]
    assert "Secret" not in caplog.text
    assert "my-Password" not in caplog.text
