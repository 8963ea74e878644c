"""Finds the rows that have changed since an earlier look, by the transactions that changed them.

Each row has the id of the transaction that changed it last (`changed`). A position is a snapshot of PostgreSQL: it says
which transactions were visible when it was taken. So the rows that are new since a position are exactly those whose
transaction is visible now and was not then. No transaction is missed, in whatever order they commit, and nobody has to
keep what has changed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

MOST: Final = 10_000  # rows that one look finds


@dataclass(frozen=True, slots=True)
class Position:
    """A moment in the life of a database: what a look has seen.

    `timeline` changes when a standby becomes the primary, and a standby has none. The new primary may lack transactions
    of the old one and give their ids to others, so snapshots of two timelines cannot be compared.
    """

    timeline: str
    snapshot: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A row that has changed: its table, its id and the project that it belongs to."""

    table: str
    id: UUID
    owner_id: UUID


class LostTrackError(Exception):
    """What has changed since the position cannot be told. `now` is the present position."""

    def __init__(self, now: Position) -> None:
        super().__init__("what has changed cannot be told")
        self.now = now


_TABLES: Final = ("vms", "volumes", "snapshots", "operations")
_TIMELINE: Final = """
    CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END AS timeline
"""
_NOW: Final = f"SELECT CAST(pg_current_snapshot() AS text) AS snapshot, {_TIMELINE}"
_THEN: Final = f"SELECT CAST(:until AS text) AS snapshot, {_TIMELINE}"
_SINCE: Final = "CAST(CAST(:since AS text) AS pg_snapshot)"


def new_rows(columns: str, table: str, condition: str = "", most: str = "") -> str:
    """SQL for the rows whose transaction is visible now and was not at `:since`; `now.snapshot` must be in scope.

    It was not if it began later, or if it was under way then. To look from the oldest that was under way instead would
    read all rows that have changed since that began, in any database of the server: for hours, if it stays open.
    """
    # Ordered by `changed`, so that it is read from its index, and only the few rows at its end.
    return f"""
    (SELECT {columns} FROM {table}
     WHERE changed >= pg_snapshot_xmax({_SINCE}) AND changed < pg_snapshot_xmax(CAST(now.snapshot AS pg_snapshot))
     {condition} ORDER BY changed {most})
    UNION ALL
    (SELECT {columns} FROM {table} WHERE changed = ANY(ARRAY(SELECT pg_snapshot_xip({_SINCE}))) {condition} {most})
    """  # noqa: S608 - constants


_LOOK: Final = """
    WITH now AS MATERIALIZED ({now})
    SELECT now.snapshot, now.timeline, table_name, id, owner_id,
           pg_snapshot_xmax(CAST(now.snapshot AS pg_snapshot))
           < pg_snapshot_xmax({since}) AS is_older
    FROM now LEFT JOIN LATERAL ({parts}) AS found ON true
"""


def _changes(now: str, condition: str) -> TextClause:
    parts = " UNION ALL ".join(
        new_rows(f"'{table}' AS table_name, id, owner_id", table, condition, "LIMIT :most") for table in _TABLES
    )
    # Without a row of `found` there is still one row, with the position.
    return text(_LOOK.format(now=now, parts=parts, since=_SINCE))


_OF_ALL: Final = _changes(_NOW, "")
_OF_SOME: Final = _changes(
    _THEN, "AND owner_id = ANY(:owner_ids) AND pg_visible_in_snapshot(changed, CAST(now.snapshot AS pg_snapshot))"
)


async def position(connection: AsyncConnection) -> Position:
    """The present position."""
    row = (await connection.execute(text(_NOW))).one()
    return Position(row.timeline, row.snapshot)


async def since(connection: AsyncConnection, last: Position) -> tuple[Position, Sequence[Changed]]:
    """The present position, and the rows that have changed since the last position.

    LostTrackError if they are more than MOST in a table, or if the database is another one, or an older copy of it.
    """
    return await _find(connection, _OF_ALL, last, MOST)


async def between(
    connection: AsyncConnection, last: Position, until: Position, owner_ids: Collection[UUID], most: int
) -> Sequence[Changed]:
    """The rows of some projects that have changed between two positions, and not again since. Errors as for `since`."""
    projects = {"until": until.snapshot, "owner_ids": list(owner_ids)}
    return (await _find(connection, _OF_SOME, last, most, **projects))[1]


async def _find(
    connection: AsyncConnection, statement: TextClause, last: Position, most: int, **more: Any
) -> tuple[Position, Sequence[Changed]]:
    rows = (await connection.execute(statement, {"since": last.snapshot, "most": most + 1, **more})).all()
    now = Position(rows[0].timeline, rows[0].snapshot)
    found = [Changed(row.table_name, row.id, row.owner_id) for row in rows if row.id is not None]
    if now.timeline != last.timeline or rows[0].is_older or len(found) > most:
        raise LostTrackError(now)
    return now, found
