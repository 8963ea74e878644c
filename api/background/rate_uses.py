"""What callers have used of their rate limits.

A use is one moment in time, `until`: the limit is whole again then (GCRA, the generic cell rate algorithm). A request
moves it by the seconds in which the limit grows by one request, and is refused if it would come to lie more than WINDOW
seconds ahead.

A process tells the others what its callers have used every second (`use_exchange`). In between it assumes that each
of the others has let through as many requests of a caller as it has itself. So whatever a caller does meanwhile, all
processes together let through what the limit allows, and one request more for each other process. A caller that uses
one process alone gets its whole limit, because the truth replaces the assumption long before it matters. While the
database is away the assumption stays, and leaves each process its share.
"""

import asyncio
import heapq
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from domain.data.rate_limits import Told

WINDOW: Final = 600  # seconds in which a limit that was used up is whole again
CAPACITY: Final = 50_000  # uses in each table
MOST_TOLD: Final = 1_000  # uses at once, the greatest first; a flood from made-up addresses has many small ones
URGENT: Final = WINDOW / 20  # seconds that may be assumed of the others before they are asked
_LOOKED_AT: Final = 2  # uses that make room for a new one if they no longer count
_OTHERS: Final = "others"  # all callers for whom there is no room


class Use:
    """The use of one limit by one caller.

    `untold` are the seconds of it that the other processes do not know of yet, used from `since` on.
    """

    __slots__ = ("is_known", "key", "refused", "reported_at", "since", "until", "untold")

    def __init__(self, key: str, *, is_known: bool) -> None:
        self.key = key
        self.is_known = is_known  # in which table it is
        self.until = 0.0
        self.untold = 0.0
        self.since = 0.0
        self.refused = 0  # requests since the last line about it in the log
        self.reported_at = 0.0


class RateUses:
    """The uses of all callers of this process.

    Users and tokens that are known to be real are kept apart from addresses, so that no number of addresses takes
    their room. A table forgets a use when it no longer counts, and never before: whoever is in it cannot be pushed out.
    If a table is full, new callers share one use of each limit until there is room.
    """

    def __init__(self) -> None:
        self.processes = 1
        self.has_untold, self.is_urgent = asyncio.Event(), asyncio.Event()
        self._untold: dict[str, Use] = {}
        self._tables: tuple[OrderedDict[str, Use], OrderedDict[str, Use]] = OrderedDict(), OrderedDict()

    def find(self, limit: str, caller: str, *, is_known: bool) -> Use:
        """The use of this limit by this caller; it enters its table when something is added to it."""
        key = f"{limit} {caller}"
        table = self._tables[is_known]
        if use := table.get(key):
            return use
        self._make_room(table)
        if len(table) >= CAPACITY:
            key = f"{limit} {_OTHERS}"
        return table.get(key) or Use(key, is_known=is_known)

    def add(self, use: Use, seconds: float) -> None:
        """Count a request that takes so many seconds of the limit."""
        now = time.monotonic()
        use.until = max(use.until, now) + seconds * self.processes
        if not use.untold:
            use.since = now
        use.untold += seconds
        self._tables[use.is_known][use.key] = self._untold[use.key] = use
        self.has_untold.set()
        if self.processes > 1 and use.untold * self.processes > URGENT:
            self.is_urgent.set()

    def tell(self) -> dict[str, Told]:
        """Take what the other processes do not know yet, by the keys of the uses."""
        now = time.monotonic()
        greatest = heapq.nlargest(MOST_TOLD, self._untold.values(), key=lambda use: use.untold)
        told = {use.key: Told(use.untold, now - use.since) for use in greatest}
        for use in greatest:
            use.untold = 0.0
        # What is not told now, and no longer counts here, never is. Otherwise a flood would leave more and more.
        self._untold = {key: use for key, use in self._untold.items() if use.untold and use.until > now}
        self.is_urgent.clear()
        if not self._untold:
            self.has_untold.clear()
        return told

    def hear(self, seconds: Mapping[str, float]) -> None:
        """Replace what was assumed of these uses by what all processes have used, in seconds."""
        now = time.monotonic()
        for key, ahead in seconds.items():
            if use := self._get(key):
                # There may be new requests meanwhile.
                use.until = now + max(0.0, ahead) + use.untold * self.processes

    def keep(self, told: Mapping[str, Told]) -> None:
        """Keep what could not be told, as far as it still counts."""
        now = time.monotonic()
        for key, (seconds, _) in told.items():
            if use := self._get(key):
                use.untold = min(use.untold + seconds, max(0.0, use.until - now) / self.processes)
                use.since = now
                self._untold[key] = use
        if self._untold:
            self.has_untold.set()

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def _get(self, key: str) -> Use | None:
        return self._tables[True].get(key) or self._tables[False].get(key)

    def _make_room(self, table: OrderedDict[str, Use]) -> None:
        now, is_full = time.monotonic(), len(table) >= CAPACITY
        for _ in range(min(_LOOKED_AT, len(table))):
            _, oldest = table.popitem(last=False)
            if oldest.until > now or (oldest.untold and not is_full):
                table[oldest.key] = oldest  # to be looked at again after all others
            else:
                self._untold.pop(oldest.key, None)
