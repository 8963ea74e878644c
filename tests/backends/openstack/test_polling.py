"""Polls: many questions, one read, and a pause that suits the youngest waiter."""

import asyncio
from collections.abc import Collection, Mapping

import pytest

from activities.backends.openstack.errors import CloudError
from activities.backends.openstack.polling import KEEP, LoopClock, Poll, pause_for
from activities.backends.protocol import BackendError
from tests.backends.openstack.clocks import FakeClock, breathe


class Cloud:
    """Answers each id with the number of the read; fails as often as told."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.reads: list[set[str]] = []
        self.kept: list[set[str]] = []
        self.times: list[float] = []
        self.failures: list[Exception] = []
        self.has_read = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def read(self, asked: Collection[str], kept: Collection[str]) -> Mapping[str, int]:
        self.reads.append(set(asked))
        self.kept.append(set(kept))
        self.times.append(self.clock.time)
        self.has_read.set()
        await self.may_answer.wait()
        if self.failures:
            raise self.failures.pop(0)
        return dict.fromkeys({*asked, *kept}, len(self.reads))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cloud(clock: FakeClock) -> Cloud:
    return Cloud(clock)


@pytest.fixture
def poll(cloud: Cloud, clock: FakeClock) -> Poll[int]:
    return Poll(cloud.read, clock)


def unreachable() -> BackendError:
    """Return the failure of a cloud that is away."""
    return BackendError("cloud_unavailable", "The cloud cannot be reached.", retryable=True)


@pytest.mark.parametrize(
    ("age", "pause"),
    [
        (0, 0.3),
        (9, 0.3),
        (10, 1),
        (29, 1),
        (30, 2),
        (165, 3.5),
        (299, 4.99),
        (300, 15),
        (900, 25),
        (1200, 30),
        (9999, 30),
    ],
)
def test_the_pause_grows_with_the_age_of_the_youngest_wait(age: float, pause: float) -> None:
    assert pause_for(age) == pytest.approx(pause, abs=0.01)


@pytest.mark.parametrize(("took", "pause"), [(1.5, 1.5), (9.0, 2.0)])
async def test_a_cloud_that_answers_slowly_is_left_alone_for_a_while(
    clock: FakeClock, took: float, pause: float
) -> None:
    async def read(asked: Collection[str], kept: Collection[str]) -> Mapping[str, int]:
        clock.time += took
        return dict.fromkeys({*asked, *kept}, 1)

    poll = Poll(read, clock)
    for _ in range(2):
        await poll.ask({"a"})
    assert clock.pauses == [pause]


async def test_a_hundred_questions_are_one_read(poll: Poll[int], cloud: Cloud) -> None:
    answers = await asyncio.gather(*(poll.ask({f"id{number}"}) for number in range(100)))
    assert len(cloud.reads) == 1
    assert answers == [{f"id{number}": 1} for number in range(100)]


async def test_a_question_is_answered_by_a_read_that_began_after_it(poll: Poll[int], cloud: Cloud) -> None:
    cloud.may_answer.clear()
    early = asyncio.create_task(poll.ask({"a"}))
    await breathe()
    late = asyncio.create_task(poll.ask({"a"}))
    await breathe()
    cloud.may_answer.set()
    assert await early == {"a": 1}
    assert await late == {"a": 2}


async def test_there_is_no_read_without_a_question(poll: Poll[int], cloud: Cloud) -> None:
    await poll.ask({"a"})
    await breathe()
    assert len(cloud.reads) == 1


async def test_a_read_that_fails_fails_no_question(poll: Poll[int], cloud: Cloud, clock: FakeClock) -> None:
    cloud.failures = [unreachable(), unreachable(), unreachable()]
    assert await poll.ask({"a"}) == {"a": 4}
    assert clock.pauses == [1.0, 2.0, 4.0]
    assert poll.trouble is None


async def test_pauses_between_failed_reads_end_at_half_a_minute(
    poll: Poll[int], cloud: Cloud, clock: FakeClock
) -> None:
    cloud.failures = [unreachable() for _ in range(9)]
    await poll.ask({"a"})
    assert clock.pauses == [1, 2, 4, 8, 16, 30, 30, 30, 30]


async def test_a_cloud_that_asks_for_a_pause_gets_it(poll: Poll[int], cloud: Cloud, clock: FakeClock) -> None:
    error = CloudError("rate_limited", "Too many requests.", retryable=True, retry_after=7.0)
    cloud.failures = [error]
    await poll.ask({"a"})
    assert clock.pauses == [7.0]


async def test_while_reads_fail_their_trouble_can_be_told(poll: Poll[int], cloud: Cloud) -> None:
    troubles: list[BackendError | None] = []

    async def read(asked: Collection[str], kept: Collection[str]) -> Mapping[str, int]:
        troubles.append(poll.trouble)
        return await cloud.read(asked, kept)

    error = unreachable()
    cloud.failures = [error]
    poll = Poll(read, cloud.clock)
    await poll.ask({"a"})
    assert troubles == [None, error]


async def test_a_mistake_in_the_program_ends_the_questions(poll: Poll[int], cloud: Cloud) -> None:
    cloud.failures = [KeyError("oops")]
    with pytest.raises(KeyError):
        await poll.ask({"a"})
    assert await poll.ask({"a"}) == {"a": 2}


async def test_a_question_that_is_canceled_is_asked_no_more(poll: Poll[int], cloud: Cloud) -> None:
    cloud.failures = [unreachable()]
    canceled, other = asyncio.create_task(poll.ask({"a"})), asyncio.create_task(poll.ask({"b"}))
    await cloud.has_read.wait()
    canceled.cancel()
    assert await other == {"b": 2}
    assert cloud.reads == [{"a", "b"}, {"b"}]


async def test_a_poll_whose_last_question_is_canceled_ends(poll: Poll[int], cloud: Cloud) -> None:
    cloud.failures = [unreachable()]
    task = asyncio.create_task(poll.ask({"a"}))
    await cloud.has_read.wait()
    task.cancel()
    await breathe()
    assert len(cloud.reads) == 1


async def test_a_wait_ages_while_one_asks_again_and_a_new_one_makes_the_pause_short(
    poll: Poll[int], cloud: Cloud
) -> None:
    while cloud.clock.time < 400:
        await poll.ask({"old"})
    assert cloud.times[:4] == pytest.approx([0, 0.3, 0.6, 0.9])
    assert cloud.times[-1] - cloud.times[-2] >= 15
    before = cloud.times[-1]
    await poll.ask({"old", "new"})
    assert cloud.times[-1] == pytest.approx(before + 0.3)


async def test_a_new_question_ends_a_long_pause(poll: Poll[int], cloud: Cloud) -> None:
    while cloud.clock.time < 400:
        await poll.ask({"old"})
    before = cloud.times[-1]
    old = asyncio.create_task(poll.ask({"old"}))
    await asyncio.sleep(0)
    new = asyncio.create_task(poll.ask({"new"}))
    await asyncio.gather(old, new)
    assert cloud.times[-1] == pytest.approx(before + 0.3)
    assert cloud.reads[-1] == {"old", "new"}


async def test_something_that_was_just_asked_of_a_thing_makes_its_wait_new(poll: Poll[int], cloud: Cloud) -> None:
    while cloud.clock.time < 400:
        await poll.ask({"a"})
    before = cloud.times[-1]
    poll.hasten("a")
    await poll.ask({"a"})
    assert cloud.times[-1] == pytest.approx(before + 0.3)


async def test_the_last_answer_is_known_for_a_moment(poll: Poll[int], cloud: Cloud) -> None:
    assert poll.latest("a") is None
    await poll.ask({"a", "b"})
    assert poll.latest("a") == 1
    await poll.ask({"b"})
    assert (poll.latest("a"), poll.latest("b")) == (None, 2)
    cloud.clock.time += 1
    assert poll.latest("b") is None


async def test_only_what_is_waited_for_is_remembered(poll: Poll[int], cloud: Cloud) -> None:
    await poll.ask({"a", "b"})
    await poll.ask({"b"})
    assert cloud.kept == [set(), {"a", "b"}]
    while cloud.clock.time < KEEP + 1:
        await poll.ask({"b"})
    assert cloud.kept[-1] == {"b"}


async def test_what_was_not_waited_for_a_while_is_forgotten(poll: Poll[int], cloud: Cloud) -> None:
    await poll.ask({"a"})
    cloud.clock.time += KEEP
    await poll.ask({"a"})
    assert cloud.kept == [set(), set()]


async def test_closing_cancels_the_questions_that_are_open(poll: Poll[int], cloud: Cloud) -> None:
    cloud.may_answer.clear()
    tasks = [asyncio.create_task(poll.ask({"a"}))]
    await breathe()
    tasks.append(asyncio.create_task(poll.ask({"b"})))
    await breathe()
    await poll.close()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True))


async def test_the_loops_clock_waits_for_news_or_for_the_time() -> None:
    clock, news = LoopClock(), asyncio.Event()
    began = clock.now()
    await clock.wait(news, 0.02)
    assert clock.now() - began >= 0.019
    news.set()
    await clock.wait(news, 60)
    assert clock.now() - began < 5
