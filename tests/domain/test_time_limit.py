"""A time limit ends a slow statement at the server, keeps its connection, and is no outage; a silent server is one."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, func, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import database
from domain.data.outages import is_outage
from domain.data.prepared import Prepared
from domain.data.time_limit import TimeLimit, TooSlowError
from domain.settings import Settings
from tests.support import pgbouncer

SLEEP = select(func.pg_sleep(bindparam("seconds")))
PID = text("SELECT pg_backend_pid()")
ASLEEP = text("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(%' "
              "AND datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
Sleep = Callable[[AsyncEngine, TimeLimit, float], Awaitable[object]]


async def by_driver(engine: AsyncEngine, limit: TimeLimit, seconds: float) -> None:
    """Sleep in a statement that the driver runs."""
    await Prepared(SLEEP).fetch(engine, {"seconds": seconds}, limit)


async def by_sqlalchemy(engine: AsyncEngine, limit: TimeLimit, seconds: float) -> None:
    """Sleep in a statement that SQLAlchemy runs."""
    async with limit.connect(database.autocommit(engine)) as connection:
        await connection.execute(SLEEP, {"seconds": seconds})


@pytest.fixture(params=[by_driver, by_sqlalchemy])
def sleep(request: pytest.FixtureRequest) -> Sleep:
    """One of the ways to run a statement."""
    way: Sleep = request.param
    return way


@pytest.fixture
def seconds() -> float:
    """How long a statement may take, the time of a busy machine included."""
    return 10.0


@pytest.fixture
async def pool(settings: Settings, seconds: float) -> AsyncIterator[AsyncEngine]:
    """Two connections, whose statements may take so long."""
    two = settings.model_copy(update={"db_pool_size": 2, "db_max_overflow": 0})
    engine = database.create_engine(two, command_timeout=seconds)
    yield engine
    await database.close(engine)


async def sessions_of(engine: AsyncEngine) -> set[int]:
    """The sessions behind both connections of the pool."""
    async with engine.connect() as one, engine.connect() as other:
        return {int(await connection.scalar(PID) or 0) for connection in (one, other)}


async def test_a_slow_statement_ends_at_the_server_and_all_connections_stay(
    pool: AsyncEngine, engine: AsyncEngine, sleep: Sleep
) -> None:
    sessions = await sessions_of(pool)
    for _ in range(3):
        with pytest.raises(TooSlowError) as raised:
            await sleep(pool, TimeLimit(0.1), 60)
        assert not is_outage(raised.value)
        async with engine.connect() as connection:
            assert await connection.scalar(ASLEEP) == 0
    assert await sessions_of(pool) == sessions


async def test_the_server_has_the_usual_time_to_end_a_statement_whose_own_was_short(
    pool: AsyncEngine, sleep: Sleep
) -> None:
    sessions = await sessions_of(pool)
    for session in sessions:
        os.kill(session, signal.SIGSTOP)
    ending = asyncio.ensure_future(sleep(pool, TimeLimit(0.1), 60))
    await asyncio.sleep(0.5)  # five times the limit
    for session in sessions:
        os.kill(session, signal.SIGCONT)
    with pytest.raises(TooSlowError):
        await ending
    assert await sessions_of(pool) == sessions


async def test_a_statement_is_not_begun_if_the_server_could_not_end_it_in_time(pool: AsyncEngine, sleep: Sleep) -> None:
    with pytest.raises(TooSlowError):
        await sleep(pool, TimeLimit(0.01), 0)


async def test_what_comes_after_a_limited_statement_has_the_usual_limit(pool: AsyncEngine, sleep: Sleep) -> None:
    await sleep(pool, TimeLimit(0.3), 0)
    async with pool.connect() as one, pool.connect() as other:
        await asyncio.gather(*(connection.execute(SLEEP, {"seconds": 0.4}) for connection in (one, other)))


async def test_statements_of_one_limit_share_its_time(pool: AsyncEngine, sleep: Sleep) -> None:
    limit = TimeLimit(0.2)
    await sleep(pool, limit, 0)
    for seconds in (60, 0):
        with pytest.raises(TooSlowError):
            await sleep(pool, limit, seconds)


@pytest.mark.parametrize("seconds", [1.0])
async def test_a_server_that_does_not_end_the_statement_costs_the_whole_pool(pool: AsyncEngine, sleep: Sleep) -> None:
    sessions = await sessions_of(pool)
    for session in sessions:
        os.kill(session, signal.SIGSTOP)  # it hears neither the statement nor that it should end it
    try:
        with pytest.raises(TimeoutError) as raised:
            await sleep(pool, TimeLimit(0.1), 60)
    finally:
        for session in sessions:
            os.kill(session, signal.SIGCONT)
    assert is_outage(raised.value)
    assert not await sessions_of(pool) & sessions


@pgbouncer.needs_pgbouncer
async def test_behind_pgbouncer_a_slow_statement_ends_and_all_connections_stay(
    postgres: Path, settings: Settings, engine: AsyncEngine, sleep: Sleep
) -> None:
    with pgbouncer.running(postgres, pool_size=2) as folder:
        url = pgbouncer.through(folder, str(make_url(settings.database_url).database), pgbouncer="true")
        behind = {"database_url": url, "db_pool_size": 4, "db_max_overflow": 0}
        pool = database.create_engine(settings.model_copy(update=behind))
        async with pool.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
        before = await sessions_of(pool)
        for _ in range(3):
            slow = [sleep(pool, TimeLimit(0.2), 60) for _ in range(3)]  # one of them waits for PgBouncer
            for error in await asyncio.gather(*slow, return_exceptions=True):
                assert isinstance(error, TooSlowError)
            async with engine.connect() as connection:
                assert await connection.scalar(ASLEEP) == 0
            async with pool.connect() as connection:
                assert await connection.scalar(select(1)) == 1
        assert not raw.is_closed()
        assert await sessions_of(pool) == before  # of PgBouncer's connections, too
        await database.close(pool)
