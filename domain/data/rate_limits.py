"""What callers have used of their rate limits, in all API processes together, and how many processes there are.

Both tables only have what is true for some minutes. They are UNLOGGED: nothing is written to the write-ahead log, and
PostgreSQL empties them after a crash or a failover.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from domain.data.base import Base

LONGEST_DEBT: Final = 60.0  # seconds; more may be owed only if processes did not know of each other
ALIVE: Final = 15.0  # seconds for which a process counts after its last sign of life
_FORGOTTEN: Final = 10_000  # rows that one statement deletes


class RateUse(Base):
    """The use that a caller has made of one limit: from `busy_until` on, nothing of it counts any more."""

    __tablename__ = "rate_uses"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    key: Mapped[str] = mapped_column(primary_key=True)
    busy_until: Mapped[datetime]


class APIProcess(Base):
    """An API process that was there at `seen_at`."""

    __tablename__ = "api_processes"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


# In the order of the keys, so that two processes never wait for each other's rows.
_EXCHANGE: Final = text("""
INSERT INTO rate_uses AS known (key, busy_until)
SELECT key, now() + make_interval(secs => seconds)
FROM unnest(CAST(:keys AS text[]), CAST(:seconds AS float8[])) AS told (key, seconds) ORDER BY key
ON CONFLICT (key) DO UPDATE SET busy_until = least(
    greatest(known.busy_until, now()) + (excluded.busy_until - now()), now() + make_interval(secs => :longest)
)
RETURNING key, extract(epoch FROM busy_until - now())::float8
""")
_FORGET: Final = text("""
DELETE FROM rate_uses WHERE key IN (
    SELECT key FROM rate_uses WHERE busy_until < now() LIMIT :most FOR UPDATE SKIP LOCKED
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


async def exchange(connection: AsyncConnection, told: Mapping[str, float], window: float) -> dict[str, float]:
    """Add the seconds that this process has used of each limit; return those that all processes have used now."""
    values = {"keys": list(told), "seconds": list(told.values()), "longest": window + LONGEST_DEBT}
    return {key: seconds for key, seconds in await connection.execute(_EXCHANGE, values)}


async def count_processes(connection: AsyncConnection, id: UUID) -> int:
    """Note that the process `id` is there, delete what no longer counts, and return the number of processes."""
    await connection.execute(_FORGET, {"most": _FORGOTTEN})
    others: int = (await connection.execute(_SIGN_OF_LIFE, {"id": id, "alive": ALIVE})).scalar_one()
    return 1 + others
