"""Streams of events send small parts, in turn: what many of them hold, and for how long they keep others waiting."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background.changes import Changes
from api.background.listeners import Change
from api.routes.events import render
from api.web import event_stream
from api.web.event_stream import PART, _in_turn, _parts
from api.web.security import Caller
from domain.data.accounts import ProgramToken
from domain.data.models import VM
from tests.api.conftest import Person
from tests.api.test_program_tokens import make
from tests.support.rows import add_vm

COUNT = 40
LARGE = {f"k{number:02}": "x" * 255 for number in range(64)}


async def add_vms(engine: AsyncEngine, owner: Person, labels: dict[str, str]) -> None:
    """Insert VMs in one transaction, so that one look finds them."""
    async with engine.begin() as tx:
        ids = [(await add_vm(tx, owner.user)).id for _ in range(COUNT)]
        await tx.execute(update(VM).where(VM.id.in_(ids)).values(labels=labels))


@contextlib.asynccontextmanager
async def stream_of(app: FastAPI, caller: Caller, rendered: list[Change] | None = None) -> AsyncIterator[Any]:
    """The parts of a stream that has its first id."""

    def noted(change: Change) -> bytes:
        if rendered is not None:
            rendered.append(change)
        return render(change)

    async with contextlib.aclosing(_parts(app.state.vmapi, caller, None, noted, lambda _: True)) as parts:
        assert await anext(parts) == b"retry: 1000\n\n"
        assert b"\nid: " in await anext(parts)
        yield parts


async def parts_with(parts: Any, count: int) -> list[bytes]:
    """The next parts, until they have so many events."""
    found = list[bytes]()
    async with asyncio.timeout(20):
        while sum(part.count(b"event: vm\n") for part in found) < count:
            found.append(await anext(parts))
    return [part for part in found if not part.startswith(b":")]


async def test_a_part_is_small_or_one_event_which_all_streams_share(
    app: FastAPI, ada: Person, engine: AsyncEngine
) -> None:
    rendered = list[Change]()
    async with stream_of(app, ada.caller, rendered) as one, stream_of(app, ada.caller, rendered) as other:
        await add_vms(engine, ada, LARGE)
        ones, others = [await parts_with(parts, COUNT) for parts in (one, other)]
        assert len(rendered) == len({change.row.id for change in rendered}) == COUNT
        assert [part.count(b"event: vm\n") for part in ones] == [1] * COUNT
        assert len(ones[0]) > PART
        assert all(part is same for part, same in zip(ones[:-1], others[:-1], strict=True))
        assert ones[-1].startswith(b"id: ")


async def test_small_events_share_a_part(app: FastAPI, ada: Person, engine: AsyncEngine) -> None:
    async with stream_of(app, ada.caller) as parts:
        await add_vms(engine, ada, {})
        found = await parts_with(parts, COUNT)
        assert 1 < len(found) < COUNT // 4
        assert max(map(len, found)) <= PART


async def test_a_quiet_stream_keeps_no_change(app: FastAPI, ada: Person, engine: AsyncEngine) -> None:
    hub: Changes = app.state.vmapi.changes
    async with stream_of(app, ada.caller) as parts:
        await add_vms(engine, ada, LARGE)
        await parts_with(parts, COUNT // 2)
        assert len(hub._told) == COUNT
        await parts_with(parts, COUNT // 2)
        waiting = asyncio.create_task(anext(parts))
        await asyncio.sleep(0.1)
        assert len(hub._told) == 0
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_streams_that_come_back_share_what_they_read(app: FastAPI, ada: Person, engine: AsyncEngine) -> None:
    hub: Changes = app.state.vmapi.changes
    with hub.follow(ada.user.id, None) as stream:
        await stream.next(10)
        last = stream.position
    await add_vms(engine, ada, {})
    with hub.follow(ada.user.id, last) as one, hub.follow(ada.user.id, last) as other:
        changes = [[change for news in await each.next(10) or [] for change in news.changes] for each in (one, other)]
    assert len(changes[0]) == COUNT
    assert {id(change) for change in changes[0]} == {id(change) for change in changes[1]}


async def test_other_tasks_run_between_the_parts_of_many_streams() -> None:
    turns, made, ticks = asyncio.Semaphore(2), list[int](), 0

    async def read_all() -> None:
        async for _ in _in_turn(turns, (made.append(ticks) or b"part" for _ in range(5))):  # type: ignore[func-returns-value]
            pass

    streams = asyncio.gather(*(read_all() for _ in range(20)))
    while not streams.done():
        await asyncio.sleep(0)
        ticks += 1
    assert len(made) == 100
    assert max(made.count(tick) for tick in made) <= 2


@pytest.mark.parametrize("end", ["token", "stream"])
async def test_a_stream_that_is_read_slowly_ends_between_two_parts(
    app: FastAPI, ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    late, looks = 0.0, 0
    tokens = app.state.vmapi.program_tokens
    works = tokens.works

    async def counted(caller: Caller) -> bool:
        nonlocal looks
        looks += 1
        return bool(await works(caller))

    clock = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + late)
    monkeypatch.setattr(event_stream, "time", clock)
    monkeypatch.setattr(event_stream, "CHECK_AGAIN", 100.0)
    monkeypatch.setattr(tokens, "works", counted)
    caller = await tokens.find(await make(ada.http)) if end == "token" else ada.caller
    async with stream_of(app, caller) as parts:
        looks = 0
        await add_vms(engine, ada, LARGE)
        await parts_with(parts, 10)
        if end == "token":
            assert looks == 1  # one for all that was found together
            async with engine.begin() as tx:
                await tx.execute(delete(ProgramToken))
            late = 101.0
        else:
            late = event_stream.LONGEST_STREAM
        with pytest.raises(StopAsyncIteration):
            await anext(parts)
