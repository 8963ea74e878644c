"""Slots: their limits, the fair share of each caller, the round-robin queue, and callers that give up."""

import asyncio
import contextlib
from random import Random

import pytest

from api.web import slots as module
from api.web.dependencies import CONSOLE_QUEUE, CONSOLE_SLOTS
from api.web.slots import NoSlotError, Slots


class Callers:
    """Callers that ask for slots one after another; `admitted` and `refused` are in the order of the answers."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.admitted: list[str] = []
        self.refused: list[tuple[str, str]] = []

    async def ask(self, *callers: str, rank: float = 0.0) -> list[asyncio.Task[None]]:
        """Let each caller ask for a slot; it then holds the slot, waits, or is refused."""
        tasks = [asyncio.create_task(self._ask(caller, rank)) for caller in callers]
        for _ in range(2):  # the first gives slots, the second ends the waits of those that lose their places
            await asyncio.sleep(0)
        return tasks

    async def release(self, *callers: str) -> None:
        """Let each caller release a slot, one after another."""
        for caller in callers:
            self.slots.release(caller)
            await asyncio.sleep(0)

    async def _ask(self, caller: str, rank: float) -> None:
        try:
            await self.slots.acquire(caller, rank)
        except NoSlotError as error:
            self.refused.append((caller, error.code))
        else:
            self.admitted.append(caller)


async def test_one_caller_gets_half_of_the_slots_and_half_of_the_queue() -> None:
    callers = Callers(Slots(4, 6))
    await callers.ask(*["ada"] * 6, "bob")
    assert callers.admitted == ["ada", "ada", "bob"]
    assert callers.refused == [("ada", "too_many_requests")]


async def test_a_new_caller_takes_a_place_in_a_full_queue_from_the_caller_that_has_the_most() -> None:
    callers = Callers(Slots(2, 4))
    await callers.ask(*["ada"] * 3, *["bob"] * 3, "eve", "ada")
    assert callers.admitted == ["ada", "bob"]
    assert sorted(callers.refused) == [("ada", "overloaded"), ("ada", "too_many_requests")]
    await callers.release("ada", "bob", "bob")
    assert sorted(callers.admitted) == ["ada", "ada", "bob", "bob", "eve"]


async def test_a_queue_of_callers_with_one_place_each_refuses_a_new_caller_as_overloaded() -> None:
    callers = Callers(Slots(1, 3))
    await callers.ask("ada", "bob", "eve", "ann", "joe")
    assert callers.refused == [("joe", "overloaded")]


async def test_a_caller_of_lower_rank_takes_a_place_and_is_served_first() -> None:
    callers = Callers(Slots(1, 3))
    await callers.ask("ada")
    await callers.ask("bob", "eve", "ann", rank=1.5)
    await callers.ask("joe", rank=0.25)
    assert callers.refused == [("bob", "too_many_requests")]
    await callers.release("ada", "joe", "eve")
    assert callers.admitted == ["ada", "joe", "eve", "ann"]


async def test_preferred_callers_get_every_other_slot_while_others_wait() -> None:
    callers = Callers(Slots(1, 12))
    await callers.ask("ada")
    await callers.ask("bob", "eve", "bob", "eve", "bob", "eve", rank=-0.5)
    await callers.ask("ann", "joe", rank=2.0)
    for _ in range(7):
        await callers.release(callers.admitted[-1])
    assert callers.admitted == ["ada", "bob", "ann", "eve", "joe", "bob", "eve", "bob"]


@pytest.mark.parametrize(("first", "then"), [(-1.0, 2.0), (2.0, -1.0)])
async def test_preferred_callers_and_others_have_half_of_a_full_queue_each(first: float, then: float) -> None:
    callers = Callers(Slots(1, 4))
    await callers.ask("ada")
    await callers.ask("bob", "eve", "ann", "joe", rank=first)
    await callers.ask("max", "sue", "tom", rank=then)
    await callers.ask("kim", rank=first)
    lost = [(name, "too_many_requests") for name in ("bob", "eve")]
    assert sorted(callers.refused) == sorted([*lost, ("tom", "overloaded"), ("kim", "overloaded")])
    await callers.ask("pam", rank=then - 1)  # within its kind, whoever demands less takes a place
    assert callers.refused[4:] == [("max", "too_many_requests")]


async def test_twenty_users_who_ask_for_four_consoles_each_leave_a_place_for_another() -> None:
    callers = Callers(Slots(CONSOLE_SLOTS, CONSOLE_QUEUE))
    await callers.ask(*[f"user-{number}" for _ in range(4) for number in range(20)])
    await callers.ask("ada")
    await callers.release(*[f"user-{number}" for number in range(CONSOLE_SLOTS)] * 4)
    assert "ada" in callers.admitted


async def test_slots_go_round_robin_to_the_callers_that_wait() -> None:
    callers = Callers(Slots(2, 20))
    await callers.ask("ada", "bob", *["ada"] * 5, *["bob"] * 5, "eve")
    callers.admitted.clear()
    for _ in range(3):
        await callers.release("ada")
        await callers.release(callers.admitted[-1] if callers.admitted[-1] == "eve" else "bob")
    assert "eve" in callers.admitted[:3]
    assert {callers.admitted.count(caller) for caller in ("ada", "bob")} <= {2, 3}


async def test_a_caller_that_gives_up_frees_its_slot() -> None:
    callers = Callers(Slots(1, 6))
    _, early, late, _ = await callers.ask("ada", "bob", "eve", "ann")
    early.cancel()
    await asyncio.sleep(0)
    callers.slots.release("ada")
    late.cancel()  # after the slot was granted to it, and before it resumes
    await asyncio.gather(early, late, return_exceptions=True)
    await asyncio.sleep(0)
    assert callers.admitted == ["ada", "ann"]
    await callers.release("ann")
    await callers.ask("bob", "eve")
    assert callers.admitted == ["ada", "ann", "bob"]


async def test_a_slot_granted_to_a_caller_that_has_just_given_up_goes_to_the_next() -> None:
    callers = Callers(Slots(1, 12))
    _, canceled, *_ = await callers.ask("ada", "bob", "bob", "eve")
    canceled.cancel()
    callers.slots.release("ada")  # before the canceled task resumes
    await asyncio.gather(canceled, return_exceptions=True)
    await asyncio.sleep(0)
    assert callers.admitted == ["ada", "eve"]
    await callers.release("eve", "bob")
    await callers.ask("ann")
    assert callers.admitted == ["ada", "eve", "bob", "ann"]


async def test_all_slots_are_free_after_many_random_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOT_TIMEOUT", 0.002)
    random, slots = Random(1), Slots(4, 12)

    async def request(caller: str) -> None:
        with contextlib.suppress(NoSlotError, TimeoutError):
            async with asyncio.timeout(random.uniform(0, 0.004)), slots.hold(caller):
                await asyncio.sleep(random.uniform(0, 0.003))

    for _ in range(100):
        await asyncio.gather(*(request(random.choice("abc")) for _ in range(12)))
    callers = Callers(slots)
    await callers.ask("ada", "ada", "bob", "bob", "eve")
    assert callers.admitted == ["ada", "ada", "bob", "bob"]


async def test_a_wait_for_a_slot_ends_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOT_TIMEOUT", 0.01)
    callers = Callers(Slots(1, 2))
    [_, waiting] = await callers.ask("ada", "bob")
    await waiting
    assert callers.refused == [("bob", "overloaded")]
    await callers.release("ada")
    await callers.ask("bob")
    assert callers.admitted == ["ada", "bob"]
