"""Limits how many requests are served concurrently, and how many wait, with a fair share for each caller."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SLOT_TIMEOUT = 5.0  # seconds that a caller waits for a slot
# Delays the refusal of a caller that has filled its share of the queue. Such a caller often retries at once. Refusing
# it again and again without a delay would keep a whole processor busy.
REFUSAL_DELAY = 0.5  # seconds


class NoSlotError(Exception):
    """No slot is free; `code` says whether the caller has used up its share, or the service is overloaded."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Slots:
    """At most `limit` slots are held, and at most `queue_limit` callers wait for one.

    A caller may hold half of the slots and fill half of the queue, so that one caller's flood leaves room for others.
    Free slots go round-robin to the callers that wait.
    """

    def __init__(self, limit: int, queue_limit: int) -> None:
        self._limit, self._caller_limit = limit, max(1, limit // 2)
        self._queue_limit, self._caller_queue_limit = queue_limit, max(1, queue_limit // 2)
        self._held: Counter[str] = Counter()
        # The callers that wait, each with its requests, oldest first. The first caller in the dict is served next.
        self._waiting: dict[str, deque[asyncio.Event]] = {}

    @asynccontextmanager
    async def hold(self, caller: str) -> AsyncIterator[None]:
        """Hold a slot; NoSlotError as for `acquire`."""
        await self.acquire(caller)
        try:
            yield
        finally:
            self.release(caller)

    async def acquire(self, caller: str) -> None:
        """Take a slot, to be given back by `release`; NoSlotError if the queue is full or the wait takes too long."""
        if self._has_slot(caller):
            self._held[caller] += 1
            return
        if len(self._waiting.get(caller, ())) >= self._caller_queue_limit:
            await asyncio.sleep(REFUSAL_DELAY)
            raise NoSlotError("too_many_requests")
        if sum(map(len, self._waiting.values())) >= self._queue_limit:
            raise NoSlotError("overloaded")
        await self._wait(caller)

    def release(self, caller: str) -> None:
        """Give a slot back, and grant it to the next waiting caller that may have one."""
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        following = next((waiting for waiting in self._waiting if self._has_slot(waiting)), None)
        if following is not None:
            self._grant(following)

    def _has_slot(self, caller: str) -> bool:
        return self._held.total() < self._limit and self._held[caller] < self._caller_limit

    def _grant(self, caller: str) -> None:
        """Give a slot to the caller's oldest request, and put the caller behind all other callers."""
        # Counted here and not when the request resumes: until then another request could take the slot.
        self._held[caller] += 1
        queue = self._waiting.pop(caller)
        queue.popleft().set()
        if queue:
            self._waiting[caller] = queue

    async def _wait(self, caller: str) -> None:
        granted = asyncio.Event()
        self._waiting.setdefault(caller, deque()).append(granted)
        try:
            async with asyncio.timeout(SLOT_TIMEOUT):
                await granted.wait()
        except BaseException as error:  # a timeout, or a cancel because the client went away
            self._give_up(caller, granted)
            if isinstance(error, TimeoutError):
                raise NoSlotError("overloaded") from None
            raise

    def _give_up(self, caller: str, granted: asyncio.Event) -> None:
        # The slot may have been granted after the timeout or cancel, but before this request resumed. It then counts as
        # held, and nothing else would ever release it.
        if granted.is_set():
            self.release(caller)
            return
        queue = self._waiting[caller]
        queue.remove(granted)
        if not queue:
            del self._waiting[caller]
