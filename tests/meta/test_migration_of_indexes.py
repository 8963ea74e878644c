"""The indexes of migrations 0007 and 0009 are built beside requests, also after a build that was cut off."""

import asyncio

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.data import advisory_locks, queries
from domain.settings import Settings
from migrations.__main__ import alembic_config, migrate
from tests.support.rows import add_user, add_vm

BUILDING = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'CREATE %INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"""
OPEN = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND xact_start IS NOT NULL"""
INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


@pytest.fixture
async def older(engine: AsyncEngine) -> AsyncEngine:
    """A database from before the migration, with a VM."""
    async with engine.begin() as tx:
        await tx.run_sync(lambda connection: command.downgrade(alembic_config(connection), "0005"))
        await tx.execute(text("INSERT INTO users VALUES (gen_random_uuid(), 'owner', 'o@example.com', '')"))
        values = "gen_random_uuid(), users.id, 'vm', 'ACTIVE', flavors.id, images.id, '{}', gen_random_uuid()"
        columns = "id, owner_id, name, status, flavor_id, image_id, labels, operation_id"
        insert = f"INSERT INTO vms ({columns}) SELECT {values} FROM users, flavors, images LIMIT 1"  # noqa: S608 - constants
        await tx.execute(text(insert))
    return engine


async def until_building(observer: AsyncConnection) -> None:
    """Wait until a build of an index waits for an open transaction."""
    async with asyncio.timeout(10):
        while not await observer.scalar(text(BUILDING)):
            await observer.rollback()
            await asyncio.sleep(0.01)
    await observer.rollback()


async def test_requests_write_while_the_indexes_are_built(settings: Settings, older: AsyncEngine) -> None:
    """An ordinary CREATE INDEX that waits for one writer would make all others wait behind it."""
    async with older.connect() as observer:
        async with older.begin() as slow:
            await slow.execute(text("UPDATE vms SET name = 'slow'"))
            migrating = asyncio.create_task(migrate(settings))
            await until_building(observer)
            async with older.begin() as request:
                await request.execute(text("SET LOCAL lock_timeout = '2s'"))
                await request.execute(text("INSERT INTO users VALUES (gen_random_uuid(), 'u', 'e', '')"))
                await request.execute(text("UPDATE vms SET name = 'fast' WHERE false"))
        await migrating
        assert await observer.scalar(text(INVALID)) == 0
    async with older.begin() as tx:
        await add_vm(tx, await add_user(tx))


async def test_indexes_on_columns_that_a_migration_adds_are_built_beside_requests_after_it(
    settings: Settings, older: AsyncEngine
) -> None:
    await migrate_to_0008(older)
    async with older.connect() as observer:
        async with older.begin() as slow:
            await slow.execute(text("UPDATE vms SET name = 'slow' WHERE false"))
            migrating = asyncio.create_task(migrate(settings))
            await until_building(observer)
            async with older.begin() as request:
                await request.execute(text("SET LOCAL lock_timeout = '2s'"))
                await request.execute(text("UPDATE vms SET name = 'fast'"))
        await migrating
        assert await observer.scalar(text(INVALID)) == 0
        unique = "SELECT indisunique FROM pg_index WHERE indexrelid = 'uq_vms_cloud_id'::regclass"
        assert await observer.scalar(text(unique)) is True


async def migrate_to_0008(engine: AsyncEngine) -> None:
    """Run the migrations before the one that only has indexes."""
    async with engine.begin() as tx:
        await tx.run_sync(lambda connection: command.upgrade(alembic_config(connection), "0008"))


async def test_a_build_that_was_cut_off_is_repeated(settings: Settings, older: AsyncEngine) -> None:
    async with older.begin() as tx:
        await tx.execute(text("CREATE INDEX ix_vms_owner_status ON vms (owner_id, status, id)"))
        cut_off = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_vms_owner_status'::regclass"
        await tx.execute(text(cut_off))
    await migrate(settings)
    async with older.connect() as connection:
        assert await connection.scalar(text(INVALID)) == 0


async def test_several_processes_may_build_at_once(settings: Settings, older: AsyncEngine) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*(migrate(settings) for _ in range(4)))
    async with older.connect() as connection:
        assert await connection.scalar(text(INVALID)) == 0
        assert await connection.scalar(text("SELECT to_regclass('ix_vms_live_created')")) is not None


async def test_a_process_that_waits_for_the_build_of_another_has_no_open_transaction(
    settings: Settings, older: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build would wait for its end if it looked while that process was asking, and both would wait for ever."""
    asked, original = asyncio.Event(), queries.try_long_lock

    async def asking(tx: AsyncConnection, number: int) -> bool:
        is_taken = await original(tx, number)
        asked.set()
        return is_taken

    async with older.connect() as observer:
        async with older.begin() as builder:
            await original(builder, advisory_locks.INDEX_BUILDS)
            monkeypatch.setattr(queries, "try_long_lock", asking)
            waiting = asyncio.create_task(migrate(settings))
            async with asyncio.timeout(10):
                await asked.wait()
                while await observer.scalar(text(OPEN)) != 2:  # the builder and the observer
                    await observer.rollback()
            await observer.rollback()
        await waiting
        assert await observer.scalar(text(INVALID)) == 0
