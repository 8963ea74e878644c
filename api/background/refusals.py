"""Writes refusals to the audit, behind the requests: wrong passwords and refused registrations.

Anybody can cause as many as they like. So equal ones share a row, which has their number: a row for the first within a
second, and one more for the rest of the minute. MOST kinds of each event have rows of their own. Beyond that, refusals
of one account share a row. Beyond MOST such accounts, all others share one. So a flood of one event hides no other
event, and not which accounts were tried. It adds at most 2 * (2 * MOST + 1) rows of each of the three events per minute
and process, and nothing to the time that a login takes. A process that is killed loses those that it has not written.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from domain.commands import audit
from domain.commands.audit import Record
from domain.data import outages

logger = logging.getLogger(__name__)

PAUSE: Final = 0.5  # seconds between two writes
SPAN: Final = 60.0  # seconds in which equal refusals share a row
MOST: Final = 50  # kinds of refusals of an event, and then accounts, that have rows of their own in a span
PAUSE_AFTER_ERROR: Final = 10.0  # seconds


@dataclass(slots=True)
class _Kind:
    """Equal refusals: the first one and when it came, and how many are not written yet."""

    record: Record
    began: float
    count: int = 0
    is_written: bool = False

    def is_due(self, now: float, *, at_once: bool) -> bool:
        return self.count > 0 and (at_once or not self.is_written or now - self.began >= SPAN)


_Key = tuple[str | None, ...]
"""Refusals with one key share a row. The key begins with the event and the kind of the row: alone, account or rest."""


class Refusals:
    """The refusals of this process that are not in the audit yet."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._kinds: dict[_Key, _Kind] = {}
        self._has_noted = asyncio.Event()
        self._turn = asyncio.Lock()  # or two writes at once would write the same

    def note(self, record: Record, network: str) -> None:
        """Note that something was refused. Addresses of one `network` count as one: a customer may have many."""
        reason = str(record.details.get("reason"))
        key: _Key = (record.event, "alone", record.target, network, reason)
        if self._is_full(key):
            key, record = (record.event, "account", record.target), _shared(record)
        if self._is_full(key):
            key, record = (record.event, "rest"), replace(record, target=None)
        kind = self._kinds.setdefault(key, _Kind(record, time.monotonic()))
        kind.count += 1
        self._has_noted.set()

    def _is_full(self, key: _Key) -> bool:
        """Whether so many rows share in this way already that there is none for this key."""
        return key not in self._kinds and sum(key[:2] == other[:2] for other in self._kinds) >= MOST

    async def run(self) -> None:
        """Write what was noted, and forget it at the end of its minute."""
        while True:
            await self._has_noted.wait()
            pause = PAUSE if await self.write() else PAUSE_AFTER_ERROR
            if not self._kinds:
                self._has_noted.clear()
            await asyncio.sleep(pause)

    async def write(self, *, at_once: bool = False) -> bool:
        """Write what is due or, because the process stops, everything; False if the database cannot do it."""
        async with self._turn:
            return await self._write(at_once=at_once)

    async def _write(self, *, at_once: bool) -> bool:
        now = time.monotonic()
        due = {key: kind.count for key, kind in self._kinds.items() if kind.is_due(now, at_once=at_once)}
        records = [replace(self._kinds[key].record, count=count) for key, count in due.items()]
        try:
            if records:
                async with self._engine.begin() as tx:
                    await audit.write(tx, records)
        except Exception as error:  # noqa: BLE001 - they are counted on, and written later
            logger.warning("%d refusals could not be written to the audit: %s", len(due), outages.describe(error))
            return False
        for key, count in due.items():
            kind = self._kinds[key]
            kind.count -= count
            kind.is_written = True
        for key in [key for key, kind in self._kinds.items() if not kind.count and now - kind.began >= SPAN]:
            del self._kinds[key]
        return True


def _shared(record: Record) -> Record:
    """The record of refusals that have only the account in common."""
    unknown = replace(record, actor_id=None, actor=None, address=None, user_agent=None, request_id=None)
    return replace(unknown, details={"reason": "others"})
