"""Bring everything up to date: the schema, the catalogue, then Temporal's search attributes.

Any number of processes may run it at once, at any time.
"""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.service import RPCError

from activities.backends import load_backend
from activities.backends.protocol import BackendError, ComputeBackend, UnusableCloudError
from domain import logs, temporal
from domain.commands import quotas
from domain.data import advisory_locks, catalogue, database, outages
from domain.settings import Settings, SettingsWithoutKey, load_settings
from domain.upkeep import binding
from domain.upkeep.binding import OtherCloudError
from migrations import indexes, rights

logger = logging.getLogger("migrations")

TEMPORAL_RETRY_FOR = 10.0  # seconds
# Less than PostgreSQL's deadlock_timeout of 1 s: the migration gives up first, so PostgreSQL never aborts a request.
LOCK_TIMEOUT = "500ms"
PAUSE = 1.0  # seconds in which requests that wait for the migration's locks can finish
# SQLSTATEs: a lock was not available in time, and a deadlock with requests, of which PostgreSQL chose this side.
HELD_UP = {"55P03", "40P01"}
NO_SCHEMA = "3F000"  # SQLSTATE
_NO_SCHEMA = (
    "its search_path names no schema in which tables can be made; ALTER ROLE ... SET search_path = public, or "
    "ALTER DATABASE ... RESET search_path"
)


def alembic_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration, for one open connection if it is to run migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))  # `%` begins a name there
    config.attributes["connection"] = connection
    return config


async def migrate(settings: Settings) -> None:
    """Apply the missing migrations, and seed the catalogue if it is not a real cloud's.

    That is one transaction, or several if indexes are built in between. Requests hold locks that a migration needs, and
    they may wait for locks that it holds. If it cannot get a lock in time it rolls back, which releases all its locks,
    and starts again after a pause.
    """
    two_connections = settings.model_copy(update={"db_pool_size": 2, "db_max_overflow": 0})
    engine = database.create_engine(two_connections, command_timeout=None)
    try:
        target = ""
        while target != indexes.HEAD:
            target = await indexes.build(engine, alembic_config())
            while not await _try_to_migrate(engine, settings, target):
                logger.info("Requests hold locks that the migration needs; it starts again in %.0f s", PAUSE)
                await asyncio.sleep(PAUSE)
    finally:
        await database.close(engine)


async def prepare_backend(settings: Settings) -> None:
    """Create what the cloud backend keeps in the database; the workers' role need not have the right to do that.

    OtherCloudError if the database belongs to another cloud. If the cloud does not answer, the workers will ask it.
    """
    backend, engine = load_backend(settings), database.create_engine(settings)
    try:
        await backend.prepare()
        identity = await _identity(backend)
        async with engine.begin() as tx:
            # First, as in a migration: another process may migrate now.
            await tx.execute(select(func.pg_advisory_xact_lock(advisory_locks.MIGRATIONS)))
            await binding.bind(tx, settings.compute_backend, identity)
            await rights.grant(tx, settings)
    finally:
        await asyncio.gather(backend.close(), database.close(engine))


async def _identity(backend: ComputeBackend) -> str | None:
    """Return which cloud this is; None if it does not answer."""
    try:
        return await backend.identity()
    except UnusableCloudError:
        raise
    except BackendError:
        return None


async def _try_to_migrate(engine: AsyncEngine, settings: Settings, target: str) -> bool:
    """Migrate up to the target, grant what the new tables need, and return True.

    After the last migration, set the default quotas, and seed the catalogue if it is the mock's. Change nothing and
    return False if a lock was not available within LOCK_TIMEOUT, or if it deadlocked with requests.
    """
    try:
        async with engine.begin() as tx:
            # Taken before the timeout is set: other migration processes wait here until this one has finished.
            await tx.execute(select(func.pg_advisory_xact_lock(advisory_locks.MIGRATIONS)))
            await tx.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            await tx.run_sync(lambda connection: command.upgrade(alembic_config(connection), target))
            if target == indexes.HEAD:
                await quotas.set_defaults(tx, settings.quotas)
            if settings.compute_backend == "mock" and target == indexes.HEAD:
                await binding.bind(tx, "mock", "mock")  # before the catalogue of another cloud is replaced
                await catalogue.seed(tx)
            await rights.grant(tx, settings)
    except DBAPIError as error:
        if outages.sqlstate_of(error) not in HELD_UP:
            raise
        return False
    return True


async def register(settings: Settings) -> None:
    """Register the search attributes of the workflows in the Temporal namespace."""
    await temporal.register_search_attributes(await temporal.connect(settings, retry_for=TEMPORAL_RETRY_FOR))


def main() -> None:
    """Run the process; it ends with one clear line if a server cannot be used."""
    settings = load_settings(SettingsWithoutKey)
    logs.configure(settings.log_level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # silent when all is well
    temporal.forward_logs()
    try:
        asyncio.run(migrate(settings))
        asyncio.run(prepare_backend(settings))
    except (OtherCloudError, rights.OwnerError) as error:
        raise SystemExit(f"The database of DATABASE_URL cannot be used: {error}") from None
    except UnusableCloudError as error:
        raise SystemExit(f"The cloud of COMPUTE_BACKEND cannot be used: {error}") from None
    except (*outages.UNREACHABLE, DBAPIError) as error:
        state = outages.sqlstate_of(error)
        if state == NO_SCHEMA:
            raise SystemExit(f"The database of DATABASE_URL cannot be used: {_NO_SCHEMA}") from None
        # A migration that misses a table is a bug, and not a process that has started too early.
        if state in outages.SCHEMA_IS_OLD or not outages.is_outage(error):
            raise
        raise SystemExit(f"The database of DATABASE_URL cannot be used: {outages.describe(error)}") from None
    try:
        asyncio.run(register(settings))
    except (RuntimeError, RPCError, ValueError, TimeoutError) as error:
        raise SystemExit(f"The server of TEMPORAL_ADDRESS cannot be used: {error}") from None


def _run() -> NoReturn:
    try:
        main()
        code = 0
    except SystemExit as end:
        sys.stderr.write(f"{end}\n")
        code = 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; what was not finished is rolled back\n")
        code = 128 + signal.SIGINT
    except Exception:
        logger.exception("The migrations failed")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # An ordinary exit can abort in a thread of the Temporal client: https://github.com/temporalio/sdk-python/issues/300
    os._exit(code)


if __name__ == "__main__":
    _run()
