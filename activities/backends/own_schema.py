"""The tables that a backend keeps for itself, in a PostgreSQL schema that all workers share.

Migrations do not know them. A worker adds the tables, columns and indexes that are missing when it starts.
"""

from sqlalchemy import Connection, MetaData, func, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateColumn


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
