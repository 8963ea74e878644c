"""Reading rows by id, in pages, for comparisons with the cloud."""

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Row, Select, Uuid, any_, cast
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.elements import SQLCoreOperations

from activities.backends.resources import Ref

# The loop that runs the comparison also sends the heartbeats of activities. So many rows take it a few milliseconds.
PAGE_SIZE: Final = 500

Rows = Mapping[UUID, Row[Any]]
Query = Select[*tuple[Any, ...]]
"""A query whose first column is the id of its rows."""


def refs(rows: Rows) -> list[Ref]:
    """Return how the cloud is asked for the resources of rows, which have `cloud_id`."""
    return [Ref(row.id, row.cloud_id) for row in rows.values()]


async def read(engine: AsyncEngine, query: Query) -> Rows:
    """Return the rows of a query by id."""
    async with engine.connect() as connection:
        return {row.id: row for row in (await connection.execute(query)).all()}


async def pages(engine: AsyncEngine, query: Query) -> AsyncIterator[Rows]:
    """Yield the rows of a query, in pages ordered by id."""
    id = query.selected_columns[0]
    page = query.order_by(id).limit(PAGE_SIZE)
    rows = await read(engine, page)
    while rows:
        yield rows
        rows = await read(engine, page.where(id > max(rows))) if len(rows) == PAGE_SIZE else {}


def is_one_of(column: SQLCoreOperations[UUID], ids: Collection[UUID]) -> ColumnElement[bool]:
    """Return the condition that a column has one of these values."""
    # One array parameter: an IN list of any length would be a new statement for each length.
    return column == any_(cast(list(ids), ARRAY(Uuid)))
