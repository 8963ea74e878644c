"""Two APIs with their dispatchers and two workers in one event loop, on real PostgreSQL and Temporal servers."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import httpx
from fastapi import FastAPI
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from temporalio.client import Client as TemporalClient

from activities.backends import load_backend
from activities.backends.protocol import ComputeBackend
from activities.recovery.reconciler import Reconciler
from domain import temporal
from domain.data import database
from domain.settings import Settings
from tests.api.conftest import person, running
from tests.faults.client import Client
from tests.faults.inprocess_seams import Seams
from worker import make_workers

TIMEOUT: Final = 20.0  # seconds: with many schedules at once nothing is quick
REPLACED: Final = 2  # APIs, and workers
DRAINED: Final = 20.0  # seconds


@dataclass
class Inprocess:
    """The parts; each of them runs until it is replaced."""

    settings: Settings
    operator: TemporalClient
    seams: Seams
    apis: list[FastAPI] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    _api_stacks: dict[int, contextlib.AsyncExitStack] = field(default_factory=dict)
    _worker_stacks: list[contextlib.AsyncExitStack] = field(default_factory=list)

    async def start(self) -> None:
        """Start all parts."""
        url = make_url(self.settings.database_url)
        host, name = str(url.query["host"]), url.database
        self._pool = await asyncpg.create_pool(host=host, user="postgres", database=name, min_size=1, max_size=4)
        for _ in range(REPLACED):
            await self._start_api()
            await self._start_worker()

    async def stop(self) -> None:
        """End all parts."""
        for stack in [*self._api_stacks.values(), *self._worker_stacks]:
            await _closed(stack)
        await self._pool.close()

    async def sql(self, query: str, *arguments: object) -> list[Any]:
        """Ask the database."""
        return list(await self._pool.fetch(query, *arguments))

    async def replace_api(self) -> None:
        """Shut the oldest API down, which gets no request any more, once another has taken its place."""
        await self._start_api()
        old = self.apis.pop(0)
        await self._api_stacks.pop(id(old)).aclose()
        self.done["an API is replaced"] += 1

    async def cut_database(self, which: int) -> None:
        """End some of the connections of APIs and workers, whatever they are doing."""
        some = "pid % 4 = $1" if which < 4 else "$1::int IS NOT NULL"
        query = f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = $2 AND {some}"""  # noqa: S608 - a constant
        self.done["connections to PostgreSQL are ended"] += len(await self.sql(query, which, self.settings.app_name))

    async def _start_api(self) -> None:
        stack = contextlib.AsyncExitStack()
        app = await stack.enter_async_context(running(self.settings))
        self._api_stacks[id(app)] = stack
        self.apis.append(app)

    async def _start_worker(self) -> None:
        stack = contextlib.AsyncExitStack()
        engine = database.create_engine(self.settings)
        stack.push_async_callback(engine.dispose)
        backend = load_backend(self.settings)
        stack.push_async_callback(backend.close)
        await _prepared(backend)
        client = await temporal.connect(self.settings, retry_for=10)  # two workers of a queue need two connections
        reconciling = asyncio.create_task(Reconciler(engine, backend, client).run())
        stack.callback(reconciling.cancel)
        for worker in make_workers(self.settings, client, engine, self.seams.around(backend)):
            await stack.enter_async_context(worker)
        self._worker_stacks.append(stack)


async def _closed(stack: contextlib.AsyncExitStack) -> None:
    """Shut something down; a worker whose drain never ends, as now and then in one process, is left, as if killed."""
    await asyncio.wait([asyncio.create_task(stack.aclose())], timeout=DRAINED)


async def _prepared(backend: ComputeBackend) -> None:
    """As the worker does it: again until the database is there."""
    while True:
        try:
            return await backend.prepare()
        except (SQLAlchemyError, OSError):
            await asyncio.sleep(0.1)


class InprocessClient(Client):
    """Sends each request to either API; `cuts` are the requests, counted from 0, that die after so many seconds."""

    def __init__(self, world: Inprocess, headers: httpx.Headers, name: str, cuts: dict[int, float]) -> None:
        super().__init__(httpx.AsyncClient(), name)
        self._world = world
        self._headers = headers
        self._cuts = cuts
        self._random = Random(name)
        self._requests = itertools.count()

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        number = next(self._requests)
        app = self._random.choice(self._world.apis)
        headers = httpx.Headers([*self._headers.items(), *options.pop("headers", {}).items()])
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with asyncio.timeout(self._cuts.get(number, TIMEOUT)):
            async with httpx.AsyncClient(transport=transport, base_url="http://api/api/v1") as http:
                answer = await http.request(method, path, headers=headers, **options)
        return answer


@contextlib.asynccontextmanager
async def log_in(world: Inprocess, name: str, cuts: dict[int, float]) -> AsyncIterator[tuple[InprocessClient, UUID]]:
    """A new user, who need not wait for passwords to be hashed."""
    engine = database.create_engine(world.settings)
    somebody = await person(world.apis[0], engine, world.settings, f"{name}-{uuid4().hex[:6]}")
    await engine.dispose()
    client = InprocessClient(world, somebody.http.headers, somebody.user.username, cuts)
    yield client, somebody.user.id
    await client.http.aclose()
    await somebody.http.aclose()
