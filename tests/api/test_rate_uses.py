"""Rate limits across processes: what all of them together let through, and what a flood of addresses can do."""

from collections.abc import Iterator
from datetime import timedelta
from random import Random

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import rate_uses
from api.background.rate_uses import CAPACITY, MOST_TOLD, WINDOW, RateUses
from api.background.use_exchange import SHORTEST_INTERVAL, SIGN_OF_LIFE, UseExchange
from domain.data import database
from domain.data.rate_limits import LONGEST_DEBT, APIProcess, RateUse

QUOTA = 600  # requests in the window: one takes a second


class Clock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        """The time in seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the uses."""
    clock = Clock()
    monkeypatch.setattr(rate_uses, "time", clock)
    return clock


def now() -> float:
    """The time by the clock of the uses."""
    seconds: float = vars(rate_uses)["time"].monotonic()
    return seconds


def ask(uses: RateUses, caller: str = "ada", quota: int = QUOTA, *, is_known: bool = True) -> bool:
    """Whether one more request is let through."""
    use, cost = uses.find("reads", caller, is_known=is_known), WINDOW / quota
    if use.until - now() + cost > WINDOW:
        return False
    uses.add(use, cost)
    return True


def flood(uses: RateUses) -> int:
    """Send requests until one is refused; returns how many were not."""
    return next(number for number in range(10 * QUOTA) if not ask(uses))


async def processes(engine: AsyncEngine, number: int) -> list[tuple[RateUses, UseExchange]]:
    """Processes that know of each other."""
    made = [(uses, UseExchange(database.autocommit(engine), uses)) for uses in (RateUses() for _ in range(number))]
    for _, exchange in made:
        await exchange.exchange()
    for uses, exchange in made:
        exchange._counted_at = -SIGN_OF_LIFE  # the next one is due
        await exchange.exchange()
        assert uses.processes == number
    return made


async def test_processes_that_hear_nothing_of_each_other_let_through_one_limit_together(engine: AsyncEngine) -> None:
    (one, _), (two, _), (three, _) = await processes(engine, 3)
    assert QUOTA <= flood(one) + flood(two) + flood(three) <= QUOTA + 2


async def test_what_one_process_lets_through_no_other_does(engine: AsyncEngine) -> None:
    (one, of_one), (two, of_two) = await processes(engine, 2)
    through = flood(one)
    assert through == QUOTA / 2
    await of_one.exchange()
    ask(two)
    await of_two.exchange()
    through += 1 + flood(two)
    await of_two.exchange()
    await of_one.exchange()
    assert flood(two) <= 1 + QUOTA / 4
    assert through <= QUOTA


async def test_a_caller_of_one_process_gets_the_whole_limit(engine: AsyncEngine) -> None:
    (one, of_one), _ = await processes(engine, 2)
    through = 0
    for _ in range(10):
        through += flood(one)
        assert one.is_urgent.is_set() or through > QUOTA - 15
        await of_one.exchange()
    assert QUOTA - 1 <= through <= QUOTA + 1


async def test_a_process_that_starts_again_goes_on_with_the_same_limit(engine: AsyncEngine) -> None:
    [(one, of_one)] = await processes(engine, 1)
    assert QUOTA <= flood(one) <= QUOTA + 1
    await of_one.exchange()
    after = RateUses()
    of_after = UseExchange(database.autocommit(engine), after)
    assert ask(after)  # it does not know the caller yet
    await of_after.exchange()
    assert not ask(after)


async def test_while_the_database_is_away_each_process_keeps_its_share(engine: AsyncEngine, clock: Clock) -> None:
    made = await processes(engine, 2)
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE rate_uses RENAME TO away"))
    through = 0
    for _ in range(QUOTA):
        for uses, exchange in made:
            through += flood(uses)
            with pytest.raises(DBAPIError):
                await exchange.exchange()
        clock.now += 1
    assert 2 * QUOTA - 2 <= through <= 2 * QUOTA + 2  # what was there, and what came back in the time
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE away RENAME TO rate_uses"))
    for _, exchange in made:
        await exchange.exchange()
    async with engine.connect() as connection:
        ahead = func.extract("epoch", RateUse.busy_until - func.now())
        assert await connection.scalar(select(ahead)) == pytest.approx(WINDOW, abs=5)


async def test_nobody_waits_long_after_processes_that_did_not_know_of_each_other(engine: AsyncEngine) -> None:
    for _ in range(4):
        uses = RateUses()
        assert flood(uses) >= QUOTA
        await UseExchange(database.autocommit(engine), uses).exchange()
    assert uses.find("reads", "ada", is_known=True).until - now() <= WINDOW + LONGEST_DEBT


async def test_what_no_longer_counts_is_deleted(engine: AsyncEngine) -> None:
    [(uses, exchange)] = await processes(engine, 1)
    assert ask(uses, "ada")
    assert ask(uses, "bob")
    await exchange.exchange()
    async with engine.begin() as tx:
        await tx.execute(text("UPDATE rate_uses SET busy_until = now() - interval '1 min' WHERE key LIKE '% ada'"))
        await tx.execute(text("INSERT INTO api_processes VALUES (gen_random_uuid(), now() - interval '1 min')"))
    exchange._counted_at = -SIGN_OF_LIFE
    await exchange.exchange()
    assert uses.processes == 1
    async with engine.connect() as connection:
        assert (await connection.scalars(select(RateUse.key))).all() == ["reads bob"]
        assert await connection.scalar(select(func.count()).select_from(APIProcess)) == 1


class Shared:
    """What the statement of domain/data/rate_limits.py does, on the clock of the test."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = 0.0

    def exchange(self, uses: RateUses) -> None:
        """Exchange the uses of one process."""
        at = self._clock.now
        for key, (seconds, age) in uses.tell().items():
            self._until = min(max(self._until, at - age) + seconds, at + WINDOW + LONGEST_DEBT)
            uses.hear({key: self._until - at})


def simulate(clock: Clock, random: Random, weights: list[int], quota: int, rate: float) -> Iterator[float]:
    """The moments of the requests that pass, of ten times the limit that are sent at random to these processes."""
    all_uses, shared = [RateUses() for _ in weights], Shared(clock)
    due = [clock.now + random.random() for _ in weights]
    for uses in all_uses:
        uses.processes = len(weights)
    end = clock.now + 10 * quota / rate
    while clock.now < end:
        clock.now += random.expovariate(rate)
        for number, uses in enumerate(all_uses):
            if clock.now >= due[number] - (1 - SHORTEST_INTERVAL) * uses.is_urgent.is_set():
                shared.exchange(uses)
                due[number] = clock.now + 1
        [uses] = random.choices(all_uses, weights)
        if ask(uses, quota=quota):
            yield clock.now


@pytest.mark.parametrize("rate", [50, 2000])
@pytest.mark.parametrize("weights", [[1, 1], [9, 1], [1, 0], [1, 1, 1, 1], [10, 1, 1, 1], [1, 0, 0, 0]])
def test_all_processes_together_keep_the_limit_within_a_twentieth(
    clock: Clock, weights: list[int], rate: float
) -> None:
    """In any stretch of time no more pass than the limit, what comes back meanwhile, and a twentieth of the limit."""
    quota, started_at = 3000, clock.now
    passed = list(simulate(clock, Random(17), weights, quota, rate))
    cost = WINDOW / quota
    assert len(passed) == pytest.approx(quota + (clock.now - started_at) / cost, abs=quota / 20)
    least = worst = 0.0
    for number, at in enumerate(passed):
        beyond = number - (at - started_at) / cost
        least = min(least, beyond)
        worst = max(worst, beyond - least + 1 - quota)
    assert worst <= quota / 20


def test_a_flood_from_made_up_addresses_takes_bounded_memory_and_pushes_nobody_out(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_uses, "CAPACITY", 100)
    uses = RateUses()
    while ask(uses, "real", is_known=False):
        pass
    assert ask(uses, "ada")
    through = sum(ask(uses, f"made-up-{n}", is_known=False) for n in range(10_000))
    assert through <= 100 + QUOTA  # one each as long as there was room, and then those of a single caller
    assert len(uses) <= 100 + 2
    assert len(uses.tell()) <= 100 + 2
    assert not ask(uses, "real", is_known=False)
    assert ask(uses, "bob")  # users have room of their own
    clock.now += 2
    assert sum(ask(uses, f"later-{n}", is_known=False) for n in range(10)) == 10
    clock.now += WINDOW
    for n in range(200):
        clock.now += 1
        ask(uses, f"even-later-{n}", is_known=False)
        uses.tell()
    assert len(uses) < 10  # what no longer counts is forgotten


def test_the_greatest_uses_are_told_first() -> None:
    uses = RateUses()
    for n in range(MOST_TOLD + 100):
        ask(uses, str(n))
    for _ in range(5):
        ask(uses, "much")
    told = uses.tell()
    assert (len(told), told["reads much"].seconds) == (MOST_TOLD, 5)
    assert uses.has_untold.is_set()
    assert len(uses.tell()) == 101
    assert not uses.has_untold.is_set()
    assert MOST_TOLD < CAPACITY


async def test_uses_from_before_the_clock_was_set_back_count_for_nothing(engine: AsyncEngine) -> None:
    [(uses, exchange)] = await processes(engine, 1)
    assert ask(uses)
    await exchange.exchange()
    async with engine.begin() as tx:
        hour = timedelta(hours=1)
        await tx.execute(update(RateUse).values(since=RateUse.since + hour, busy_until=RateUse.busy_until + hour))
    assert ask(uses)
    await exchange.exchange()
    assert ask(uses)
