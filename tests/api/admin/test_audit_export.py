"""The audit as one file: complete, in order, only while its reader may have it, and cut if the rest is missing."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Message

from api.routes import audit as routes
from api.web.dependencies import ProcessState
from api.web.security import Caller
from domain.data import outages
from domain.data.accounts import ProgramToken, User
from domain.data.audit import AuditEvent
from domain.rules.accounts import Role
from tests.api.admin.test_audit import events
from tests.api.conftest import Person


async def test_the_export_has_all_events_in_order_and_reads_them_in_batches(
    root: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "BATCH", 10)
    async with engine.begin() as tx:
        row = {"event": "login", "outcome": "succeeded", "user_agent": "line\nbreak"}
        await tx.execute(insert(AuditEvent), [row | {"actor": f"user-{number:02}"} for number in range(30)])
    answer: httpx.Response = await root.http.get("/admin/audit/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonl")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["actor"] for line in lines] == [f"user-{number:02}" for number in range(30)]
    assert lines == await events(root)
    one = await root.http.get("/admin/audit/export?actor=user-07")
    assert [json.loads(line)["actor"] for line in one.text.splitlines()] == ["user-07"]
    assert (await root.http.get("/admin/audit/export?actor=nobody")).text == ""


@pytest.mark.parametrize("end", ["demote", "disable", "delete the token", "let the token end"])
async def test_an_export_ends_with_the_rights_of_its_admin(
    app: FastAPI, root: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A client that reads slowly would otherwise get what happens later, too."""
    monkeypatch.setattr(routes, "BATCH", 10)
    async with engine.begin() as tx:
        await tx.execute(insert(AuditEvent), [{"event": "login", "outcome": "succeeded"}] * 30)
    secret = (await root.http.post("/tokens", json={"name": "robot", "scopes": ["read"]})).json()["token"]
    process: ProcessState = app.state.vmapi
    program: Caller = await process.program_tokens.find(secret)
    caller = program if end == "delete the token" else root.caller
    if end == "let the token end":
        caller = replace(root.caller, expires_at=time.time() + 1)
    lines = routes._lines(process, caller, select(AuditEvent))
    assert (await anext(lines)).count(b"\n") == 10
    assert (await anext(lines)).count(b"\n") == 10
    async with engine.begin() as tx:
        match end:
            case "demote":
                await tx.execute(update(User).values(role=Role.USER))
            case "disable":
                await tx.execute(update(User).values(disabled_at=func.now(), epoch=1))
            case "delete the token":
                await tx.execute(delete(ProgramToken))
            case _:
                await asyncio.sleep(1.1)
    assert [each async for each in lines] == []


async def test_an_export_is_cut_if_the_database_goes_away_and_the_log_has_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that ended in the usual way would look complete."""

    async def rest() -> AsyncIterator[bytes]:
        yield b"2"
        raise ConnectionResetError("gone")

    async def receive() -> Message:
        return await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    monkeypatch.setattr(outages, "log", outages.OutageLog())
    sent: list[Message] = []
    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    await routes.Lines(routes._all(b"1", rest()))(scope, receive, send)
    assert [message.get("body") for message in sent] == [None, b"1", b"2"]
    assert sent[-1]["more_body"] is True
    assert caplog.messages == ["PostgreSQL is unavailable, work waits for it: ConnectionResetError: gone"]
