"""The use of tokens for programs: when it is written, whom it counts for, whom the log names."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import token_uses
from api.background.token_uses import TokenUses
from domain import logs
from domain.commands.program_tokens import note_uses
from domain.data.accounts import ProgramToken
from domain.settings import Settings
from tests.api.conftest import Person, client_of, running
from tests.api.test_admission import create_vms, locked_vms
from tests.api.test_admission import settings as _four_slots
from tests.api.test_problems import check_problem
from tests.api.test_program_tokens import ask, make
from tests.support.waiting import poll

LONG_AGO = timedelta(seconds=61)
settings = _four_slots


async def last_use(engine: AsyncEngine) -> datetime | None:
    """When the only token was last used."""
    async with engine.connect() as connection:
        return (await connection.execute(select(ProgramToken.last_used_at))).scalar_one()


async def used(engine: AsyncEngine, ago: timedelta) -> datetime:
    """Let the last use of the token be so long ago."""
    at = datetime.now(UTC) - ago
    async with engine.begin() as tx:
        await tx.execute(update(ProgramToken).values(last_used_at=at))
    return at


async def test_the_last_use_is_shown_soon_after_the_request(app: FastAPI, ada: Person) -> None:
    answer = (await ask(ada.http)).json()

    async def shown() -> Any:
        return (await ada.http.get(f"/tokens/{answer['id']}")).json()["last_used_at"]

    assert await shown() is None
    await client_of(app, answer["token"]).get("/vms")
    use = datetime.fromisoformat(await poll(shown, lambda use: use is not None))
    assert abs(datetime.now(UTC) - use) < timedelta(seconds=30)


async def test_an_answer_does_not_wait_until_the_use_is_written(app: FastAPI, ada: Person, engine: AsyncEngine) -> None:
    program = client_of(app, await make(ada.http))
    async with engine.begin() as tx:
        await tx.execute(text("LOCK TABLE program_tokens IN EXCLUSIVE MODE"))
        assert (await program.get("/vms")).status_code == 200
        assert await last_use(engine) is None
    await poll(lambda: last_use(engine), lambda use: use is not None)


async def test_a_use_is_noted_once_a_minute(
    app: FastAPI, ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[UUID] = []
    monkeypatch.setattr(TokenUses, "note", lambda _, token_id: noted.append(token_id))
    program = client_of(app, await make(ada.http))
    for ago, wanted in ((timedelta(), 0), (timedelta(seconds=50), 0), (LONG_AGO, 1)):
        noted.clear()
        await used(engine, ago)
        await program.get("/vms?page_size=1")
        # The process asks twice whose token it is when it first meets it.
        assert len(set(noted)) == wanted


async def test_a_use_is_written_once_a_minute_by_all_processes_together(ada: Person, engine: AsyncEngine) -> None:
    token_id = UUID((await ask(ada.http)).json()["id"])
    recent = await used(engine, timedelta(seconds=50))
    async with engine.begin() as tx:
        await note_uses(tx, [token_id])
    assert await last_use(engine) == recent
    old = await used(engine, LONG_AGO)
    async with engine.begin() as first, engine.begin() as second:
        await note_uses(first, [token_id])
        async with asyncio.timeout(5):
            await note_uses(second, [token_id])
    written = await last_use(engine)
    assert written is not None
    assert written > old + LONG_AGO - timedelta(seconds=10)


async def test_uses_that_cannot_be_written_stop_nothing(
    app: FastAPI,
    ada: Person,
    engine: AsyncEngine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_uses, "PAUSE_AFTER_ERROR", 0.2)
    program = client_of(app, await make(ada.http))
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE program_tokens ADD CONSTRAINT refuse CHECK (last_used_at IS NULL)"))
    assert (await program.get("/vms")).status_code == 200

    async def logged() -> str:
        return caplog.text

    await poll(logged, lambda log: "the last use of 1 tokens could not be written" in log)
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE program_tokens DROP CONSTRAINT refuse"))
    assert (await program.get("/vms")).status_code == 200
    await poll(lambda: last_use(engine), lambda use: use is not None)


async def test_a_token_counts_for_its_user_from_its_first_request_on(
    app: FastAPI, settings: Settings, engine: AsyncEngine, ada: Person, bob: Person
) -> None:
    of_ada, of_bob = await make(ada.http), await make(bob.http)
    async with locked_vms(engine), running(settings) as other:
        flood = asyncio.create_task(create_vms(ada, 30))
        await asyncio.sleep(0.1)
        for _ in range(2):
            check_problem(await client_of(app, of_ada).get("/flavors"), 429, "too_many_requests")
            assert (await client_of(app, of_bob).get("/flavors")).status_code == 200
        # Another process has no request of hers.
        assert (await client_of(other, of_ada).get("/flavors")).status_code == 200
    await flood


async def test_a_deleted_token_counts_for_its_address(app: FastAPI, engine: AsyncEngine, ada: Person) -> None:
    answer = (await ask(ada.http)).json()
    program = client_of(app, answer["token"])
    assert (await program.get("/flavors")).status_code == 200
    await ada.http.delete(f"/tokens/{answer['id']}")
    check_problem(await program.get("/flavors"), 401, "invalid_token")
    async with locked_vms(engine):
        flood = asyncio.create_task(create_vms(ada, 30))
        await asyncio.sleep(0.1)
        check_problem(await program.get("/flavors"), 401, "invalid_token")
    await flood


async def test_an_outage_refuses_tokens_for_now_whether_or_not_the_process_knows_them(
    app: FastAPI, engine: AsyncEngine, ada: Person
) -> None:
    known, unknown = client_of(app, await make(ada.http)), client_of(app, await make(ada.http, "other"))
    assert (await known.get("/flavors")).status_code == 200
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE program_tokens RENAME TO renamed"))
    for program in (known, unknown):
        check_problem(await program.get("/flavors"), 503, "database_unavailable")
    assert (await ada.http.get("/flavors")).status_code == 200
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE renamed RENAME TO program_tokens"))
    for program in (known, unknown):
        assert (await program.get("/flavors")).status_code == 200


class Users(logging.Handler):
    """Keeps which user the log names with each line."""

    def __init__(self) -> None:
        super().__init__()
        self.of_lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.of_lines.append((logs.user.get(), record.getMessage()))


@pytest.fixture
def users() -> Iterator[Users]:
    """What the log of requests gets."""
    handler, logger = Users(), logging.getLogger("api")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


async def test_the_log_names_the_owner_of_a_token_and_never_has_the_token(
    app: FastAPI, ada: Person, users: Users
) -> None:
    token = await make(ada.http)
    for _ in range(2):
        users.of_lines.clear()
        await client_of(app, token).get("/flavors")
        [(user, line)] = users.of_lines
        assert (user, "/flavors" in line, token in line) == ("ada", True, False)
