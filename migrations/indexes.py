"""Builds the indexes of missing migrations beside requests, before the migrations themselves run.

An ordinary CREATE INDEX blocks all writes to its table until the index is built and the migration commits. That takes
seconds on a table with millions of rows. CREATE INDEX CONCURRENTLY blocks nobody, but it cannot run in a transaction,
and migrations run in one. So a migration lists its indexes in `INDEXES`, and in `INDEXES_SINCE` the revision whose
schema has all their columns. From that revision on they are built here first, and the migration then finds them. An
older database is first migrated to the revision before. In an empty database the migration builds them itself.

A migration may also list statements in `FILL`, which run here before its indexes are built: they write to all rows of a
table in many small transactions.
"""

import asyncio

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.data import advisory_locks, database, queries

_PAUSE = 1.0  # seconds
HEAD = "head"  # Alembic's word for the last revision


async def build(engine: AsyncEngine, config: Config) -> str:
    """Build the indexes that missing migrations list. It needs two connections of the pool.

    Returns the revision up to which the migrations can run now: HEAD, or the one before a migration whose indexes need
    columns that are still missing. After those migrations have run, call it again.
    """
    async with database.autocommit(engine).connect() as connection:
        current = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
        fill, indexes, target = _missing(config, current)
        # A build waits until every transaction has ended that had a snapshot when it began to wait. So another process
        # must not wait for the lock in one long transaction: both would wait for each other for ever.
        while (fill or indexes) and not await _build_all(engine, connection, fill, indexes):  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)
    return target


async def _build_all(
    engine: AsyncEngine, connection: AsyncConnection, fill: list[str], indexes: dict[str, str]
) -> bool:
    """Fill, build the indexes and return True; False if another process is building."""
    async with engine.begin() as tx:
        is_alone = await queries.try_long_lock(tx, advisory_locks.INDEX_BUILDS)
        for statement in fill if is_alone else ():
            await connection.exec_driver_sql(statement)
        for name, definition in indexes.items() if is_alone else ():
            await _build(connection, name, definition)
    return is_alone


def _missing(config: Config, current: str | None) -> tuple[list[str], dict[str, str], str]:
    """What can be filled and the indexes that can be built already, and the last revision that needs no others."""
    fill: list[str] = []
    indexes: dict[str, str] = {}
    scripts = ScriptDirectory.from_config(config).iterate_revisions(HEAD, current) if current else ()
    for script in reversed(list(scripts)):
        if hasattr(script.module, "INDEXES"):
            if current < script.module.INDEXES_SINCE:
                return fill, indexes, str(script.down_revision)
            fill += getattr(script.module, "FILL", [])
            indexes |= script.module.INDEXES
    return fill, indexes, HEAD


async def _build(connection: AsyncConnection, name: str, definition: str) -> None:
    # A build that was cut off leaves an index that is maintained but never used.
    broken = text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    if await connection.scalar(broken, {"name": name}):
        await connection.execute(text(f"DROP INDEX CONCURRENTLY {name}"))
    kind = "UNIQUE INDEX" if name.startswith("uq_") else "INDEX"
    await connection.execute(text(f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {name} ON {definition}"))
