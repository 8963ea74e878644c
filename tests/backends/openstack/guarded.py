"""Calls through the guarded path, and what the ledger and the cloud saw of them."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack.calls import Accepted, Calls, Found, Request
from activities.backends.openstack.connection import THREADS, Cloud
from activities.backends.openstack.errors import Service
from activities.backends.openstack.schema import calls as table
from activities.backends.protocol import Token
from tests.backends.openstack.cloud_server import CloudServer, Reply

CREATED = Reply(202, {"server": {"id": "cloud-id"}})


@dataclass
class Creation:
    """Creates a server. `found` is what the look for it finds; the lists say what it was asked."""

    token: Token = field(default_factory=lambda: Token(uuid4(), "spawning"))
    found: Found | None = None
    attempts: list[int] = field(default_factory=list)
    looks: list[datetime | None] = field(default_factory=list)

    async def run(self, calls: Calls) -> Accepted:
        """Make the call."""
        return await calls.call(self.token, "create_server", self._send, self._find)

    def _send(self, attempt: int) -> Request:
        self.attempts.append(attempt)
        body = {"server": {"name": f"attempt-{attempt}"}}
        return Request(Service.COMPUTE, "POST", "/servers", body, lambda body: body["server"]["id"])

    async def _find(self, since: datetime | None) -> Found | None:
        self.looks.append(since)
        return self.found


async def delete(calls: Calls, token: Token) -> Accepted:
    """Delete a server."""

    async def find(since: datetime | None) -> Found | None:
        del since
        return None

    return await calls.call(token, "delete_server", lambda _: Request(Service.COMPUTE, "DELETE", "/servers/1"), find)


def replies(server: CloudServer, *replies: Reply) -> None:
    """How the cloud answers the next creations."""
    server.add(Service.COMPUTE, "POST", "/servers", *replies)


def sent(server: CloudServer) -> int:
    """How many creations the cloud received."""
    return len(server.seen("POST", "/servers"))


async def rows(engine: AsyncEngine, token: Token) -> list[tuple[Any, ...]]:
    """The ledger's rows of a call: attempt, outcome, the cloud's id, the error."""
    columns = (table.c.attempt, table.c.outcome, table.c.cloud_id, table.c.code)
    statement = select(*columns).where(table.c.operation_id == token.operation_id).order_by(table.c.attempt)
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(statement)]


async def let_time_pass(engine: AsyncEngine, seconds: float) -> None:
    """Make everything in the ledger so much older."""
    times = (table.c.sent_at, table.c.in_flight_until, table.c.touched_at)
    async with engine.begin() as tx:
        await tx.execute(update(table).values({time: time - timedelta(seconds=seconds) for time in times}))


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - threads change it
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def all_threads_busy(cloud: Cloud, server: CloudServer) -> AsyncIterator[None]:
    """Keep all threads of the connection waiting for answers."""
    held = threading.Event()
    server.add(Service.IMAGE, "GET", "/images", *[Reply(200, {}, held_by=held)] * THREADS)
    reads = [asyncio.create_task(cloud.get(Service.IMAGE, "/images")) for _ in range(THREADS)]
    await until(lambda: len(server.seen("GET", "/images")) == THREADS)
    try:
        yield
    finally:
        held.set()
        await asyncio.gather(*reads)
