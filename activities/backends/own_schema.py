"""The tables that a backend keeps for itself, in a PostgreSQL schema that all workers share.

Migrations do not know them. A worker adds the tables, columns and indexes that are missing when it starts.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Column, Connection, MetaData, delete, func, inspect, select, text, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateColumn

from domain.data import database, outages

# No step and no wait lasts as long, so nobody needs the records of calls that are older.
CALL_AGE: Final = timedelta(days=30)
FORGET_INTERVAL: Final = 3600.0  # seconds
FIRST_FORGET: Final = 60.0  # seconds after a start, which has other things to do
FORGET_BATCH: Final = 1_000  # rows in a statement


async def complete(tx: AsyncConnection, metadata: MetaData, lock: int) -> bool:
    """Create the tables that are missing, and add the columns and indexes that those of an earlier version lack.

    Returns whether anything was missing. If nothing is, this needs no right to create anything. Workers of the earlier
    version may go on, so a new column must be nullable or have a default.
    """
    if await tx.run_sync(_is_complete, metadata):
        return False
    # Workers that start together do it one after the other.
    await tx.execute(select(func.pg_advisory_xact_lock(lock)))
    await tx.execute(text(f"CREATE SCHEMA IF NOT EXISTS {metadata.schema}"))
    await tx.run_sync(metadata.create_all)
    await tx.run_sync(_add_what_is_missing, metadata)
    return True


def _is_complete(connection: Connection, metadata: MetaData) -> bool:
    schema, inspector = metadata.schema, inspect(connection)
    columns, indexes = inspector.get_multi_columns(schema), inspector.get_multi_indexes(schema)
    return all(
        {column.name for column in table.columns}
        <= {column["name"] for column in columns.get((schema, table.name), [])}
        and {index.name for index in table.indexes}
        <= {index["name"] for index in indexes.get((schema, table.name), [])}
        for table in metadata.sorted_tables
    )


def _add_what_is_missing(connection: Connection, metadata: MetaData) -> None:
    inspector = inspect(connection)
    for table in metadata.sorted_tables:
        present = {column["name"] for column in inspector.get_columns(table.name, metadata.schema)}
        for column in table.columns:
            if column.name not in present:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(text(f"ALTER TABLE {table.fullname} ADD COLUMN {definition}"))
        for index in table.indexes:
            index.create(connection, checkfirst=True)


async def forget_old_calls(engine: AsyncEngine, touched: Sequence[Column[datetime]]) -> None:
    """Each hour, delete records of calls that nothing has touched for CALL_AGE. `touched`: a column of each table."""
    await asyncio.sleep(FIRST_FORGET)
    while True:
        with contextlib.suppress(SQLAlchemyError, *outages.UNREACHABLE):  # the next hour will do
            while await forget(engine, touched, CALL_AGE):
                pass
        await asyncio.sleep(FORGET_INTERVAL)


async def forget(engine: AsyncEngine, touched: Sequence[Column[datetime]], older_than: timedelta) -> int:
    """Delete a batch of what nothing has touched for so long, and return how many rows that were.

    Nobody here knows which operations have ended. The age must be longer than an operation tries a step.
    """
    deleted = 0
    async with database.autocommit(engine).connect() as connection:
        for since in touched:
            key = since.table.primary_key
            old = select(*key).where(since < func.clock_timestamp() - older_than).limit(FORGET_BATCH)
            batch = delete(since.table).where(tuple_(*key).in_(old))
            deleted += (await connection.execute(batch)).rowcount
    return deleted
