"""Streams of events end when the token does with which they began."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import delete, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.routes.events import render
from api.web.dependencies import ProcessState
from api.web.event_stream import follow
from api.web.oidc import ProviderCaller
from api.web.security import Caller
from domain.data.accounts import ProgramToken
from tests.api.conftest import Person
from tests.api.test_program_tokens import make

ENDS: dict[str, Any] = {
    "deleted": delete(ProgramToken),
    "expired": update(ProgramToken).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)),
    "not found because of an outage": text("ALTER TABLE program_tokens RENAME TO renamed"),
}


async def blocks_of(app: FastAPI, caller: Caller) -> Any:
    """The blocks of a stream that is open. It tells of changes from its first id on."""
    process: ProcessState = app.state.vmapi
    stream = await follow(process, caller, None, render, lambda _: True)
    blocks = aiter(stream.body_iterator)
    assert await anext(blocks) == b"retry: 1000\n\n"
    return blocks


async def next_event(blocks: Any) -> bytes:
    """The next block that is no comment."""
    async with asyncio.timeout(10):
        while (block := bytes(await anext(blocks))).startswith(b":"):
            pass
    return block


@pytest.mark.parametrize("kind", ["login", "provider"])
async def test_a_stream_does_not_outlive_its_access_token(app: FastAPI, ada: Person, kind: str) -> None:
    now = time.time()
    callers: dict[str, Callable[[float], Caller]] = {
        "login": lambda end: replace(ada.caller, expires_at=end),
        "provider": lambda end: ProviderCaller(ada.user.id, ada.user.username, int(end), None, time.monotonic()),
    }
    ended, lasting = [await blocks_of(app, callers[kind](now + life)) for life in (-1, 60)]
    assert b"\nid: " in bytes(await anext(lasting))
    vm = await ada.create()
    assert vm["id"].encode() in await next_event(lasting)
    await lasting.aclose()
    with pytest.raises(StopAsyncIteration):
        await next_event(ended)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_a_stream_ends_with_its_token_and_no_event_is_sent_after_that(
    app: FastAPI, ada: Person, engine: AsyncEngine, end: Any
) -> None:
    token = await make(ada.http)
    program = await blocks_of(app, await app.state.vmapi.program_tokens.find(token))
    person = await blocks_of(app, ada.caller)
    for blocks in (program, person):
        assert b"\nid: " in bytes(await anext(blocks))
    vm = await ada.create()
    for blocks in (program, person):
        assert vm["id"].encode() in await next_event(blocks)
    async with engine.begin() as tx:
        await tx.execute(end)
    await ada.create("web-2")
    with pytest.raises(StopAsyncIteration):
        await next_event(program)
    assert b"web-2" in await next_event(person)
    await person.aclose()
