"""Builds the indexes of missing migrations beside requests, before the migrations themselves run.

An ordinary CREATE INDEX blocks all writes to its table until the index is built and the migration commits. That takes
seconds on a table with millions of rows. CREATE INDEX CONCURRENTLY blocks nobody, but it cannot run in a transaction,
and all migrations run in one. So a migration lists its indexes in `INDEXES`, and in `INDEXES_SINCE` the revision whose
schema has all their columns. From that revision on they are built here first, and the migration then finds them. On an
older or empty database the migration builds them itself.
"""

import asyncio

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.data import database

_LOCK = 7_166_401_207  # of the advisory lock: one process builds at a time
_PAUSE = 1.0  # seconds


async def build(engine: AsyncEngine, config: Config) -> None:
    """Build the indexes that missing migrations list. It needs two connections of the pool."""
    async with database.autocommit(engine).connect() as connection:
        current = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
        indexes = _missing(config, current)
        if not indexes:
            return
        async with engine.begin() as tx:
            await _lock(tx)
            for name, definition in indexes.items():
                await _build(connection, name, definition)


async def _lock(tx: AsyncConnection) -> None:
    """Let no other process build until the transaction ends.

    A lock of the session would stay behind at a pooler such as PgBouncer. The transaction tries again after a pause and
    never waits for the lock inside a statement: it would hold a snapshot meanwhile, and the build of another process
    would wait for that.
    """
    await tx.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # a build may take long
    while not await tx.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):  # noqa: ASYNC110
        await asyncio.sleep(_PAUSE)


def _missing(config: Config, current: str | None) -> dict[str, str]:
    """The indexes of the missing migrations that can be built already, by name."""
    if current is None:
        return {}
    modules = [script.module for script in ScriptDirectory.from_config(config).iterate_revisions("head", current)]
    ready = [module for module in modules if hasattr(module, "INDEXES") and current >= module.INDEXES_SINCE]
    return {name: definition for module in ready for name, definition in module.INDEXES.items()}


async def _build(connection: AsyncConnection, name: str, definition: str) -> None:
    # A build that was cut off leaves an index that is maintained but never used.
    broken = text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    if await connection.scalar(broken, {"name": name}):
        await connection.execute(text(f"DROP INDEX CONCURRENTLY {name}"))
    await connection.execute(text(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {definition}"))
