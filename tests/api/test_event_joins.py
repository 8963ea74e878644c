"""Streams that come back all at once: they hold up nobody who waits, and each user's turn comes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background.changes import Changes
from domain.data.queries import update_vm
from domain.rules.states import Status
from tests.api.conftest import Person
from tests.api.event_client import following
from tests.api.vm_resources import vm_of

COST = 0.05  # seconds that a stream takes which comes back
STREAMS = 40


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """The users whose streams have come back, in order. Each costs a while, as one with many changes does."""
    users: list[UUID] = []
    original = Changes._missed

    async def slow(*arguments: Any) -> Any:
        if arguments[2].last is not None:
            await asyncio.sleep(COST)
            users.append(arguments[2].user_id)
        return await original(*arguments)

    monkeypatch.setattr(Changes, "_missed", slow)
    return users


@contextlib.asynccontextmanager
async def coming_back(app: FastAPI, someone: Person, number: int) -> AsyncIterator[None]:
    """So many streams of a user, which come back at once."""
    async with following(app, someone) as client:
        await client.next("comment")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(number):
            await stack.enter_async_context(following(app, someone, client.last_id))
        yield


async def test_streams_that_come_back_hold_up_nobody_who_waits(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine, joined: list[UUID]
) -> None:
    vm = await vm_of(bob, engine)
    async with coming_back(app, ada, STREAMS):
        waiting = asyncio.create_task(bob.http.get(f"/vms/{vm.id}?wait=30&for=SHUTOFF"))
        await asyncio.sleep(0.3)
        async with engine.begin() as tx:
            await update_vm(tx, vm.id, {"status": Status.SHUTOFF})
        changed_at = time.monotonic()
        assert (await waiting).json()["status"] == "SHUTOFF"
        assert time.monotonic() - changed_at < 1
        assert len(joined) < STREAMS


async def test_a_user_with_many_streams_keeps_nobody_else_from_coming_back(
    app: FastAPI, ada: Person, bob: Person, joined: list[UUID]
) -> None:
    async with coming_back(app, ada, STREAMS), coming_back(app, bob, 2):
        deadline = time.monotonic() + 10
        while joined.count(bob.user.id) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert joined.count(ada.user.id) < STREAMS / 2
