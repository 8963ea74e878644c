"""The turns to read large bodies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from api.web.slots import Slots

# One body at a time: several threads would only take turns, too. Memory and time bound how many wait, so there are
# places for bursts of small ones; a caller has half of them.
_TURNS, _QUEUE = 1, 1000
_SECONDS_PER_BYTE = 1e-6  # that a body may take at worst
_HALF_LIFE = 10.0  # seconds after which the time that a caller has used counts half
_MOST_REMEMBERED = 1000  # callers and addresses


class Reading:
    """Large bodies are read one at a time: small ones first, and those of callers who have used little time lately.

    A body may take half a second. If the callers had turns one after the other, a few with such bodies would keep all
    others waiting until they are refused. The time counts for the address, too: many accounts may be one person's.
    """

    def __init__(self) -> None:
        self.slots = Slots(_TURNS, _QUEUE)
        self._used: dict[str, tuple[float, float]] = {}  # seconds, and when that was; the latest last

    @asynccontextmanager
    async def turn(self, caller: str, rank: float, origin: str, size: int) -> AsyncIterator[None]:
        """Have a turn to read so many bytes; NoSlotError as for `Slots.hold`, which also says what a rank is."""
        used = self._seconds(caller) + self._seconds(origin) + size * _SECONDS_PER_BYTE
        async with self.slots.hold(caller, rank + used / (used + 1)):  # so the kind of the rank, its sign, stays
            began_at = monotonic()
            try:
                yield
            finally:
                for who in {caller, origin}:
                    self._note(who, monotonic() - began_at)

    def _seconds(self, who: str) -> float:
        """The seconds that a caller, or an address, has used lately."""
        seconds, at = self._used.get(who, (0.0, 0.0))
        return seconds * 0.5 ** ((monotonic() - at) / _HALF_LIFE) if seconds else 0.0

    def _note(self, who: str, seconds: float) -> None:
        seconds += self._seconds(who)
        self._used.pop(who, None)
        self._used[who] = seconds, monotonic()
        if len(self._used) > _MOST_REMEMBERED:
            del self._used[next(iter(self._used))]
