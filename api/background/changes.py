"""Tells requests what has changed in the database.

Some requests wait for a resource, and others follow all resources that a user may read.

One task in each process looks for changed rows, four times a second and only while somebody wants to know. It finds
them with one query, whoever made the change and however many requests wait. The changed resources that somebody waits
for or follows are then read once, for all of them. PostgreSQL's NOTIFY would save the looks, but it needs a connection
of its own, which PgBouncer in transaction mode does not give, and it makes all commits wait for one lock.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.background.listeners import Change, News, Stream, Watch
from domain.data import changes, outages
from domain.data.changes import Changed, LostTrackError, Position
from domain.data.projects import readable_by
from domain.data.views import View

logger = logging.getLogger(__name__)

INTERVAL = 0.25  # seconds between two looks
PAUSE_AFTER_ERROR = 1.0  # seconds
MOST_WAITS = 1_000  # requests of one user that wait at the same time
MOST_WAITS_OF_ALL = 5_000  # requests; each takes about 40 kB
MOST_STREAMS = 50  # of one user at the same time: what one has not read costs more than a request that waits
SENDERS = 4  # streams that make a part of their answer in one turn of the event loop
MOST_RESUMED = 1_000  # changes that a client gets that comes back
JOIN_TIME = 0.1  # seconds of each look for streams that come back: the others wait for the next look
BATCH = 500  # rows that one query reads
MEMBERS_INTERVAL = 1.0  # seconds; so long a stream may go on with what its user may no longer read


class TooManyWaitingError(Exception):
    """The user has as many requests that wait, or streams, as one may have: `most`."""

    def __init__(self, most: int, what: str) -> None:
        super().__init__(most, what)
        self.most = most
        self.what = what


class Changes:
    """All requests of this process that wait or follow. `views` says, per table, what is read of a changed row."""

    def __init__(self, autocommit: AsyncEngine, views: Mapping[str, View]) -> None:
        self._autocommit = autocommit
        self.views = views
        self._watches: dict[UUID, set[Watch]] = {}
        self._streams: set[Stream] = set()
        self._joining: list[Stream] = []
        self._joined_at: dict[UUID, float] = {}  # when a stream of a user last came back, of users with more of them
        self._told: WeakValueDictionary[UUID, Change] = WeakValueDictionary()  # what streams have not sent yet, by id
        self.sending = asyncio.Semaphore(SENDERS)  # first come, first served
        self._waits_of_user: dict[UUID, dict[Watch, None]] = {}  # the oldest first
        self._streams_of_user: Counter[UUID] = Counter()
        self._last: Position | None = None
        self._looked_at = 0.0
        self._members_read_at = 0.0
        self._is_wanted = asyncio.Event()
        self._is_over = False

    @contextlib.contextmanager
    def watch(self, user_id: UUID, ids: Iterable[UUID]) -> Iterator[Watch]:
        """Watch resources. Read them after this, so that no change falls between. TooManyWaitingError.

        If too many requests of all users wait, the oldest of the user with the most waits no longer.
        """
        watch, ids = Watch(), list(ids)
        own = self._waits_of_user.get(user_id, {})
        if len(own) >= MOST_WAITS:
            raise TooManyWaitingError(MOST_WAITS, "requests that wait")
        if sum(map(len, self._waits_of_user.values())) >= MOST_WAITS_OF_ALL:
            self._end_a_wait()
        self._waits_of_user.setdefault(user_id, own)[watch] = None
        for id in ids:
            self._watches.setdefault(id, set()).add(watch)
        if self._is_over:
            watch.end()
        self._is_wanted.set()
        try:
            yield watch
        finally:
            self._forget_wait(user_id, watch)
            for id in ids:
                _discard(self._watches, id, watch)

    def _end_a_wait(self) -> None:
        user_id, waits = max(self._waits_of_user.items(), key=lambda item: len(item[1]))
        watch = next(iter(waits))
        watch.end()
        self._forget_wait(user_id, watch)

    def _forget_wait(self, user_id: UUID, watch: Watch) -> None:
        waits = self._waits_of_user.get(user_id, {})
        waits.pop(watch, None)
        if not waits:
            self._waits_of_user.pop(user_id, None)

    @contextlib.contextmanager
    def follow(self, user_id: UUID, last: Position | None, knows: str | None = None) -> Iterator[Stream]:
        """Follow all that a user may read, from the last position on or from now. TooManyWaitingError.

        `knows` is that of the client's stream when it reached the position; None if it has none.
        """
        stream = Stream(user_id, last, knows)
        with _counted(self._streams_of_user, user_id, MOST_STREAMS, "streams of events"):
            self._joining.append(stream)
            if self._is_over:
                stream.end()
            self._is_wanted.set()
            try:
                yield stream
            finally:
                if stream in self._joining:
                    self._joining.remove(stream)
                self._streams.discard(stream)

    def is_current(self) -> bool:
        """Whether what has been told is what the database had a moment ago."""
        return time.monotonic() - self._looked_at < 2 * INTERVAL + PAUSE_AFTER_ERROR

    def end(self) -> None:
        """Answer all requests that wait, and end all streams, because the process stops."""
        self._is_over = True
        for watch in self._all_watches():
            watch.end()
        for stream in [*self._joining, *self._streams]:
            stream.end()

    async def run(self) -> None:
        """Look for changes while somebody wants to know."""
        while True:
            await self._is_wanted.wait()
            pause = INTERVAL
            try:
                async with self._autocommit.connect() as connection:
                    came_before = list(self._joining)
                    await self._look(connection)
                    await self._join(connection, came_before)
                    await self._read_members(connection)
                outages.log.succeeded()
            except Exception as error:
                if not outages.is_outage(error):
                    logger.exception("could not look for changes")
                else:
                    outages.log.failed(error)
                pause = PAUSE_AFTER_ERROR
            if not (self._watches or self._streams or self._joining):
                self._last = None
                self._is_wanted.clear()
            await asyncio.sleep(pause)

    async def _look(self, connection: AsyncConnection) -> None:
        """Tell what has changed since the last look."""
        if self._last is None:
            self._restart(await changes.position(connection))
            return
        try:
            now, found = await changes.since(connection, self._last)
        except LostTrackError as error:
            self._restart(error.now)
            return
        # Each set of projects once: all streams of a user have the same.
        followed = frozenset[UUID]().union(*{stream.projects for stream in self._streams})
        wanted = [each for each in found if each.id in self._watches or each.owner_id in followed]
        read = await self._read(connection, wanted)
        self._last, self._looked_at = now, time.monotonic()  # only now: after an error the next look finds them again
        news: dict[UUID, list[Change]] = {}
        for change in read:
            for watch in self._watches.get(change.row.id, ()):
                watch.note(change.row.id, change.row)
            news.setdefault(change.row.owner_id, []).append(change)
        for stream in self._streams:
            concerning = [change for project in stream.projects & news.keys() for change in news[project]]
            if concerning:
                stream.tell(News(concerning, now))
            else:
                stream.position = now

    def _restart(self, now: Position) -> None:
        """Begin at a position. What happened before it may have been missed."""
        self._last, self._looked_at = now, time.monotonic()
        for watch in self._all_watches():
            watch.doubt()
        for stream in self._streams:
            stream.tell(News([], now, is_reset=True))

    async def _read_members(self, connection: AsyncConnection) -> None:
        """Find out which streams may have something else from now on: their users have joined or left projects."""
        if not self._streams or self._last is None or time.monotonic() - self._members_read_at < MEMBERS_INTERVAL:
            return
        self._members_read_at = time.monotonic()
        readable = await readable_by(connection, {stream.user_id for stream in self._streams})
        for stream in list(self._streams):
            stream.read_projects(readable.get(stream.user_id, stream.projects), self._last)

    async def _join(self, connection: AsyncConnection, came_before: Collection[Stream]) -> None:
        """Let the streams begin that have come, each at its own position; `came_before` came before the last look.

        A client that comes back may have a later position than the last look, from another process, if it came after
        that. It begins with the next one.
        """
        joining = self._in_turn([each for each in self._joining if each.last is None or each in came_before])
        readable = await readable_by(connection, {stream.user_id for stream in joining}) if joining else {}
        end = time.monotonic() + JOIN_TIME
        # One after the other, and by the task that looks: no stream is told something older after something newer.
        for stream in joining:
            if stream.last is not None:
                if time.monotonic() >= end:
                    break  # everybody who waits for something waits for this task
                self._joined_at[stream.user_id] = time.monotonic()
            projects = readable[stream.user_id]
            news = await self._missed(connection, stream, projects, self._last) if self._last else None
            if news and stream in self._joining:  # its client may have gone away meanwhile
                self._joining.remove(stream)
                self._streams.add(stream)
                stream.begin(projects, news)

    def _in_turn(self, joining: Collection[Stream]) -> list[Stream]:
        """First the streams that begin now, which costs nothing; then one of each user, a second of each, and so on.

        The user whose turn was longest ago comes first, so that nobody with many streams keeps others waiting.
        """
        waiting = {stream.user_id for stream in self._joining}
        self._joined_at = {user: at for user, at in self._joined_at.items() if user in waiting}
        number = Counter[UUID]()
        places: list[tuple[bool, int, float, Stream]] = []
        for stream in joining:
            user = stream.user_id
            places.append((stream.last is not None, number[user], self._joined_at.get(user, 0.0), stream))
            number[user] += stream.last is not None
        return [stream for *_, stream in sorted(places, key=lambda place: place[:3])]

    async def _missed(
        self, connection: AsyncConnection, stream: Stream, projects: frozenset[UUID], now: Position
    ) -> News:
        if stream.last is None or stream.has_missed(projects):
            return News([], now, is_reset=stream.last is not None)
        try:
            # No further than the last look, because the next look tells everything since then.
            found = await changes.between(connection, stream.last, now, projects, MOST_RESUMED)
        except LostTrackError as error:
            return News([], error.now, is_reset=True)
        return News(await self._read(connection, found), now)

    async def _read(self, connection: AsyncConnection, found: Sequence[Changed]) -> list[Change]:
        """Read the changed resources, as they are now."""
        result = list[Change]()
        for table, view in self.views.items():
            ids = [each.id for each in found if each.table == table]
            for start in range(0, len(ids), BATCH):
                rows = await connection.execute(view.rows.where(view.id.in_(ids[start : start + BATCH])))
                result += [self._change(view.kind, row) for row in rows]
        return result

    def _change(self, kind: str, row: Any) -> Change:
        """The change that has this row. Streams that come back share it with others: each reads its own rows."""
        known = self._told.get(row.id)
        if known is not None and known.row == row:
            return known
        change = self._told[row.id] = Change(kind, row)
        return change

    def _all_watches(self) -> set[Watch]:
        return {watch for watches in self._watches.values() for watch in watches}


@contextlib.contextmanager
def _counted(counter: Counter[UUID], user_id: UUID, most: int, what: str) -> Iterator[None]:
    if counter[user_id] >= most:
        raise TooManyWaitingError(most, what)
    counter[user_id] += 1
    try:
        yield
    finally:
        counter[user_id] -= 1
        if not counter[user_id]:
            del counter[user_id]


def _discard(groups: dict[UUID, set[Any]], key: UUID, member: Any) -> None:
    """Remove a member of a group, and the group with its last one."""
    group = groups.get(key, set())
    group.discard(member)
    if not group:
        groups.pop(key, None)
