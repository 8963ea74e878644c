"""Which errors of PostgreSQL are an outage, and what the log says about one."""

import logging

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import database, outages
from domain.data.outages import OutageLog, UnusableDatabaseError, describe, is_outage, sqlstate_of
from domain.settings import Settings

PASSES = ["08006", "25006", "25P03", "25P04", "28P01", "3D000", "40001", "40P01", "53100", "53300", "55P03", "57014"]
PASSES += ["42501", "42703", "42P01", "57P01", "57P05", "58030"]
BUGS = ["22003", "22012", "23514", "25P02", "42601", "42883", "54000", "XX000", "P0001"]
DROPPED = {"25006", "53100", "57014", "57P05"}


async def error_with(engine: AsyncEngine, state: str) -> DBAPIError:
    """The error of a statement that the server ends with this SQLSTATE."""
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'it failed' USING ERRCODE = '{state}', DETAIL = 'secret'; END $$"
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as raised:
            await connection.execute(text(raising))
    return raised.value


@pytest.mark.parametrize("state", PASSES)
async def test_states_that_pass_are_an_outage(engine: AsyncEngine, state: str) -> None:
    error = await error_with(engine, state)
    assert is_outage(error)
    assert sqlstate_of(error) == state
    assert "SQL:" not in str(error)
    assert f" {state}: it failed" in describe(error)
    assert describe(error).endswith("run python -m migrations") == (state in {"42703", "42P01"})
    assert ("grant the role" in describe(error)) == (state == "42501")
    if state in DROPPED:
        assert error.connection_invalidated


@pytest.mark.parametrize("state", BUGS)
async def test_other_states_are_bugs_and_keep_the_connection(engine: AsyncEngine, state: str) -> None:
    error = await error_with(engine, state)
    assert not is_outage(error)
    assert not error.connection_invalidated
    assert "SQL:" not in str(error)


async def sessions_of(engine: AsyncEngine) -> set[int]:
    """The sessions behind both connections of the pool."""
    async with engine.connect() as one, engine.connect() as other:
        return {int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0) for connection in (one, other)}


async def test_a_read_only_server_costs_the_whole_pool_and_a_slow_statement_one_connection(engine: AsyncEngine) -> None:
    sessions = await sessions_of(engine)
    await error_with(engine, "57014")
    assert len(await sessions_of(engine) & sessions) == 1
    sessions = await sessions_of(engine)
    await error_with(engine, "25006")
    assert not await sessions_of(engine) & sessions


async def test_a_server_that_does_not_answer_costs_the_whole_pool(settings: Settings) -> None:
    """Its machine may be gone, and then each connection would cost another request the whole time limit."""
    engine = database.create_engine(settings, command_timeout=0.2)
    sessions = await sessions_of(engine)
    async with engine.connect() as connection:
        with pytest.raises(TimeoutError):
            await connection.execute(text("SELECT pg_sleep(1)"))
    assert not await sessions_of(engine) & sessions
    await database.close(engine)


@pytest.mark.parametrize(
    ("error", "description"),
    [
        (ConnectionRefusedError(111, "refused"), "ConnectionRefusedError: [Errno 111] refused"),
        (TimeoutError(), "TimeoutError:"),
        (PoolTimeoutError("no connection"), "TimeoutError: no connection"),
        (UnusableDatabaseError("it is PostgreSQL 9"), "it is PostgreSQL 9"),
    ],
)
def test_a_server_that_is_away_is_an_outage(error: Exception, description: str) -> None:
    assert is_outage(error)
    assert describe(error) == description


def test_a_description_has_one_line_and_no_values() -> None:
    error = asyncpg.UniqueViolationError("duplicate key\nvalue")
    error.detail = "Key (username)=(ada) already exists."
    wrapped = IntegrityError("INSERT", {"username": "ada"}, error)
    assert describe(wrapped) == "UniqueViolationError 23505: duplicate key value"


def test_an_outage_is_logged_when_it_begins_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, outages.__name__)
    log = OutageLog()
    log.succeeded()
    for _ in range(100):
        log.failed(TimeoutError("no answer"))
        log.succeeded()  # while a disk is full, some statements succeed
    monkeypatch.setattr(outages, "QUIET_TIME", -1.0)
    log.succeeded()
    log.succeeded()
    assert caplog.messages == [
        "PostgreSQL is unavailable, work waits for it: TimeoutError: no answer",
        "PostgreSQL is available again",
    ]
