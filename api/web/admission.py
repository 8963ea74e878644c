"""Who may come in when more ask than can be served: so many at once, so many waiting, everybody in turn."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PATIENCE = 5.0  # seconds that somebody waits for a place
PACE = 0.5  # seconds: to refuse at once whoever asks again at once takes a whole processor


class NoSlotError(Exception):
    """No place; `code` says whether there is none for this caller, or for nobody."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Slots:
    """So many `places`, and so many more that `wait` for one; each caller may have half of either."""

    def __init__(self, places: int, wait: int) -> None:
        self._places, self._share = places, max(1, places // 2)
        self._wait, self._wait_share = wait, max(1, wait // 2)
        self._inside: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Event]] = {}  # whose turn is next comes first

    @asynccontextmanager
    async def hold(self, caller: str) -> AsyncIterator[None]:
        """Have a place; NoSlotError, mostly soon, where there is none."""
        await self.acquire(caller)
        try:
            yield
        finally:
            self.release(caller)

    async def acquire(self, caller: str) -> None:
        """Take a place, to be given back by `leave`; NoSlotError as above."""
        if self._has_place(caller):
            self._inside[caller] += 1
            return
        if len(self._waiting.get(caller, ())) >= self._wait_share:
            await asyncio.sleep(PACE)
            raise NoSlotError("too_many_requests")
        if sum(map(len, self._waiting.values())) >= self._wait:
            raise NoSlotError("overloaded")
        await self._wait_for_turn(caller)

    def release(self, caller: str) -> None:
        """Give a place back, to whoever's turn it is."""
        self._inside[caller] -= 1
        if not self._inside[caller]:
            del self._inside[caller]
        following = next((one for one in self._waiting if self._has_place(one)), None)
        if following is not None:
            self._inside[following] += 1
            turns = self._waiting.pop(following)
            turns.popleft().set()
            if turns:
                self._waiting[following] = turns

    def _has_place(self, caller: str) -> bool:
        return self._inside.total() < self._places and self._inside[caller] < self._share

    async def _wait_for_turn(self, caller: str) -> None:
        turn = asyncio.Event()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            async with asyncio.timeout(PATIENCE):
                await turn.wait()
        except BaseException as error:
            self._give_up(caller, turn)
            if isinstance(error, TimeoutError):
                raise NoSlotError("overloaded") from None
            raise

    def _give_up(self, caller: str, turn: asyncio.Event) -> None:
        if turn.is_set():  # it came in the same moment
            self.release(caller)
            return
        turns = self._waiting[caller]
        turns.remove(turn)
        if not turns:
            del self._waiting[caller]
