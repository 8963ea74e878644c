"""Rate limits: who is refused when, what the headers say, and what is never limited."""

import re
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import admission
from domain.settings import Settings
from tests.api.conftest import Person, client_of, person, running
from tests.api.test_problems import check_problem
from vmctl.client import AsyncClient

POLICY = '"user-reads";q=4;w=600, "concurrent";q={};qu="concurrent-requests"'
LEFT = re.compile(r'"([a-z-]+)";r=(\d+)(?:;t=(\d+))?')
LIMITS = {"user_reads": 4, "user_writes": 2, "token_reads": 3, "token_writes": 1, "address_reads": 5}
LIMITS |= {"address_writes": 3}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Limits that a few requests use up."""
    return settings.model_copy(update={f"rate_limit_{name}": value for name, value in LIMITS.items()})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer refused requests at once."""
    monkeypatch.setattr(admission, "REFUSAL_DELAY", 0)


def left(answer: httpx.Response) -> dict[str, tuple[int, int]]:
    """What the header RateLimit says: requests that are left and seconds until there is one more, by limit."""
    items = answer.headers["RateLimit"].split(", ")
    matches = [match for item in items if (match := LEFT.fullmatch(item))]
    assert len(matches) == len(items)
    return {match[1]: (int(match[2]), int(match[3] or 0)) for match in matches}


async def statuses(http: httpx.AsyncClient, number: int, method: str = "GET", **options: Any) -> list[int]:
    """The statuses of so many requests, one after the other."""
    path = "/flavors" if method == "GET" else "/volumes"
    return [(await http.request(method, path, **options)).status_code for _ in range(number)]


async def test_a_user_who_has_used_up_the_limit_is_told_when_to_come_back(ada: Person, bob: Person) -> None:
    assert await statuses(ada.http, 4) == [200] * 4
    refused = await ada.http.get("/flavors")
    check_problem(refused, 429, "rate_limited")
    assert "user-reads" in refused.json()["detail"]
    assert 145 <= int(refused.headers["Retry-After"]) <= 150  # a quarter of the window
    assert left(refused)["user-reads"] == (0, int(refused.headers["Retry-After"]))
    assert await statuses(bob.http, 4) == [200] * 4


async def test_a_limit_fills_again_as_time_passes(ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await statuses(ada.http, 5) == [200] * 4 + [429]
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 151)
    monkeypatch.setattr("api.web.rate_limits.time", later)
    assert await statuses(ada.http, 2) == [200, 429]


async def test_reads_and_changes_have_limits_of_their_own(ada: Person) -> None:
    assert await statuses(ada.http, 5) == [200] * 4 + [429]
    new = {"name": "data", "size_gb": 1}
    assert await statuses(ada.http, 3, "POST", json=new) == [202, 202, 429]
    answer = await ada.http.delete("/tokens/00000000-0000-0000-0000-000000000000")
    check_problem(answer, 429, "rate_limited")


async def test_head_is_a_read(ada: Person) -> None:
    answers = [await ada.http.head("/flavors") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429]


async def test_every_answer_tells_the_limits_and_what_is_left(ada: Person) -> None:
    answer = await ada.http.get("/flavors")
    [slots] = re.findall(r'"concurrent";q=(\d+)', answer.headers["RateLimit-Policy"])
    assert answer.headers["RateLimit-Policy"] == POLICY.format(slots)
    assert left(answer) == {"user-reads": (3, 150), "concurrent": (int(slots), 0)}
    assert left(await ada.http.get("/vms/nothing"))["user-reads"][0] == 2


async def test_whoever_has_no_valid_token_counts_for_the_address(app: FastAPI, anyone: httpx.AsyncClient) -> None:
    forged = client_of(app, "x")
    assert await statuses(anyone, 3) == [401] * 3
    assert await statuses(forged, 3) == [401] * 2 + [429]
    assert await statuses(client_of(app, "vma_" + "0" * 64), 1) == [429]
    other = httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=("2001:db8::1", 1)), base_url="http://api/api/v1"
    )
    assert await statuses(other, 1) == [401]


async def test_a_user_behind_an_address_that_is_used_up_is_served(anyone: httpx.AsyncClient, ada: Person) -> None:
    assert (await statuses(anyone, 6))[-1] == 429
    assert await statuses(ada.http, 1) == [200]


async def test_addresses_of_one_customer_are_one_and_a_header_makes_no_other(app: FastAPI) -> None:
    for n in range(6):
        transport = httpx.ASGITransport(app, client=(f"2001:db8:0:1::{n}", 1))
        http = httpx.AsyncClient(transport=transport, base_url="http://api/api/v1")
        answer = await http.get("/vms", headers={"X-Forwarded-For": f"192.0.2.{n}"})
    check_problem(answer, 429, "rate_limited")


async def test_health_is_never_limited(anyone: httpx.AsyncClient) -> None:
    answers = [await anyone.get("/health/live") for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert "RateLimit" not in answers[0].headers


async def test_a_program_counts_for_its_token_and_for_its_user(app: FastAPI, ada: Person) -> None:
    made = await ada.http.post("/tokens", json={"name": "robot", "scopes": ["read"]})
    robot = client_of(app, made.json()["token"])
    assert await statuses(robot, 3) == [200] * 3
    refused = await robot.get("/flavors")
    check_problem(refused, 429, "rate_limited")
    assert "token-reads" in refused.json()["detail"]
    assert (left(refused)["token-reads"][0], left(refused)["user-reads"][0]) == (0, 1)
    assert await statuses(ada.http, 2) == [200, 429]


async def test_without_limits_only_simultaneous_requests_are_told(settings: Settings, engine: AsyncEngine) -> None:
    unlimited = settings.model_copy(update={f"rate_limit_{name}": 0 for name in LIMITS})
    async with running(unlimited) as app:
        http = (await person(app, engine, unlimited, "eve")).http
        assert await statuses(http, 20) == [200] * 20
        answer = await http.get("/flavors")
        assert list(left(answer)) == ["concurrent"]
        assert "w=" not in answer.headers["RateLimit-Policy"]


async def test_a_flood_is_one_line_in_the_log_and_no_line_for_each_request(
    ada: Person, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        await statuses(ada.http, 20)
    assert [record.levelname for record in caplog.records if "user-reads" in record.message] == ["WARNING"]
    assert len([record for record in caplog.records if "GET /api/v1/flavors" in record.message]) == 4


async def test_a_refused_login_attempt_costs_nothing_of_another_address(app: FastAPI) -> None:
    """The delay of failed logins is per address, and so is the limit."""
    wrong = {"username": "ada", "password": "Wrong-Horse-1"}
    attacker = client_of(app)
    answers = [(await attacker.post("/auth/login", json=wrong)).status_code for _ in range(4)]
    assert answers == [401] * 3 + [429]
    owner = httpx.AsyncClient(transport=httpx.ASGITransport(app, client=("192.0.2.7", 1)), base_url="http://api/api/v1")
    assert (await owner.post("/auth/login", json=wrong)).status_code == 401


async def test_the_client_waits_until_the_limit_has_room(
    settings: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.web.rate_limits.WINDOW", LIMITS["user_reads"])  # one more each second
    said: list[float] = []
    async with running(settings) as app:
        token = (await person(app, engine, settings, "eve")).http.headers["Authorization"].removeprefix("Bearer ")
        transport = httpx.ASGITransport(app)
        client = AsyncClient("http://api", token=token, transport=transport, on_retry=lambda _, s: said.append(s))
        names = [(await client.account.me()).username for _ in range(5)]
    assert names == ["eve"] * 5
    # Mostly one wait. The processes exchange their uses meanwhile, and the clock of the database may be a bit off.
    assert said in ([1.0], [1.0, 1.0])


async def test_the_token_of_a_login_that_has_ended_counts_for_its_address(app: FastAPI, ada: Person) -> None:
    app.state.vmapi.epochs.note(ada.user.id, 1)
    answer = await ada.http.get("/vms")
    assert answer.status_code == 401
    assert '"address-reads"' in answer.headers["RateLimit"]


async def test_logins_count_for_their_address_whatever_token_comes_with_them(ada: Person) -> None:
    answer = await ada.http.post("/auth/login", json={"username": "nobody", "password": "Wrong-Horse-1"})
    assert answer.status_code == 401
    assert '"address-writes"' in answer.headers["RateLimit"]
