"""Remembers for a few seconds which lists have more rows than are counted, so that they are not counted again."""

import time
from collections import OrderedDict

REMEMBERED_FOR = 10.0  # seconds; if the list gets shorter meanwhile, its total stays "at least 10,000" for so long
MOST = 1_000  # lists


class LongLists:
    """The lists that were long a moment ago, each by a number for caller, path and filters.

    Counting up to the limit takes longer than reading the page itself, above all if PostgreSQL has not vacuumed the
    rows since they were written.
    """

    def __init__(self) -> None:
        self._until: OrderedDict[int, float] = OrderedDict()

    def remember(self, key: int) -> None:
        """The list is long now."""
        self._until[key] = time.monotonic() + REMEMBERED_FOR
        self._until.move_to_end(key)
        if len(self._until) > MOST:
            self._until.popitem(last=False)

    def has(self, key: int) -> bool:
        """Whether the list was long a moment ago."""
        return self._until.get(key, 0.0) > time.monotonic()
