"""The turns to read large bodies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from api.web.slots import Slots

TURNS, QUEUE = 1, 64  # one body at a time: several threads would only take turns, too
_HALF_LIFE = 10.0  # seconds in which half of what a caller has used is forgotten
_MOST_REMEMBERED = 1000  # callers


class Reading:
    """Large bodies are read one at a time, first those of callers whose bodies have taken little time lately.

    A body may take half a second. If the callers had turns one after the other, a few with such bodies would keep all
    others waiting until they are refused.
    """

    def __init__(self) -> None:
        self.slots = Slots(TURNS, QUEUE)
        self._used: dict[str, tuple[float, float]] = {}  # seconds, and when that was; the latest last

    @asynccontextmanager
    async def turn(self, caller: str, rank: float) -> AsyncIterator[None]:
        """Have a turn; NoSlotError as for `Slots.hold`, which also says what a rank is."""
        used = self._seconds(caller)
        async with self.slots.hold(caller, rank + used / (used + 1)):  # so the kind of the rank, its sign, stays
            began_at = monotonic()
            try:
                yield
            finally:
                self._note(caller, monotonic() - began_at)

    def _seconds(self, caller: str) -> float:
        """The seconds that the caller has used lately."""
        seconds, at = self._used.get(caller, (0.0, 0.0))
        return seconds * 0.5 ** ((monotonic() - at) / _HALF_LIFE) if seconds else 0.0

    def _note(self, caller: str, seconds: float) -> None:
        seconds += self._seconds(caller)
        self._used.pop(caller, None)
        self._used[caller] = seconds, monotonic()
        if len(self._used) > _MOST_REMEMBERED:
            del self._used[next(iter(self._used))]
