"""Limits how many requests are served concurrently, and how many wait, with a fair share for each caller."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from starlette.types import Scope

SLOT_TIMEOUT = 5.0  # seconds that a caller waits for a slot


class NoSlotError(Exception):
    """No slot is free; `code` says whether the caller has used up its share, or the service is overloaded."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@asynccontextmanager
async def without_slot(scope: Scope) -> AsyncIterator[None]:
    """Give the request's slot back while it waits for something other than the database, then take one again.

    NoSlotError if there is none then. After an error it takes none: problems are answered without the database.
    """
    scope["release_slot"]()
    yield
    await scope["take_slot"]()


class _Waiter:
    """A request that waits for a slot: it gets one, or its place is given to another caller."""

    def __init__(self) -> None:
        self.decided = asyncio.Event()
        self.is_granted = False

    def decide(self, *, granted: bool) -> None:
        """Wake the request up."""
        self.is_granted = granted
        self.decided.set()


class Slots:
    """At most `limit` slots are held, and at most `queue_limit` requests wait for one.

    A caller may hold half of the slots and fill half of the queue, so that one caller's flood leaves room for others.
    If several callers fill the queue, a caller with fewer waiting requests takes the place of one that has the most.
    Free slots go to the waiting callers with the lowest rank, and round-robin to those of equal rank.

    Callers with a rank below 0 are preferred: they go before all others. But of the queue and of the free slots, each
    of the two kinds gets half if it needs it, however many callers of the other kind there are.
    """

    def __init__(self, limit: int, queue_limit: int) -> None:
        self._limit, self._caller_limit = limit, max(1, limit // 2)
        self._queue_limit, self._half_of_queue = queue_limit, max(1, queue_limit // 2)
        self._held: Counter[str] = Counter()
        # The callers that wait, each with its requests, oldest first. Of callers with equal rank, the first is next.
        self._waiting: dict[str, deque[_Waiter]] = {}
        self._ranks: dict[str, float] = {}  # of the callers that wait
        self._was_preferred = False  # the caller that was granted the last slot
        self.most_of_caller = self._caller_limit + self._half_of_queue  # requests, served or waiting

    def free_of(self, caller: str) -> int:
        """How many more requests of the caller may be served or wait at the same time."""
        return self.most_of_caller - self._held[caller] - len(self._waiting.get(caller, ()))

    @asynccontextmanager
    async def hold(self, caller: str, rank: float = 0.0) -> AsyncIterator[None]:
        """Hold a slot; NoSlotError as for `acquire`."""
        await self.acquire(caller, rank)
        try:
            yield
        finally:
            self.release(caller)

    async def acquire(self, caller: str, rank: float = 0.0) -> None:
        """Take a slot, to be given back by `release`; NoSlotError if the queue is full or the wait takes too long."""
        if self._has_slot(caller):
            self._held[caller] += 1
            return
        waiting = len(self._waiting.get(caller, ()))
        if waiting >= self._half_of_queue:
            raise NoSlotError("too_many_requests")
        if self._places(self._waiting) >= self._queue_limit:
            self._displace(rank, waiting)
        await self._wait(caller, rank)

    def release(self, caller: str) -> None:
        """Give a slot back, and grant it to the next waiting caller that may have one."""
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        ready = [waiting for waiting in self._waiting if self._has_slot(waiting)]
        if self._was_preferred:
            ready = [waiting for waiting in ready if self._ranks[waiting] >= 0] or ready
        if ready:
            # `min` returns the first of several with the lowest rank.
            self._grant(min(ready, key=self._ranks.__getitem__))

    def _has_slot(self, caller: str) -> bool:
        return self._held.total() < self._limit and self._held[caller] < self._caller_limit

    def _places(self, callers: Iterable[str]) -> int:
        return sum(len(self._waiting[caller]) for caller in callers)

    def _grant(self, caller: str) -> None:
        """Give a slot to the caller's oldest request, and put the caller behind all other callers."""
        # Counted here and not when the request resumes: until then another request could take the slot.
        self._held[caller] += 1
        queue, rank = self._waiting.pop(caller), self._ranks.pop(caller)
        self._was_preferred = rank < 0
        queue.popleft().decide(granted=True)
        if queue:
            self._waiting[caller], self._ranks[caller] = queue, rank

    def _displace(self, rank: float, waiting: int) -> None:
        """Take the latest place of the caller that demands the most, for a caller with `waiting` places.

        It is a place of the other kind if the caller's own kind has less than half of the queue, and of its own kind
        otherwise. A caller's demand is its rank and its waiting requests together. NoSlotError if nobody of its own
        kind demands more.
        """

        def demand_of(caller: str) -> float:
            return self._ranks[caller] + len(self._waiting[caller])

        same = [caller for caller in self._waiting if (self._ranks[caller] < 0) == (rank < 0)]
        if self._places(same) < self._half_of_queue:
            most = max((caller for caller in self._waiting if caller not in same), key=demand_of)
        else:
            most = max(same, key=demand_of)
            if demand_of(most) <= rank + waiting + 1:
                raise NoSlotError("overloaded")
        waiter = self._waiting[most][-1]
        self._forget(most, waiter)
        waiter.decide(granted=False)

    async def _wait(self, caller: str, rank: float) -> None:
        waiter = _Waiter()
        self._waiting.setdefault(caller, deque()).append(waiter)
        self._ranks[caller] = rank
        try:
            async with asyncio.timeout(SLOT_TIMEOUT):
                await waiter.decided.wait()
        except BaseException as error:  # a timeout, or a cancel because the client went away
            self._give_up(caller, waiter)
            if isinstance(error, TimeoutError):
                raise NoSlotError("overloaded") from None
            raise
        if not waiter.is_granted:
            raise NoSlotError("too_many_requests")

    def _give_up(self, caller: str, waiter: _Waiter) -> None:
        # The slot may have been granted after the timeout or cancel, but before this request resumed. It then counts as
        # held, and nothing else would ever release it.
        if waiter.is_granted:
            self.release(caller)
        elif not waiter.decided.is_set():
            self._forget(caller, waiter)

    def _forget(self, caller: str, waiter: _Waiter) -> None:
        self._waiting[caller].remove(waiter)
        if not self._waiting[caller]:
            del self._waiting[caller], self._ranks[caller]
