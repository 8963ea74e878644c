"""What callers have used of their rate limits, in all API processes together, and how many processes there are.

Both tables only have what is true for some minutes. They are UNLOGGED: nothing is written to the write-ahead log, and
PostgreSQL empties them after a crash or a failover.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from domain.data.base import Base

LONGEST_DEBT: Final = 60.0  # seconds; more may be owed only if processes did not know of each other
ALIVE: Final = 15.0  # seconds for which a process counts after its last sign of life
_FORGOTTEN: Final = 50_000  # rows that one statement deletes


class RateUse(Base):
    """The use that a caller has made of one limit: from `busy_until` on, nothing of it counts any more.

    What was told last was used from `since` on.
    """

    __tablename__ = "rate_uses"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    key: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime]
    busy_until: Mapped[datetime]


class APIProcess(Base):
    """An API process that was there at `seen_at`."""

    __tablename__ = "api_processes"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Told(NamedTuple):
    """What a process has used of one limit: `seconds` of it, since `age` seconds ago."""

    seconds: float
    age: float


# What was used is counted from when it was used, and not from now: else a limit would fill more slowly than it says.
# In the order of the keys, so that two processes never wait for each other's rows. A row of the future is from before
# PostgreSQL's clock was set back, and counts for nothing.
_EXCHANGE: Final = text("""
INSERT INTO rate_uses AS known (key, since, busy_until)
SELECT key, now() - make_interval(secs => age), now() + make_interval(secs => seconds - age)
FROM unnest(CAST(:keys AS text[]), CAST(:seconds AS float8[]), CAST(:ages AS float8[])) AS told (key, seconds, age)
ORDER BY key
ON CONFLICT (key) DO UPDATE SET since = excluded.since, busy_until = least(
    greatest(CASE WHEN known.since < now() + interval '1 minute' THEN known.busy_until END, excluded.since)
    + (excluded.busy_until - excluded.since),
    now() + make_interval(secs => :longest)
)
RETURNING key, extract(epoch FROM busy_until - now())::float8 AS ahead
""")
_FORGET: Final = text("""
DELETE FROM rate_uses WHERE key IN (
    SELECT key FROM rate_uses WHERE busy_until < now() - make_interval(secs => :alive)
    LIMIT :most FOR UPDATE SKIP LOCKED
)
""")
_SIGN_OF_LIFE: Final = text("""
WITH gone AS (DELETE FROM api_processes WHERE seen_at < now() - make_interval(secs => :alive)),
seen AS (
    INSERT INTO api_processes (id, seen_at) VALUES (:id, now())
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
)
SELECT count(*) FROM api_processes WHERE id <> :id AND seen_at >= now() - make_interval(secs => :alive)
""")


async def exchange(connection: AsyncConnection, told: Mapping[str, Told], window: float) -> dict[str, float]:
    """Add what this process has used of each limit; return the seconds that all processes have used, as of now."""
    values = {
        "keys": list(told),
        "seconds": [each.seconds for each in told.values()],
        "ages": [each.age for each in told.values()],
        "longest": window + LONGEST_DEBT,
    }
    rows = await connection.execute(_EXCHANGE, values)
    return {row.key: row.ahead for row in rows}


async def count_processes(connection: AsyncConnection, id: UUID) -> int:
    """Note that the process `id` is there, delete what no longer counts, and return the number of processes."""
    await connection.execute(_FORGET, {"most": _FORGOTTEN, "alive": ALIVE})
    others: int = (await connection.execute(_SIGN_OF_LIFE, {"id": id, "alive": ALIVE})).scalar_one()
    return 1 + others
