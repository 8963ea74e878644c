"""Bring everything up to date: schema, catalogue, then Temporal's search attributes.

Safe to run at any time, by any number at once.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import NoReturn

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.service import RPCError

from domain import temporal
from domain.data import catalogue, database
from domain.settings import Settings, load_settings

PATIENCE = 10.0  # seconds until Temporal counts as away
LOCK = 7_166_401_203  # any number that no other program takes a Postgres advisory lock on
LOCK_TIMEOUT = "500ms"  # less than PostgreSQL's deadlock_timeout, so that no request is chosen to fail
PAUSE = 1.0  # seconds in which requests have their way
LOCK_NOT_AVAILABLE = "55P03"


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for one open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


async def migrate(settings: Settings) -> None:
    """Apply every missing migration and seed the catalogue, in one transaction.

    Requests that are served meanwhile hold locks that it needs, and may come to need its own: it then lets go of all
    that it has, and begins again.
    """
    engine = database.create_engine(settings, command_timeout=None)
    try:
        while not await _migrated(engine):
            sys.stderr.write(f"requests hold what the migration needs; it begins again in {PAUSE:.0f} s\n")
            await asyncio.sleep(PAUSE)
    finally:
        await engine.dispose()


async def _migrated(engine: AsyncEngine) -> bool:
    """Whether all is done; nothing is, where a lock could not be had in LOCK_TIMEOUT."""
    try:
        async with engine.begin() as tx:
            await tx.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            await tx.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            await tx.run_sync(lambda connection: command.upgrade(alembic_config(connection), "head"))
            await catalogue.seed(tx)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


async def register(settings: Settings) -> None:
    """Have the Temporal namespace know the search attributes that workflows are started with."""
    await temporal.register_search_attributes(await temporal.connect(settings, patience=PATIENCE))


def main() -> None:
    """Run the process; where a server cannot be had, it ends with one clear line."""
    settings = load_settings()
    try:
        asyncio.run(migrate(settings))
    except (OSError, OperationalError, InterfaceError) as error:
        raise SystemExit(f"The database of DATABASE_URL cannot be used: {getattr(error, 'orig', error)}") from None
    try:
        asyncio.run(register(settings))
    except (RuntimeError, RPCError, ValueError) as error:
        raise SystemExit(f"The server of TEMPORAL_ADDRESS cannot be used: {error}") from None


def _run() -> NoReturn:
    try:
        main()
        code = 0
    except SystemExit as end:
        sys.stderr.write(f"{end}\n")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # A Temporal client can abort the interpreter's own way out: https://github.com/temporalio/sdk-python/issues/300
    os._exit(code)


if __name__ == "__main__":
    _run()
