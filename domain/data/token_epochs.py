"""Which accounts have begun a new epoch, with which all tokens of their logins become void.

The looks work as those of `changes.py`: a position is a snapshot, and an account is new since then if the transaction
that changed it is visible now and was not then. So none is missed, in whatever order transactions commit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data import changes
from domain.data.accounts import User
from domain.data.changes import Position

LONGEST_TOKEN: Final = timedelta(days=2)  # twice what ACCESS_TOKEN_EXPIRE_MINUTES allows; older tokens have expired

_RECENT: Final = select(User.id, User.epoch).where(User.epoch_at > func.now() - LONGEST_TOKEN)
_LOOK: Final = text(f"""
    WITH now AS MATERIALIZED (
        SELECT CAST(pg_current_snapshot() AS text) AS snapshot,
               CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END
               AS timeline
    )
    SELECT now.snapshot, now.timeline, id, epoch,
           pg_snapshot_xmax(CAST(now.snapshot AS pg_snapshot))
           < pg_snapshot_xmax(CAST(CAST(:since AS text) AS pg_snapshot)) AS is_older
    FROM now LEFT JOIN LATERAL ({changes.new_rows("id, epoch", "users")}) AS found ON true
""")  # noqa: S608
_OF_USER: Final = select(User.epoch, User.disabled_at).where(User.id == bindparam("user_id"))


@dataclass(frozen=True, slots=True)
class Look:
    """The position of a look, and the present epochs of the accounts that were new."""

    position: Position
    epochs: Sequence[tuple[UUID, int]]


async def look(connection: AsyncConnection, last: Position | None) -> Look:
    """Find the accounts with a new epoch since the last position.

    Without one, or if it is from another database or an older copy, these are all accounts with a token that could
    still be used.
    """
    if last is not None:
        rows = (await connection.execute(_LOOK, {"since": last.snapshot})).all()
        now = Position(rows[0].timeline, rows[0].snapshot)
        if now.timeline == last.timeline and not rows[0].is_older:
            return Look(now, [(row.id, row.epoch) for row in rows if row.id is not None])
    # The position first: what comes between the two is then found twice, and not missed.
    now = await changes.position(connection)
    return Look(now, [(row.id, row.epoch) for row in await connection.execute(_RECENT)])


async def epoch_of(connection: AsyncConnection, user_id: UUID) -> int | None:
    """The present epoch of the account; None if there is no such account."""
    row = (await connection.execute(_OF_USER, {"user_id": user_id})).one_or_none()
    return None if row is None else int(row.epoch)


async def is_present(connection: AsyncConnection, user_id: UUID, epoch: int) -> bool:
    """Whether this is the account's epoch, and the account is not disabled."""
    row = (await connection.execute(_OF_USER, {"user_id": user_id})).one_or_none()
    return row is not None and row.disabled_at is None and bool(row.epoch == epoch)
