"""Transactions of the background tasks, each task on one connection of the pool at most."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


class Transactions:
    """Begins transactions one after the other.

    A task calls Temporal for many operations at once, and each may need a transaction. Without this, they would take
    more connections than are reserved for the background tasks, wait for them in competition with requests, and fail
    when the pool's timeout ends. The transactions are short, so they lose nothing by taking turns.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, once the ones before it have ended."""
        async with self._turn, self._engine.begin() as tx:
            yield tx
