"""Tells the other API processes what callers have used of their rate limits, and hears it from them."""

import asyncio
import contextlib
import logging
import math
import time
from typing import Final
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from api.background.rate_uses import WINDOW, RateUses
from domain.data import outages, rate_limits

logger = logging.getLogger(__name__)

INTERVAL: Final = 1.0  # seconds from one exchange to the next, while there are requests
SHORTEST_INTERVAL: Final = 0.1  # seconds, if a caller uses much
SIGN_OF_LIFE: Final = 5.0  # seconds; less than half of rate_limits.ALIVE, so that one may be late
_QUIET: Final = 60.0  # seconds between two lines in the log about an outage


class UseExchange:
    """The loop that exchanges uses with the other processes, by way of the database."""

    def __init__(self, autocommit: AsyncEngine, uses: RateUses) -> None:
        self._autocommit = autocommit
        self._uses = uses
        self._id = uuid4()
        self._counted_at = -math.inf
        self._logged_at = -math.inf

    async def run(self) -> None:
        """Exchange uses while there are any, and give a sign of life from time to time."""
        while True:
            await self._try()
            await asyncio.sleep(SHORTEST_INTERVAL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SIGN_OF_LIFE):
                    await self._uses.has_untold.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL - SHORTEST_INTERVAL):
                    await self._uses.is_urgent.wait()

    async def exchange(self) -> None:
        """Exchange uses once."""
        told = self._uses.tell()
        try:
            async with self._autocommit.connect() as connection:
                if time.monotonic() >= self._counted_at + SIGN_OF_LIFE:
                    self._uses.processes = await rate_limits.count_processes(connection, self._id)
                    self._counted_at = time.monotonic()
                if told:
                    self._uses.hear(await rate_limits.exchange(connection, told, WINDOW))
        except BaseException:
            self._uses.keep(told)
            raise

    async def _try(self) -> None:
        try:
            await self.exchange()
        except Exception as error:  # noqa: BLE001 - the next exchange tells it, too
            if time.monotonic() - self._logged_at >= _QUIET:
                self._logged_at = time.monotonic()
                reason = outages.describe(error)
                logger.warning("rate limits are not compared with those of other processes: %s", reason)
