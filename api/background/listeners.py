"""What a request hears of changes: one that waits for resources, and one that follows all that a user may read."""

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from domain.data.changes import Position

MOST_PENDING: Final = 1_000  # changes that a client has not read yet
MOST_PENDING_BYTES: Final = 1024 * 1024  # of rows that wait while earlier ones are still being sent to the client
RESET_PAUSE: Final = 30.0  # seconds: others can make a user join and leave projects as often as they like
_SHORT_ROW: Final = 2_000
_CHARACTER: Final = 4  # bytes, at most
_ADDRESS: Final = 600  # bytes of an interface's address


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Change:
    """A resource that has changed: its kind, and its row as it is now.

    `rendered` keeps its event, for all that follow it.
    """

    kind: str
    row: Any
    rendered: list[bytes] = field(default_factory=list)

    @property
    def size(self) -> int:
        """About how many bytes the row has in memory: only its labels and addresses can be long."""
        labels = getattr(self.row, "labels", None) or {}
        addresses = getattr(self.row, "addresses", None) or ()
        texts = sum(_CHARACTER * (len(key) + len(value)) for key, value in labels.items())
        return _SHORT_ROW + texts + _ADDRESS * len(addresses)


class Watch:
    """What has happened to the resources that a request waits for since it last asked."""

    def __init__(self) -> None:
        self._rows: dict[UUID, Any] = {}
        self._is_unsure = False
        self._happened = asyncio.Event()
        self.is_over = False  # the process is about to stop

    async def next(self, seconds: float) -> Mapping[UUID, Any] | None:
        """Wait for a change and return the newest rows by id; none of them if nothing has changed in that time.

        None means that something may have been missed: read the resources again.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._happened.wait()
        rows, self._rows = self._rows, {}
        was_unsure, self._is_unsure = self._is_unsure, False
        if not self.is_over:
            self._happened.clear()
        return None if was_unsure else rows

    def note(self, id: UUID, row: Any) -> None:
        """Note that a resource has changed."""
        self._rows[id] = row
        self._happened.set()

    def doubt(self) -> None:
        """Note that something may have been missed."""
        self._is_unsure = True
        self._happened.set()

    def end(self) -> None:
        """Wait no longer."""
        self.is_over = True
        self._happened.set()


@dataclass(frozen=True, slots=True)
class News:
    """Changes that a client is told of together, and the position that it has then. `is_reset`: some are unknown.

    `knows` is what the client knows then (see `Stream`).
    """

    changes: Sequence[Change]
    position: Position
    is_reset: bool = False
    knows: str | None = None

    @property
    def size(self) -> int:
        """About how many bytes its rows have in memory."""
        return sum(change.size for change in self.changes)


class Stream:
    """The changes that a client follows, of all resources that its user may read, from a position on or from now.

    `knows` stands for the projects whose resources the client has read, and is empty if it has to read them afresh. The
    ids of events have it.
    """

    def __init__(self, user_id: UUID, last: Position | None, knows: str | None = None) -> None:
        self.user_id = user_id
        self.projects: frozenset[UUID] = frozenset()  # that the user may read, once it has begun
        self.last = last
        self.knows = knows
        self._reset_at = -math.inf
        self.position: Position | None = None  # once it has begun
        self._news: list[News] = []
        self._size = 0  # bytes of the rows that wait or are being sent
        self._happened = asyncio.Event()
        self._is_over = False

    def has_missed(self, projects: frozenset[UUID]) -> bool:
        """Whether these are not the projects that the client knew when it was last here."""
        return self.knows not in {None, _name_of(projects)}

    def begin(self, projects: frozenset[UUID], news: News) -> None:
        """Begin with these projects, and with what the client has missed."""
        self.projects, self.knows = projects, _name_of(projects)
        self.tell(news)

    def read_projects(self, projects: frozenset[UUID], position: Position) -> None:
        """Have these projects from now on. If they are others, the client has to read its resources afresh."""
        if projects != self.projects:
            self.projects, self.knows = projects, ""
        if not self.knows and time.monotonic() - self._reset_at >= RESET_PAUSE:
            self._reset_at, self.knows = time.monotonic(), _name_of(projects)
            self.tell(News([], position, is_reset=True))

    async def next(self, seconds: float) -> list[News] | None:
        """Wait for news; none if nothing has happened in that time. None means that the stream has ended."""
        self._size = sum(each.size for each in self._news)  # what this returned before has been sent by now
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._happened.wait()
        news, self._news = self._news, []
        if self._is_over:
            return news or None
        self._happened.clear()
        return news

    def tell(self, news: News) -> None:
        """Add news. The stream of a client that does not read ends; the client can come back and resume it."""
        self.position = news.position
        is_long = sum(len(each.changes) for each in self._news) + len(news.changes) > MOST_PENDING
        # What comes to a client that has read all is told, however much it is, or the client would never get on.
        if self._is_over or is_long or (self._size and self._size + news.size > MOST_PENDING_BYTES):
            self._news.clear()
            self.end()
            return
        self._news.append(replace(news, knows=self.knows))
        self._size += news.size
        self._happened.set()

    def end(self) -> None:
        """Tell nothing more."""
        self._is_over = True
        self._happened.set()


def _name_of(projects: frozenset[UUID]) -> str:
    return hashlib.blake2b(b"".join(sorted(id.bytes for id in projects)), digest_size=8).hexdigest()
