"""A clock for tests: time passes only while a poll pauses, and then at once."""

import asyncio


class FakeClock:
    """Time in seconds, and the pauses that were made."""

    def __init__(self) -> None:
        self.time = 0.0
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.time

    async def wait(self, news: asyncio.Event, seconds: float) -> None:
        self.pauses.append(round(seconds, 3))
        await breathe()
        if not news.is_set():
            self.time += seconds


async def breathe() -> None:
    """Let all other tasks go on until they wait for something."""
    for _ in range(10):
        await asyncio.sleep(0)
