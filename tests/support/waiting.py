"""Waiting in tests: for a while, never for ever, and with a message that says what was seen last."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

DEADLINE = 60.0  # seconds until a test gives up on something

T = TypeVar("T")


async def poll(
    read: Callable[[], Awaitable[T]],
    accept: Callable[[T], object],
    *,
    deadline: float = DEADLINE,
    interval: float = 0.1,
    describe: Callable[[T], object] = str,
) -> T:
    """Call `read` until `accept` is true for its result, and return that; fail with the last result at the deadline."""
    give_up_at = time.monotonic() + deadline
    while not accept(result := await read()):
        assert time.monotonic() < give_up_at, f"after {deadline:.0f} s: {describe(result)}"
        await asyncio.sleep(interval)
    return result


def block_until(condition: Callable[[], object], *, deadline: float = DEADLINE, interval: float = 0.02) -> None:
    """Block until the condition is true; fail at the deadline."""
    give_up_at = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < give_up_at, f"not true after {deadline:.0f} s"
        time.sleep(interval)


async def wait_until_blocked(engine: AsyncEngine, wanted: int) -> None:
    """Return once that many transactions of this database wait for a lock."""
    blocked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(10), engine.connect() as connection:
        while (await connection.execute(blocked)).scalar_one() != wanted:
            await connection.rollback()
