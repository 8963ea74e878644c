"""Overload: excess requests are refused, and no caller gets all the slots."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Message

from api.app import RESERVED_CONNECTIONS
from api.background import readiness
from api.background.readiness import Check
from api.web import admission, consoles, program_tokens, security
from api.web.logins import FREE_FAILURES
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, client_of, person, running
from tests.api.test_login_attacks import at
from tests.api.test_problems import check_problem
from tests.support.rows import add_vm

LOGIN = {"username": "nobody", "password": "Correct-Horse-1"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Four slots: two requests of one caller are served concurrently, and eight of its requests wait."""
    return settings.model_copy(update={"db_pool_size": 4 + RESERVED_CONNECTIONS, "db_max_overflow": 0})


@asynccontextmanager
async def one_slot(settings: Settings) -> AsyncIterator[FastAPI]:
    """The running application, which has one slot for all requests."""
    async with running(settings.model_copy(update={"db_pool_size": 1 + RESERVED_CONNECTIONS})) as app:
        yield app


@asynccontextmanager
async def locked_vms(engine: AsyncEngine) -> AsyncIterator[None]:
    """Let no create of a VM get its answer meanwhile."""
    async with engine.begin() as tx:
        await tx.execute(text("LOCK TABLE vms IN EXCLUSIVE MODE"))
        yield


async def create_vms(caller: Person, number: int) -> Sequence[httpx.Response]:
    """The answers to so many concurrent creates."""
    body = {"name": "web", "flavor_id": FLAVOR}
    return await asyncio.gather(*(caller.http.post("/vms", json=body) for _ in range(number)))


async def test_a_flood_of_one_caller_is_refused_while_another_caller_is_served(
    engine: AsyncEngine, ada: Person, bob: Person
) -> None:
    async with locked_vms(engine):
        flood = asyncio.create_task(create_vms(ada, 30))
        await asyncio.sleep(0.1)
        check_problem(await ada.http.get("/flavors"), 429, "too_many_requests")
        assert (await bob.http.get("/vms")).status_code == 200
    answers = await flood
    assert Counter(answer.status_code for answer in answers) == {202: 10, 429: 20}
    for answer in answers:
        assert answer.headers["Retry-After"] == "1"
    assert (await ada.http.get("/vms")).json()["total"] == 10


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_refusal_is_held_back_only_as_long_as_its_client_waits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The requests of clients that had gone filled the memory, each with its body."""
    monkeypatch.setattr(admission, "REFUSAL_DELAY", 3600.0)
    monkeypatch.setattr(admission, "LONGEST_REFUSAL_DELAY", 3600.0)
    limits = {"rate_limit_address_reads": 1, "rate_limit_address_writes": 1}
    body, headers = b'{"name": "web-1"}', [(b"content-type", b"application/json")]
    messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    async with running(settings.model_copy(update=limits)) as app, asyncio.timeout(20):
        assert (await client_of(app).request(method, "/vms")).status_code == 401
        scope = {"type": "http", "method": method, "path": "/api/v1/vms", "query_string": b"", "headers": headers}
        scope |= {"raw_path": b"/api/v1/vms", "client": ("127.0.0.1", 1), "http_version": "1.1", "root_path": ""}
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
    assert sent[0]["status"] == 429
    assert messages == []


async def test_an_overloaded_service_has_a_place_for_a_new_caller_and_answers_health_checks(
    engine: AsyncEngine, app: FastAPI, settings: Settings, anyone: httpx.AsyncClient
) -> None:
    *callers, latecomer = [await person(app, engine, settings, name) for name in ("ada", "bob", "eve", "ann")]
    async with locked_vms(engine):
        floods = [asyncio.create_task(create_vms(caller, 8)) for caller in callers]
        await asyncio.sleep(0.1)
        late = asyncio.create_task(latecomer.http.get("/vms"))
        await asyncio.sleep(0.1)
        assert (await anyone.get("/health/live")).status_code == 200
    answers = [answer for answers in await asyncio.gather(*floods) for answer in answers]
    assert (await late).status_code == 200
    # Four held slots and sixteen places in the queue, one of which went to the latecomer.
    assert Counter(answer.status_code == 202 for answer in answers) == {True: 19, False: 5}


async def test_an_overloaded_service_refuses_a_caller_that_demands_as_much_as_the_others(
    engine: AsyncEngine, app: FastAPI, settings: Settings
) -> None:
    callers = [await person(app, engine, settings, name) for name in ("ada", "bob", "eve")]
    async with locked_vms(engine):
        floods = [asyncio.create_task(create_vms(caller, 8)) for caller in callers]
        await asyncio.sleep(0.1)
        check_problem(await callers[2].http.get("/vms"), 503, "overloaded")
    await asyncio.gather(*floods)


async def test_requests_without_a_valid_token_share_the_slots_of_their_address(
    engine: AsyncEngine, ada: Person, anyone: httpx.AsyncClient
) -> None:
    async with locked_vms(engine):
        flood = asyncio.create_task(create_vms(ada, 30))
        await asyncio.sleep(0.1)
        check_problem(await anyone.get("/vms"), 401, "unauthenticated")
        check_problem(await anyone.get("/vms", headers={"Authorization": "Bearer x"}), 401, "invalid_token")
    await flood


async def test_strangers_at_many_addresses_leave_places_for_users(
    engine: AsyncEngine, app: FastAPI, ada: Person
) -> None:
    """Made-up tokens of programs take slots, because only the database knows them."""
    headers = {"Authorization": f"Bearer {program_tokens.PREFIX}{'0' * 64}"}
    async with engine.begin() as tx:
        await tx.execute(text("LOCK TABLE program_tokens IN ACCESS EXCLUSIVE MODE"))
        strangers = [at(app, f"203.0.113.{number}") for number in range(40)]
        flood = [asyncio.create_task(stranger.get("/vms", headers=headers)) for stranger in strangers]
        await asyncio.sleep(0.1)
        user = asyncio.create_task(ada.http.get("/vms"))
        await asyncio.sleep(0.1)
        flood += [asyncio.create_task(stranger.get("/vms", headers=headers)) for stranger in strangers]
        await asyncio.sleep(0.1)
    assert (await user).status_code == 200
    assert {answer.status_code for answer in await asyncio.gather(*flood)} <= {401, 429, 503}


async def test_the_more_refusals_are_held_back_the_longer_each_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So they cost a part of a processor only, from however many connections they come."""
    delays: list[float] = []
    is_over = asyncio.Event()

    def timeout(seconds: float) -> AbstractAsyncContextManager[None]:
        delays.append(seconds)
        return nullcontext()

    async def receive() -> Message:
        await is_over.wait()
        return {"type": "http.disconnect"}

    monkeypatch.setattr(admission, "asyncio", SimpleNamespace(timeout=timeout))
    nothing: Any = None
    refusing = admission.Admission(nothing, slots=nothing, searches=nothing, signing=nothing, limits=nothing)
    held = [asyncio.create_task(refusing._hold_back(receive)) for _ in range(5_000)]
    await asyncio.sleep(0)
    assert (delays[0], delays[599], delays[-1]) == (0.5, 6.0, 30.0)
    is_over.set()
    await asyncio.gather(*held)
    await refusing._hold_back(receive)
    assert delays[-1] == 0.5


@pytest.mark.parametrize("form", ["bearer {}", "Bearer  {}", "Bearer \t{} "])
async def test_a_token_counts_for_its_user_however_its_header_is_written(
    engine: AsyncEngine, ada: Person, form: str
) -> None:
    kind, token = ada.http.headers["Authorization"].split()
    assert kind == "Bearer"
    async with locked_vms(engine):
        flood = asyncio.create_task(create_vms(ada, 30))
        await asyncio.sleep(0.1)
        answer = await ada.http.get("/flavors", headers={"Authorization": form.format(token)})
        check_problem(answer, 429, "too_many_requests")
    await flood


async def test_logins_wait_for_a_hashing_slot_and_the_excess_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    concurrent = max_concurrent = 0

    async def verify_slowly(*_: object) -> bool:
        nonlocal concurrent, max_concurrent
        concurrent += 1
        max_concurrent = max(max_concurrent, concurrent)
        await asyncio.sleep(0.2)  # until all logins have arrived
        concurrent -= 1
        return False

    monkeypatch.setattr(security, "verify_password", verify_slowly)
    monkeypatch.setattr("api.app.HASHING_SLOTS", 1)
    wide = settings.model_copy(update={"db_pool_size": 60})
    async with running(wide) as app:
        logins = (client_of(app).post("/auth/login", json=LOGIN) for _ in range(20))
        answers = await asyncio.gather(*logins)
    assert max_concurrent == 1
    assert Counter(answer.status_code for answer in answers) == {401: FREE_FAILURES, 429: 20 - FREE_FAILURES}


@pytest.mark.parametrize(("path", "body"), [("login", LOGIN), ("register", LOGIN | {"email": "n@example.com"})])
async def test_while_passwords_of_strangers_are_hashed_users_have_all_slots(
    engine: AsyncEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, str]
) -> None:
    hashing, go_on = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> str:
        hashing.set()
        await go_on.wait()
        return ""

    monkeypatch.setattr(security, "verify_password", wait)
    monkeypatch.setattr(security, "hash_password", wait)
    async with one_slot(settings) as app:
        user = await person(app, engine, settings, "ada")
        request = asyncio.create_task(client_of(app).post(f"/auth/{path}", json=body))
        await hashing.wait()
        assert (await user.http.get("/vms")).status_code == 200
        go_on.set()
        assert (await request).status_code == {"login": 401, "register": 201}[path]


async def test_while_a_worker_is_waited_for_others_have_all_slots(
    engine: AsyncEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, go_on = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> None:
        asking.set()
        await go_on.wait()
        raise TimeoutError

    monkeypatch.setattr(consoles, "_answered", wait)
    async with one_slot(settings) as app:
        user, other = [await person(app, engine, settings, name) for name in ("ada", "bob")]
        async with engine.begin() as tx:
            vm = await add_vm(tx, user.user, launched_at=datetime.now(UTC))
        request = asyncio.create_task(user.http.get(f"/vms/{vm.id}/console-log"))
        await asking.wait()
        assert (await other.http.get("/vms")).status_code == 200
        go_on.set()
        check_problem(await request, 503, "worker_unavailable")


async def test_a_request_whose_body_never_arrives_holds_no_slot(ada: Person) -> None:
    async def endless() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    headers = {"Content-Type": "application/json"}
    requests = [asyncio.create_task(ada.http.post("/vms", content=endless(), headers=headers)) for _ in range(30)]
    await asyncio.sleep(0.1)
    assert (await ada.http.get("/vms")).status_code == 200
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)


async def test_concurrent_readiness_probes_share_one_run_of_the_checks(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = 0
    check_one = readiness._check

    async def count_and_check(probe: Coroutine[Any, Any, None]) -> Check:
        nonlocal checks
        checks += 1
        return await check_one(probe)

    monkeypatch.setattr(readiness, "_check", count_and_check)
    async with client_of(app) as http:
        answers = await asyncio.gather(*(http.get("/health/ready") for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert checks == 2  # one of PostgreSQL, one of Temporal
