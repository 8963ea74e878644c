"""Turns to read large bodies."""

import asyncio
import gc
import threading

import pytest

from api.web import reading, threads
from api.web.problems import ProblemError
from api.web.reading import Reading


async def read(  # noqa: PLR0913, PLR0917 - what differs between turns
    turns: Reading, caller: str, order: list[str], seconds: float = 0.0, origin: str = "", size: int = 10_000
) -> None:
    """Have a turn of so many seconds of the clock."""
    async with turns.turn(caller, -1.0, origin or f"address of {caller}", size):
        order.append(caller)
        Clock.now += seconds
        await asyncio.sleep(0)


class Clock:
    """The clock of the turns."""

    now = 1000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests move the clock."""
    monkeypatch.setattr(reading, "monotonic", lambda: Clock.now)


async def test_who_has_used_little_lately_goes_first() -> None:
    turns, order = Reading(), list[str]()
    heavy = [f"heavy-{number}" for number in range(20)]
    for number, caller in enumerate(heavy):
        await read(turns, caller, [], 0.5 + number / 100)
    await asyncio.gather(*(read(turns, caller, order, 0.5) for caller in heavy), read(turns, "light", order))
    assert order.index("light") == 1  # behind the one whose turn it was
    assert order.index("heavy-1") < order.index("heavy-19")


async def test_a_small_body_goes_before_a_large_one() -> None:
    """Else many accounts that have sent nothing yet would keep a user waiting who has sent something."""
    turns, order = Reading(), list[str]()
    await read(turns, "ada", [], 0.1)
    accounts = [f"account-{number}" for number in range(30)]
    await asyncio.gather(*(read(turns, each, order, 0.2, size=800_000) for each in accounts), read(turns, "ada", order))
    assert order.index("ada") == 1


async def test_new_accounts_of_an_address_that_has_used_much_go_last() -> None:
    turns, order = Reading(), list[str]()
    await read(turns, "ada", [], 0.5)
    await read(turns, "mallory", [], 1.0, "192.0.2.1")
    accounts = [f"account-{number}" for number in range(30)]
    await asyncio.gather(*(read(turns, each, order, 0.2, "192.0.2.1") for each in accounts), read(turns, "ada", order))
    assert order.index("ada") == 1


async def test_a_burst_of_one_caller_finds_a_place() -> None:
    turns, order = Reading(), list[str]()
    await asyncio.gather(*(read(turns, "ada", order) for _ in range(500)))
    assert len(order) == 500


async def test_what_was_used_is_forgotten() -> None:
    turns = Reading()
    await read(turns, "ada", [], 4.0)
    assert turns._seconds("ada") == pytest.approx(4.0)
    Clock.now += 20
    assert turns._seconds("ada") == pytest.approx(1.0)
    for number in range(reading._MOST_REMEMBERED):
        await read(turns, str(number), [], 1.0, "192.0.2.1")
    assert (len(turns._used), turns._seconds("ada")) == (reading._MOST_REMEMBERED, 0.0)
    assert turns.slots.free_of("ada") == turns.slots.most_of_caller


@pytest.mark.parametrize("error", [ProblemError("malformed_body", "It is not JSON."), None])
async def test_a_call_in_a_thread_that_fails_after_its_cancel_is_not_logged(error: Exception | None) -> None:
    begun, go_on, logged = threading.Event(), threading.Event(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))

    def work() -> None:
        begun.set()
        go_on.wait(60)
        if error:
            raise error

    calling = asyncio.create_task(threads.call(work))
    await asyncio.to_thread(begun.wait, 60)
    calling.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait([calling])
    assert calling.cancelled()
    del calling
    gc.collect()
    assert logged == []
