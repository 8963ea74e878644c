"""Writes when the tokens of programs were last used, behind the requests and never in them."""

import asyncio
import logging
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from domain.commands.program_tokens import note_uses
from domain.data import outages

logger = logging.getLogger(__name__)

PAUSE: Final = 1.0  # seconds from one write to the next
PAUSE_AFTER_ERROR: Final = 60.0  # seconds; an outage is logged once a minute, and no use is written more often


class TokenUses:
    """The tokens that were used since the last write."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._noted = set[UUID]()
        self._has_noted = asyncio.Event()

    def note(self, token_id: UUID) -> None:
        """Note that the token is in use."""
        self._noted.add(token_id)
        self._has_noted.set()

    async def run(self) -> None:
        """Write what was noted, at once and then every PAUSE seconds."""
        while True:
            await self._has_noted.wait()
            self._has_noted.clear()
            noted, self._noted = self._noted, set()
            await asyncio.sleep(PAUSE if await self._write(noted) else PAUSE_AFTER_ERROR)

    async def _write(self, noted: set[UUID]) -> bool:
        try:
            async with self._engine.begin() as tx:
                await note_uses(tx, noted)
        except Exception as error:  # noqa: BLE001 - the next use of each token is noted again
            logger.warning("the last use of %d tokens could not be written: %s", len(noted), outages.describe(error))
            return False
        return True
