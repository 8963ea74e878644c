"""One poll for all who wait for things of one kind, with a pause that suits the youngest of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from activities.backends.protocol import BackendError

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEEP: Final = 10.0
"""Seconds for which a thing is remembered after the last answer about it. Who waits on asks again long before."""
LONGEST_BACKOFF: Final = 30.0
MOMENT: Final = 0.5
"""Seconds for which the answer of a poll is as good as a new one, for who has just got it."""
REST: Final = 2.0
"""Seconds for which a cloud that answers slowly is left alone between two polls, at most."""


class Clock(Protocol):
    """Time, in seconds; tests have their own."""

    def now(self) -> float:
        """Return the time; only differences mean something."""

    async def wait(self, news: asyncio.Event, seconds: float) -> None:
        """Return after that time, or at once if there are news."""


class LoopClock:
    """The clock of the running loop."""

    def now(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    async def wait(self, news: asyncio.Event, seconds: float) -> None:
        """Wait for the news, but not longer than that."""
        try:
            async with asyncio.timeout(seconds):
                await news.wait()
        except TimeoutError:
            return


def pause_for(age: float) -> float:
    """Return the seconds between two polls while the youngest wait is that old: a fresh one is likely to end soon."""
    if age < 10:  # noqa: PLR2004 - this function is the table
        return 0.3
    if age < 30:  # noqa: PLR2004
        return 1.0
    if age < 300:  # noqa: PLR2004
        return 2.0 + 3.0 * (age - 30) / 270
    return min(15.0 + (age - 300) / 60, 30.0)


@dataclass(slots=True)
class _Question(Generic[T]):
    ids: frozenset[str]
    answer: asyncio.Future[Mapping[str, T]] = field(default_factory=asyncio.Future)


@dataclass(slots=True)
class _Wait:
    """When somebody began to wait for a thing, and when somebody last asked for it or was answered."""

    since: float
    last: float


class Poll(Generic[T]):
    """Answers questions about things by their ids: all that were asked before a poll began, with that one poll.

    A poll that fails fails no question: it is repeated, with longer and longer pauses, until it succeeds or nobody
    waits any more. `read` gets the ids that are asked for, and all those that it may remember from the polls before.
    """

    def __init__(
        self, read: Callable[[Collection[str], Collection[str]], Awaitable[Mapping[str, T]]], clock: Clock
    ) -> None:
        self.trouble: BackendError | None = None
        """Why the last poll failed, if it did."""
        self._read = read
        self._clock = clock
        self._questions: list[_Question[T]] = []
        self._waits: dict[str, _Wait] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._last_poll = float("-inf")
        self._took = 0.0
        self._latest: Mapping[str, T] = {}
        self._answered_at = float("-inf")
        self._failures = 0

    async def ask(self, ids: Collection[str]) -> Mapping[str, T]:
        """Return what a poll that begins after this call shows of the things, without those that it does not show."""
        question: _Question[T] = _Question(frozenset(ids))
        for id in question.ids:
            self._note(id)
        self._questions.append(question)
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await question.answer

    def latest(self, id: str) -> T | None:
        """Return what the last poll has shown of the thing, if that was a moment ago."""
        return self._latest.get(id) if self._clock.now() - self._answered_at < MOMENT else None

    def hasten(self, id: str) -> None:
        """Count the wait for a thing as new: something was just asked of it."""
        now = self._clock.now()
        self._waits[id] = _Wait(now, now)
        self._news.set()

    async def close(self) -> None:
        """End the poll; questions that are open are canceled."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
        for question in self._questions:
            question.answer.cancel()

    def _note(self, id: str) -> None:
        now = self._clock.now()
        wait = self._waits.get(id)
        since = wait.since if wait and now - wait.last < KEEP else now
        self._waits[id] = _Wait(since, now)

    async def _run(self) -> None:
        while self._questions:
            while (pause := self._due() - self._clock.now()) > 0 and self._questions:
                self._news.clear()
                await self._clock.wait(self._news, pause)
                self._drop_canceled()
            await self._poll()

    def _due(self) -> float:
        if self.trouble:
            wish = self.trouble.retry_after
            return self._last_poll + max(wish or 0.0, min(2.0 ** (self._failures - 1), LONGEST_BACKOFF))
        ids = frozenset[str]().union(*(question.ids for question in self._questions))
        youngest = max((self._waits[id].since for id in ids), default=0.0)
        rested = self._took + min(self._took, REST)
        return self._last_poll + max(pause_for(self._clock.now() - youngest), rested)

    async def _poll(self) -> None:
        self._drop_canceled()
        # A question that comes from here on belongs to the next poll, because this one may already have read its row.
        questions, self._questions = self._questions, []
        if not questions:
            return
        asked = frozenset[str]().union(*(question.ids for question in questions))
        now, before = self._clock.now(), self._last_poll
        self._last_poll = now
        self._waits = {id: wait for id, wait in self._waits.items() if id in asked or now - wait.last < KEEP}
        kept = {id for id, wait in self._waits.items() if wait.since <= before}
        try:
            found = await self._read(asked, kept)
        except BackendError as error:
            if self.trouble is None:
                logger.warning("The cloud cannot be polled: %s", error)
            self.trouble, self._failures = error, self._failures + 1
            self._questions = questions + self._questions
            return
        except Exception as error:  # noqa: BLE001 - a mistake in the program, which belongs to those who ask
            for question in _open(questions):
                question.answer.set_exception(error)
            return
        except asyncio.CancelledError:
            for question in questions:
                question.answer.cancel()
            raise
        self.trouble, self._failures = None, 0
        answered_at = self._clock.now()
        self._took = answered_at - now
        self._latest, self._answered_at = {id: found[id] for id in asked if id in found}, answered_at
        for id in asked & self._waits.keys():
            self._waits[id].last = answered_at
        for question in _open(questions):
            question.answer.set_result({id: found[id] for id in question.ids if id in found})

    def _drop_canceled(self) -> None:
        self._questions = _open(self._questions)


def _open(questions: list[_Question[T]]) -> list[_Question[T]]:
    """Return the questions that somebody still waits for."""
    return [question for question in questions if not question.answer.done()]
