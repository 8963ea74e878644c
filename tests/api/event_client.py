"""A client of server-sent events for tests."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import FastAPI

from api.background.listeners import Change
from api.routes.events import render
from api.web.event_stream import _parts
from tests.api.conftest import Person


@dataclass
class Event:
    """One event as a client reads it; its kind is `comment` if it has no data."""

    kind: str
    data: dict[str, Any]
    id: str | None


class Client:
    """A client that reads a stream as the standard says."""

    def __init__(self, blocks: AsyncIterator[bytes]) -> None:
        self._blocks = blocks
        self._read: list[Event] = []
        self.last_id: str | None = None

    async def next(self, kind: str | None = None) -> Event:
        """The next event, or the next of a kind."""
        async with asyncio.timeout(10):
            while True:
                while not self._read:
                    self._parse((await anext(self._blocks)).decode())
                event = self._read.pop(0)
                if event.id:
                    self.last_id = event.id
                if kind in {None, event.kind}:
                    return event

    def _parse(self, text: str) -> None:
        assert text.endswith("\n\n")
        for block in text.removesuffix("\n\n").split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            data = json.loads(fields.get("data", "{}"))
            self._read.append(Event(fields.get("event", "comment"), data, fields.get("id")))


@contextlib.asynccontextmanager
async def following(
    app: FastAPI, someone: Person, last_id: str | None = None, vm_id: UUID | None = None
) -> AsyncIterator[Client]:
    """A client that follows the events of a user, and has begun."""

    def concerns(change: Change) -> bool:
        return vm_id is None or vm_id == (change.row.id if change.kind == "vm" else change.row.vm_id)

    events = _parts(app.state.vmapi, someone.caller, last_id, render, concerns)
    client = Client(events)
    await client.next("comment")  # retry
    async with contextlib.aclosing(events):
        yield client
