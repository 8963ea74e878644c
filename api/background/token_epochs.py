"""Tells requests which logins have ended: every process has the epochs of the accounts that began a new one lately.

A task asks PostgreSQL twice a second for the accounts that have changed. So a read costs no query, and notices within a
second that its login has ended. A write, and whatever comes before the first answer, waits for a new look if the last
one is too old: for example after an outage, or after a time in which the process did not run. If PostgreSQL does not
answer, it fails, as it would anyway.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import outages, token_epochs
from domain.data.changes import Position

logger = logging.getLogger(__name__)

INTERVAL: Final = 0.5  # seconds between two looks
MOST_STALE: Final = 0.9  # seconds that a look may be old when something is written
LOOK_TIMEOUT: Final = 2.0  # seconds; writes wait for a look, which may meet a connection that hangs


class TokenEpochs:
    """The epochs of accounts that have begun a new one so lately that tokens of an older one have not expired."""

    def __init__(self, autocommit: AsyncEngine) -> None:
        self._autocommit = autocommit
        self._epochs: OrderedDict[UUID, tuple[int, float]] = OrderedDict()  # with the time at which each was noted
        self._ends: dict[UUID, set[Callable[[], None]]] = {}
        self._last: Position | None = None
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    def is_void(self, user_id: UUID, epoch: int) -> bool:
        """Whether the account has begun another epoch than that of a token."""
        known = self._epochs.get(user_id)
        return known is not None and known[0] > epoch

    async def has_ended(self, user_id: UUID, epoch: int) -> bool:
        """Whether a login of this epoch has ended, as PostgreSQL says.

        After a failover or a restore PostgreSQL may have lost an epoch that this process knows. A new login has the
        one before it then, and must not be refused.
        """
        known = self._epochs.get(user_id)
        if known is None or known[0] <= epoch:
            return False
        if time.monotonic() - known[1] > MOST_STALE:
            async with asyncio.timeout(LOOK_TIMEOUT), self._autocommit.connect() as connection:
                present = await token_epochs.epoch_of(connection, user_id)
            if self._epochs.get(user_id) == known and present is not None:  # else this process has begun one meanwhile
                self._epochs[user_id] = present, time.monotonic()
                self._epochs.move_to_end(user_id)
        return self.is_void(user_id, epoch)

    def has_changed_since(self, user_id: UUID, moment: float) -> bool:
        """Whether a look since that moment, by the monotonic clock, has found that the account changed."""
        known = self._epochs.get(user_id)
        return known is not None and known[1] >= moment

    def note(self, user_id: UUID, epoch: int) -> None:
        """Note an account's epoch, which this process may have begun itself, and tell who wants to know."""
        known, _ = self._epochs.get(user_id, (0, 0.0))
        self._epochs[user_id] = max(epoch, known), time.monotonic()
        self._epochs.move_to_end(user_id)
        if known < epoch:
            for end in [*self._ends.get(user_id, ())]:
                end()

    @contextlib.contextmanager
    def calling(self, user_id: UUID, end: Callable[[], None]) -> Iterator[None]:
        """Call `end` when the account begins another epoch."""
        ends = self._ends.setdefault(user_id, set())
        ends.add(end)
        try:
            yield
        finally:
            ends.discard(end)
            if not ends:
                self._ends.pop(user_id, None)

    async def be_current(self, *, for_write: bool) -> None:
        """Wait for a look if there was none yet or, for a write, if the last one is too old."""
        age = time.monotonic() - self._looked_at
        if age > MOST_STALE and (for_write or age == float("inf")):
            with contextlib.suppress(TimeoutError):
                await self._look_together()
            if time.monotonic() - self._looked_at > MOST_STALE:  # that look had begun long before, or has failed
                await self._look_together()

    async def run(self) -> None:
        """Look twice a second."""
        while True:
            try:
                await self._look_together()
                outages.log.succeeded()
            except Exception as error:
                if not outages.is_outage(error):
                    logger.exception("could not look for logins that have ended")
                else:
                    outages.log.failed(error)
            await asyncio.sleep(INTERVAL)

    async def _look_together(self) -> None:
        """Look, or wait for the look that has begun already."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._forget_look)
        # A request that goes away must not cancel the look of the others.
        await asyncio.shield(self._looking)

    def _forget_look(self, look: "asyncio.Task[None]") -> None:
        self._looking = None
        if not look.cancelled():
            look.exception()  # asyncio complains about an error that nobody has taken

    async def _look(self) -> None:
        began = time.monotonic()
        async with asyncio.timeout(LOOK_TIMEOUT), self._autocommit.connect() as connection:
            found = await token_epochs.look(connection, self._last)
        for user_id, epoch in found.epochs:
            self.note(user_id, epoch)
        self._last, self._looked_at = found.position, began
        oldest = began - token_epochs.LONGEST_TOKEN.total_seconds()
        while self._epochs and next(iter(self._epochs.values()))[1] < oldest:
            self._epochs.popitem(last=False)
