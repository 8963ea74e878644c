"""Migrations while earlier code serves requests: a migration gives way and never causes a deadlock."""

import asyncio

from alembic import command
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import database
from domain.settings import Settings
from migrations.__main__ import alembic_config, migrate
from tests.support.rows import add_user, add_volume

WAITING = """SELECT count(*) FROM pg_locks
    WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


async def test_a_migration_releases_its_locks_for_a_request(settings: Settings, engine: AsyncEngine) -> None:
    """The migration holds `vms` and waits for `volumes`; the request holds a row of `volumes` and needs `vms`."""
    async with engine.begin() as tx:
        await add_volume(tx, await add_user(tx))
        await tx.run_sync(lambda connection: command.downgrade(alembic_config(connection), "0007"))
    # In a transaction, the server would keep the observer's last snapshot, and the builds of indexes would wait for it.
    async with database.autocommit(engine).connect() as observer:
        async with engine.begin() as request:
            await request.execute(text("UPDATE volumes SET name = 'claimed'"))
            migrating = asyncio.create_task(migrate(settings))
            while not await observer.scalar(text(WAITING)):  # noqa: ASYNC110 - the database sets no asyncio.Event
                await asyncio.sleep(0.01)
            await observer.rollback()  # the indexes that are built later would wait for its end
            await request.execute(text("SELECT count(*) FROM vms"))
        await migrating
        head = await observer.scalar(text("SELECT version_num FROM alembic_version"))
    assert head > "0007"
