"""Remembers for a few seconds what was true of something, so that it need not be asked again."""

import time
from collections import OrderedDict

REMEMBERED_FOR = 10.0  # seconds
MOST = 1_000  # keys


class Remembered:
    """The keys of what something was true of a moment ago."""

    def __init__(self) -> None:
        self._until: OrderedDict[int, float] = OrderedDict()

    def remember(self, key: int) -> None:
        """It is true now."""
        self._until[key] = time.monotonic() + REMEMBERED_FOR
        self._until.move_to_end(key)
        if len(self._until) > MOST:
            self._until.popitem(last=False)

    def has(self, key: int) -> bool:
        """Whether it was true a moment ago."""
        return self._until.get(key, 0.0) > time.monotonic()
