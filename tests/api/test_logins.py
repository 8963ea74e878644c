"""Failed logins: how long the next one waits, and that nobody can keep others from logging in."""

import asyncio
import itertools
from collections import Counter
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.web import logins as module
from api.web import security
from api.web.logins import (
    FREE_FAILURES,
    FREE_FAILURES_OF_ORIGIN,
    LONGEST_DELAY,
    LONGEST_DELAY_BY_ACCOUNT,
    MEMORY,
    Logins,
)
from domain.settings import Settings
from tests.api.conftest import PASSWORD, running
from tests.api.test_problems import check_problem

HOME, OFFICE = "192.0.2.1", "198.51.100.7"


class Clock:
    """The seconds that Logins sees."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """The time of the test."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the test moves."""
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def fail(logins: Logins, origin: str, account: str, times: int = 1) -> None:
    """Let so many logins fail."""
    for _ in range(times):
        logins.note_failure(origin, account)


def test_the_delay_rises_from_nothing_to_its_limit(clock: Clock) -> None:
    logins, delays = Logins(), []
    for _ in range(FREE_FAILURES + 12):
        delays.append(logins.delay(HOME, "ada"))
        clock.now += delays[-1]
        fail(logins, HOME, "ada")
    assert delays[: FREE_FAILURES + 5] == [0.0] * FREE_FAILURES + [1.0, 2.0, 4.0, 8.0, 16.0]
    assert delays[-1] == LONGEST_DELAY


def test_a_delay_ends_and_an_hour_without_a_failure_is_a_new_start(clock: Clock) -> None:
    logins = Logins()
    fail(logins, HOME, "ada", FREE_FAILURES + 2)
    clock.now += 3.5
    assert logins.delay(HOME, "ada") == 0.5
    clock.now += 0.5
    assert logins.delay(HOME, "ada") == 0.0
    clock.now += MEMORY
    fail(logins, HOME, "ada")
    assert logins.delay(HOME, "ada") == 0.0


def test_many_accounts_from_one_address_are_delayed_as_one(clock: Clock) -> None:
    logins = Logins()
    for n in range(FREE_FAILURES_OF_ORIGIN):
        assert logins.delay(HOME, "ada") == 0.0
        fail(logins, HOME, f"user-{n}")
    assert logins.delay(HOME, "ada") == 1.0
    assert logins.delay(OFFICE, "ada") == 0.0
    assert clock.now


def test_an_attack_on_an_account_delays_nobody_who_has_not_failed() -> None:
    logins = Logins()
    for n in range(1000):
        fail(logins, f"203.0.113.{n}", "ada", 5)
    assert logins.delay(HOME, "ada") == 0.0


def test_the_owner_of_an_account_under_attack_may_mistype_and_waits_half_a_minute_at_most(clock: Clock) -> None:
    logins = Logins()
    fail(logins, OFFICE, "ada", 1000)
    fail(logins, HOME, "ada")
    assert logins.delay(HOME, "ada") == LONGEST_DELAY_BY_ACCOUNT
    for _ in range(int(LONGEST_DELAY_BY_ACCOUNT)):
        clock.now += 1
        fail(logins, OFFICE, "ada")  # the attack goes on
    assert logins.delay(HOME, "ada") == 0.0


def test_neighbours_who_fail_do_not_delay_whoever_has_logged_in_from_there_before() -> None:
    logins = Logins()
    logins.note_success(OFFICE, "ada")
    fail(logins, OFFICE, "bob", 100)
    assert logins.delay(OFFICE, "ada") == 0.0
    assert logins.delay(OFFICE, "eve") > 0.0
    fail(logins, OFFICE, "ada", FREE_FAILURES)
    assert logins.delay(OFFICE, "ada") > 0.0


def test_a_success_forgives_only_the_mistakes_with_that_account() -> None:
    logins = Logins()
    fail(logins, HOME, "ada", 2)
    logins.note_success(HOME, "ada")
    fail(logins, HOME, "ada", FREE_FAILURES - 1)
    assert logins.delay(HOME, "ada") == 0.0
    fail(logins, OFFICE, "ada", FREE_FAILURES_OF_ORIGIN)
    logins.note_success(OFFICE, "mallory")  # the attacker's own account
    assert logins.delay(OFFICE, "ada") > 0.0
    assert logins.delay(OFFICE, "bob") > 0.0


def test_who_has_hashed_less_of_late_goes_first_and_known_owners_before_all(clock: Clock) -> None:
    logins = Logins()
    for _ in range(3):
        logins.note_use(OFFICE)
    assert logins.rank(HOME, "ada") < logins.rank(OFFICE, "ada")
    logins.note_success(OFFICE, "ada")
    assert logins.rank(OFFICE, "ada") < logins.rank(HOME, "ada") < logins.rank(OFFICE, "bob")
    for _ in range(int(module.KNOWN_CREDIT) + 1):  # but a flood of good logins does not stay there
        logins.note_use(OFFICE, "ada")
    assert logins.rank(OFFICE, "ada") > logins.rank(HOME, "ada")
    fail(logins, "203.0.113.1", "eve", FREE_FAILURES)
    assert logins.rank(HOME, "ada") < logins.rank(HOME, "eve")  # somebody attacks the account of eve
    clock.now += 5 * module.USE_HALVES_AFTER
    assert 0.0 < logins.rank(OFFICE) < 1.0


def test_the_tables_are_bounded_and_forget_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAPACITY", 10)
    logins = Logins()
    fail(logins, OFFICE, "ada", FREE_FAILURES_OF_ORIGIN)
    for n in range(100):
        fail(logins, f"203.0.113.{n}", f"user-{n}")
        fail(logins, OFFICE, "ada") if n % 5 == 0 else None
        logins.note_use(f"203.0.113.{n}")
        logins.note_success(f"203.0.113.{n}", f"friend-{n}")
    assert logins.delay(OFFICE, "bob") > 0.0
    for table in (logins._origins, logins._accounts, logins._pairs, logins._uses, logins._known):
        assert len(table) <= 10


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
    monkeypatch.setattr(security, "_BCRYPT_COST", 4)
    monkeypatch.setattr(security, "verify_password", verify_slowly)
    return checked


@pytest.fixture
def no_refusal_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals take no time."""
    monkeypatch.setattr("api.web.middleware.REFUSAL_DELAY", 0.0)


async def register(app: FastAPI) -> None:
    """Register the account that the tests log in to."""
    body = {"username": "grace", "email": "grace@navy.test", "password": PASSWORD}
    assert (await at(app, HOME).post("/auth/register", json=body)).status_code == 201


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
        await register(app)
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
        await register(app)
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
        await register(app)
        assert (await log_in(at(app, HOME), PASSWORD)).status_code == 200


@pytest.mark.usefixtures("slow_hashes", "no_refusal_delay")
async def test_all_addresses_of_one_ipv6_network_are_one_caller(settings: Settings) -> None:
    async with running(settings) as app:
        for n in range(FREE_FAILURES_OF_ORIGIN):
            assert (await log_in(at(app, f"2001:db8::{n:x}:1"), "wrong", f"user-{n}")).status_code == 401
        assert (await log_in(at(app, "2001:db8:0:0:ffff::"), "wrong")).status_code == 429
        assert (await log_in(at(app, "2001:db8:0:1::"), "wrong")).status_code == 401


async def test_registrations_and_good_logins_of_one_address_leave_places_for_others(
    settings: Settings, slow_hashes: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hash_slowly(_: str) -> str:
        await asyncio.sleep(0.1)
        return "hash"

    numbers = itertools.count()
    is_over = asyncio.Event()

    async def flood(http: httpx.AsyncClient) -> None:
        while not is_over.is_set():
            name = f"user-{next(numbers)}"
            account: dict[str, Any] = {"username": name, "email": f"{name}@x.test", "password": PASSWORD}
            await http.post("/auth/register", json=account)
            await log_in(http, PASSWORD, name)

    monkeypatch.setattr(security, "hash_password", hash_slowly)
    async with running(settings) as app:
        await register(app)
        floods = [asyncio.create_task(flood(at(app, f"203.0.113.{n}"))) for n in range(3) for _ in range(8)]
        await asyncio.sleep(1.5)
        honest = [await log_in(at(app, f"198.51.100.{n}"), PASSWORD) for n in range(5)]
        is_over.set()
        await asyncio.gather(*floods)
    assert [answer.status_code for answer in honest] == [200] * 5
    assert slow_hashes[PASSWORD] > 5


@pytest.mark.usefixtures("slow_hashes", "no_refusal_delay")
async def test_a_failed_login_is_logged_with_account_and_address_but_never_a_password(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(settings) as app:
        await register(app)
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
