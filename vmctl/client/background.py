"""Work that goes on if whoever waits for it is canceled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Carries coroutines through to their ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def carry(self, work: Coroutine[Any, Any, T]) -> T:
        """Await it. If that is canceled, it goes on."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._let_go)
        return await asyncio.shield(task)

    async def finish(self) -> None:
        """Wait until nothing goes on any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio would report an error that nobody has waited for
