"""All connections of the process: how many there may be, how much memory they may hold, and which are closed first."""

import heapq
import logging
import resource
from collections import Counter, deque
from collections.abc import Collection, Iterator
from typing import Protocol

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 10_000  # each takes a few kilobytes when idle
FEWEST_CONNECTIONS = 16
RESERVED_FILES = 64  # for Temporal, the log, the event loop and files that are opened for a moment
# Bytes of requests that are not answered yet, of those that wait behind another one, and of answers not read.
MOST_HELD = 32 * 1024 * 1024
DRAINED_PER_TICK = 4 * 1024 * 1024  # bytes that nobody reads, from all connections together
LOG_INTERVAL = 10.0  # seconds


class Member(Protocol):
    """A connection as this module sees it."""

    address: str
    since: float  # when its present phase began
    deadline: float  # when the phase ends at the latest
    held: int  # bytes of received and of unsent data

    def is_busy(self) -> bool:
        """Whether a whole request was received and is not answered yet."""

    def is_changing(self) -> bool:
        """Whether that request may change something, so that its client needs the answer."""

    def weigh(self) -> None:
        """Report how many bytes it holds."""

    def expire(self) -> None:
        """End a phase whose time is over."""

    def abort(self) -> None:
        """Close the connection, and end its request, at once."""

    def read(self, *, is_wanted: bool) -> None:
        """Read from the client, or not."""


def most_connections(database_connections: int) -> int:
    """The number of connections that the process has file descriptors for, after raising its limit if possible."""
    reserved = database_connections + RESERVED_FILES
    wanted = MOST_CONNECTIONS + reserved
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    if files < reserved + FEWEST_CONNECTIONS:
        raise SystemExit(f"The limit of open files is {files}; raise it (ulimit -n) to {wanted} or more")
    return files - reserved


class Connections:
    """The open connections, by address, and those whose client has left before its request was done.

    If there are too many, a new one takes the place of others: those of the addresses with the most connections go
    first, and among them those that have waited longest. If no connection waits for its
    client, reads and requests that are refused already are cut: they can be sent again. All others keep their places.
    """

    def __init__(self, limit: int, limit_per_address: int | None) -> None:
        self.limit = limit
        self.limit_per_address = limit_per_address or limit // 2
        self.by_address: dict[str, set[Member]] = {}
        self.count = 0
        self.held = 0
        self._may_drain = DRAINED_PER_TICK
        self._draining: list[Member] = []  # those that wait for the next tick
        self._events: Counter[str] = Counter()  # since the last line in the log
        self._next_line = 0.0

    def admit(self, connection: Member) -> bool:
        """Count a new connection, and close others if there are too many; False if none of them can be closed."""
        group = self.by_address.get(connection.address, set())
        if len(group) >= self.limit_per_address and not self._make_place(group, self.limit_per_address):
            return False
        if self.count >= self.limit and not self._make_place(self._all(), self.limit):
            return False
        self.by_address.setdefault(connection.address, set()).add(connection)
        self.count += 1
        return True

    def remove(self, connection: Member) -> None:
        """Count a connection no longer; a second call does nothing."""
        group = self.by_address.get(connection.address, set())
        if connection not in group:
            return
        self.held -= connection.held
        connection.held = 0
        self.count -= 1
        group.remove(connection)
        if not group:
            del self.by_address[connection.address]

    def hold(self, connection: Member, size: int) -> None:
        """Note the bytes that a connection keeps. If all together keep too many, close some.

        The address that keeps the most at that moment loses one, again and again: first those that wait for their
        client, the longest waiting ones first, then requests that wait for us, the largest ones first.
        """
        if connection not in self.by_address.get(connection.address, ()):
            return  # it has just been closed
        self.held += size - connection.held
        connection.held = size
        if self.held <= MOST_HELD:
            return
        for holder in self._dispensable_first():
            if self.held <= MOST_HELD * 3 // 4:  # a good deal less, because each search takes time
                break
            self._abort(holder, f"closed connections that held more than {MOST_HELD >> 20} MiB of unfinished data")

    def drain(self, connection: Member, size: int) -> bool:
        """Count bytes that nobody reads; False if the connection has to wait until `tick` before it reads more.

        A flood of them would otherwise take all the time of the process.
        """
        self._may_drain -= size
        if self._may_drain > 0:
            return True
        self._draining.append(connection)
        return False

    def tick(self) -> None:
        """Let connections drain again."""
        self._may_drain = DRAINED_PER_TICK
        waiting, self._draining = self._draining, []
        for connection in waiting:
            connection.read(is_wanted=True)

    def sweep(self, now: float) -> None:
        """End the phases whose time is over. Called once a second: a timer for each phase would cost more."""
        for member in self._all():
            member.weigh()  # whether an answer stays unread shows only after a while
            if member.deadline < now:
                member.expire()
        if self._events and now >= self._next_line:
            for event, count in self._events.items():
                logger.warning("%s: %d", event, count)
            self._events.clear()
            self._next_line = now + LOG_INTERVAL

    def _all(self) -> list[Member]:
        return [member for group in self.by_address.values() for member in group]

    def _make_place(self, members: Collection[Member], limit: int) -> bool:
        """Close a sixteenth of the limit, so that a flood of new connections does not search at each of them."""
        limited = "" if limit == self.limit else " of one address"
        what, closable = "closed the longest waiting connections", [each for each in members if not each.is_busy()]
        if not closable:
            what, closable = "cut the longest reads", [each for each in members if not each.is_changing()]
        for member in heapq.nsmallest(max(1, limit // 16), closable, key=self._usefulness):
            self._abort(member, f"{what}, because there were {limit}{limited}")
        if not closable:
            self._events[f"refused connections, because {limit}{limited} were being served"] += 1
        return bool(closable)

    def _usefulness(self, member: Member) -> tuple[int, float]:
        return -len(self.by_address[member.address]), member.since

    def _dispensable_first(self) -> Iterator[Member]:
        """Yield the connections that hold something. Each is of the address that then holds the most."""
        holders = {address: [each for each in group if each.held] for address, group in self.by_address.items()}
        queues = {address: deque(sorted(group, key=_dispensability)) for address, group in holders.items() if group}
        heap = [(-sum(each.held for each in queue), address) for address, queue in queues.items()]
        heapq.heapify(heap)
        while heap:
            left, address = heapq.heappop(heap)
            member = queues[address].popleft()
            if queues[address]:
                heapq.heappush(heap, (left + member.held, address))
            yield member

    def _abort(self, member: Member, event: str) -> None:
        self._events[event] += 1
        self.remove(member)
        member.abort()


def _dispensability(member: Member) -> tuple[bool, int, float]:
    is_busy = member.is_busy()
    return is_busy, -member.held if is_busy else 0, member.since
