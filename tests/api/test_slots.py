"""The slots: so many inside, so many waiting, everybody in turn, and nobody with all of it."""

import asyncio
import contextlib
from random import Random

import pytest

from api.web import admission
from api.web.admission import NoSlotError, Slots


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals need no time."""
    monkeypatch.setattr(admission, "PACE", 0.0)


class Crowd:
    """Callers who come to a slots one after the other; `inside` are those let in, in that order."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.inside: list[str] = []
        self.refused: list[tuple[str, str]] = []

    async def come(self, *callers: str) -> list[asyncio.Task[None]]:
        """Each comes to the slots and stays there until let in or refused."""
        tasks = [asyncio.create_task(self._come(caller)) for caller in callers]
        for _ in range(2):  # let in, or refused after a pause
            await asyncio.sleep(0)
        return tasks

    async def leave(self, *callers: str) -> None:
        """Give places back, one after the other."""
        for caller in callers:
            self.slots.release(caller)
            await asyncio.sleep(0)

    async def _come(self, caller: str) -> None:
        try:
            await self.slots.acquire(caller)
        except NoSlotError as refused:
            self.refused.append((caller, refused.code))
        else:
            self.inside.append(caller)


async def test_one_caller_gets_half_of_the_places_and_half_of_the_waiting_room() -> None:
    crowd = Crowd(Slots(4, 6))
    await crowd.come(*["ada"] * 6, "bob")
    assert crowd.inside == ["ada", "ada", "bob"]
    assert crowd.refused == [("ada", "too_many_requests")]


async def test_when_all_is_full_it_says_so_to_whoever_has_nothing_yet() -> None:
    crowd = Crowd(Slots(2, 4))
    await crowd.come(*["ada"] * 3, *["bob"] * 3, "eve", "ada")
    assert crowd.inside == ["ada", "bob"]
    assert crowd.refused == [("eve", "overloaded"), ("ada", "too_many_requests")]


async def test_everybody_comes_in_in_turn_however_many_somebody_has_waiting() -> None:
    crowd = Crowd(Slots(2, 20))
    await crowd.come("ada", "bob", *["ada"] * 5, *["bob"] * 5, "eve")
    crowd.inside.clear()
    for _ in range(3):
        await crowd.leave("ada")
        await crowd.leave(crowd.inside[-1] if crowd.inside[-1] == "eve" else "bob")
    assert "eve" in crowd.inside[:3]
    assert {crowd.inside.count(caller) for caller in ("ada", "bob")} <= {2, 3}


async def test_whoever_gives_up_leaves_no_place_taken() -> None:
    crowd = Crowd(Slots(1, 6))
    _, early, late, _ = await crowd.come("ada", "bob", "eve", "ann")
    early.cancel()
    await asyncio.sleep(0)
    crowd.slots.release("ada")
    late.cancel()  # in the same moment as its turn comes
    await asyncio.gather(early, late, return_exceptions=True)
    await asyncio.sleep(0)
    assert crowd.inside == ["ada", "ann"]
    await crowd.leave("ann")
    await crowd.come("bob", "eve")
    assert crowd.inside == ["ada", "ann", "bob"]


async def test_a_place_for_somebody_who_has_just_given_up_goes_to_the_next() -> None:
    crowd = Crowd(Slots(1, 12))
    _, gives_up, *_ = await crowd.come("ada", "bob", "bob", "eve")
    gives_up.cancel()
    crowd.slots.release("ada")  # before the other has noticed
    await asyncio.gather(gives_up, return_exceptions=True)
    await asyncio.sleep(0)
    assert crowd.inside == ["ada", "eve"]
    await crowd.leave("eve", "bob")
    await crowd.come("ann")
    assert crowd.inside == ["ada", "eve", "bob", "ann"]


async def test_after_any_crowd_all_places_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PATIENCE", 0.002)
    random, busy = Random(1), Slots(4, 12)

    async def visit(caller: str) -> None:
        with contextlib.suppress(NoSlotError, TimeoutError):
            async with asyncio.timeout(random.uniform(0, 0.004)), busy.hold(caller):
                await asyncio.sleep(random.uniform(0, 0.003))

    for _ in range(100):
        await asyncio.gather(*(visit(random.choice("abc")) for _ in range(12)))
    crowd = Crowd(busy)
    await crowd.come("ada", "ada", "bob", "bob", "eve")
    assert crowd.inside == ["ada", "ada", "bob", "bob"]


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PATIENCE", 0.01)
    crowd = Crowd(Slots(1, 2))
    [_, waiting] = await crowd.come("ada", "bob")
    await waiting
    assert crowd.refused == [("bob", "overloaded")]
    await crowd.leave("ada")
    await crowd.come("bob")
    assert crowd.inside == ["ada", "bob"]
