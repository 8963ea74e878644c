"""An advisory lock for work that takes long: one holder, and a transaction that nothing has to wait for."""

from sqlalchemy import literal, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import advisory_locks
from domain.data.advisory_locks import number_of
from domain.data.queries import try_long_lock

LOCK = 42
# Of clients: autovacuum may just look at the new database, too.
SNAPSHOTS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND backend_xmin IS NOT NULL
"""


async def test_a_long_lock_has_one_holder_until_its_transaction_ends(engine: AsyncEngine) -> None:
    async with engine.begin() as other:
        async with engine.begin() as holder:
            assert await try_long_lock(holder, LOCK)
            assert not await try_long_lock(other, LOCK)
        assert await try_long_lock(other, LOCK)


async def test_neither_the_holder_nor_a_process_that_asks_keeps_a_snapshot(engine: AsyncEngine) -> None:
    """A snapshot would hold back VACUUM, and CREATE INDEX CONCURRENTLY would wait for its transaction."""
    async with engine.begin() as holder, engine.begin() as other, engine.connect() as observer:
        await try_long_lock(holder, LOCK)
        await try_long_lock(other, LOCK)
        assert await observer.scalar(text(SNAPSHOTS)) == 1  # of the observer's own query


async def test_the_number_of_a_chosen_name_is_none_of_the_service(engine: AsyncEngine) -> None:
    """Whoever computes an Idempotency-Key with the hash of such a number would keep workers from their rounds."""
    async with engine.connect() as connection:
        numbers = [await connection.scalar(select(number_of(literal(f"name-{n}")))) for n in range(20)]
    assert all(number is not None and number < 0 for number in numbers)
    assert len(set(numbers)) == len(numbers)
    assert all(number > 0 for name, number in vars(advisory_locks).items() if name.isupper())
