"""Statements that the driver runs by itself: their rows, their errors, and what these do to the pool."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import Integer, Text, Uuid, bindparam, func, insert, literal, literal_column, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import database
from domain.data.models import VM, Flavor
from domain.data.outages import is_outage
from domain.data.prepared import Prepared
from domain.data.queries import violated_constraint
from domain.data.views import VMS
from domain.rules.states import Status
from domain.settings import Settings
from tests.support.rows import add_user, add_vm

SESSION = Prepared(select(func.pg_backend_pid().label("pid")))
SLEEP = Prepared(select(func.pg_sleep(60)))
HALF = Prepared(select((10 / bindparam("by", type_=Integer())).label("half")))
END = Prepared(select(func.pg_terminate_backend(func.pg_backend_pid())))
FLAVOR = Prepared(
    select(
        insert(Flavor)
        .from_select(
            ["id", "name", "vcpus", "ram_mb", "disk_gb"],
            select(bindparam("id", type_=Uuid()), literal("new", Text()), *map(literal_column, "111")),
        )
        .returning(Flavor.name)
        .cte("new")
    )
)
Run = Callable[[AsyncEngine, Prepared, dict[str, Any]], Coroutine[Any, Any, Any]]


async def alone(engine: AsyncEngine, prepared: Prepared, values: dict[str, Any]) -> Any:
    """Run the statement alone."""
    return await prepared.fetch(engine, values)


async def on_a_connection(engine: AsyncEngine, prepared: Prepared, values: dict[str, Any]) -> Any:
    """Run the statement on a connection in autocommit mode."""
    async with database.autocommit(engine).connect() as connection:
        return await prepared.fetch_in(connection, values)


async def in_a_transaction(engine: AsyncEngine, prepared: Prepared, values: dict[str, Any]) -> Any:
    """Run the statement in a transaction."""
    async with engine.begin() as tx:
        return await prepared.fetch_in(tx, values)


@pytest.fixture(params=[alone, on_a_connection, in_a_transaction], ids=lambda run: run.__name__)
def run(request: pytest.FixtureRequest) -> Run:
    """One of the ways to run a statement."""
    way: Run = request.param
    return way


async def test_rows_are_those_of_sqlalchemy(engine: AsyncEngine, run: Run) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = (await add_vm(tx, user)).id
    statement = VMS.where(VM.id == bindparam("id"), VM.status.in_([Status.ACTIVE, Status.ERROR]))
    async with engine.begin() as tx:
        expected = (await tx.execute(statement, {"id": vm})).one()
    (row,) = await run(engine, Prepared(statement), {"id": vm})
    assert {name: getattr(row, name) for name in expected._fields} == expected._asdict()
    assert type(row.status) is Status
    assert await run(engine, Prepared(statement), {"id": uuid4()}) == []


async def test_a_statement_takes_other_values_each_time(engine: AsyncEngine, run: Run) -> None:
    found = [await run(engine, HALF, {"by": by}) for by in (1, 2, 5)]
    assert [row.half for (row,) in found] == [10, 5, 2]


async def test_a_broken_rule_is_an_integrity_error_with_its_name(engine: AsyncEngine, run: Run) -> None:
    new = {"id": uuid4()}
    assert [row.name for row in await run(engine, FLAVOR, new)] == ["new"]
    with pytest.raises(IntegrityError) as raised:
        await run(engine, FLAVOR, new)
    assert violated_constraint(raised.value) == "pk_flavors"
    assert not is_outage(raised.value)
    assert "INSERT" not in str(raised.value)


async def test_an_error_of_the_statement_keeps_its_connection(settings: Settings, run: Run) -> None:
    engine = database.create_engine(settings.model_copy(update={"db_pool_size": 1, "db_max_overflow": 0}))
    before = await run(engine, SESSION, {})
    with pytest.raises(DBAPIError) as raised:
        await run(engine, HALF, {"by": 0})
    assert not is_outage(raised.value)
    assert await run(engine, SESSION, {}) == before
    await database.close(engine)


async def test_a_lost_connection_is_an_outage_and_a_new_one_takes_its_place(engine: AsyncEngine, run: Run) -> None:
    with pytest.raises((DBAPIError, asyncpg.InterfaceError)) as raised:
        await run(engine, END, {})
    assert is_outage(raised.value)
    assert await run(engine, SESSION, {})


async def test_a_canceled_request_takes_its_connection_along(settings: Settings, run: Run) -> None:
    engine = database.create_engine(settings.model_copy(update={"db_pool_size": 1, "db_max_overflow": 0}))
    (before,) = await run(engine, SESSION, {})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(engine, SLEEP, {}), 0.2)
    (after,) = await run(engine, SESSION, {})
    assert after.pid != before.pid
    await database.close(engine)


async def test_a_server_without_an_answer_costs_the_whole_pool(settings: Settings, run: Run) -> None:
    engine = database.create_engine(settings, command_timeout=0.2)
    async with engine.connect() as one, engine.connect() as other:
        before = {await connection.scalar(text("SELECT pg_backend_pid()")) for connection in (one, other)}
    with pytest.raises((DBAPIError, TimeoutError)) as raised:
        await run(engine, SLEEP, {})
    assert is_outage(raised.value)
    async with engine.connect() as one, engine.connect() as other:
        after = {await connection.scalar(text("SELECT pg_backend_pid()")) for connection in (one, other)}
    assert not before & after
    await database.close(engine)


async def test_a_server_that_is_away_is_an_outage(settings: Settings, run: Run) -> None:
    away = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/nothing"})
    engine = database.create_engine(away)
    with pytest.raises((DBAPIError, OSError)) as raised:
        await run(engine, SESSION, {})
    assert is_outage(raised.value)
    await database.close(engine)


async def test_a_database_that_does_not_exist_is_an_outage(settings: Settings, run: Run) -> None:
    url = settings.database_url.replace("/test_", "/none_")
    engine = database.create_engine(settings.model_copy(update={"database_url": url}))
    with pytest.raises(DBAPIError) as raised:
        await run(engine, SESSION, {})
    assert is_outage(raised.value)
    await database.close(engine)


async def test_it_is_rolled_back_with_its_transaction(engine: AsyncEngine) -> None:
    tx = await engine.connect()
    await FLAVOR.fetch_in(tx, {"id": uuid4()})
    await tx.close()
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).where(Flavor.name == "new")) == 0
