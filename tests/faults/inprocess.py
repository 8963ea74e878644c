"""Two APIs and two workers in one event loop, with real PostgreSQL and Temporal servers."""

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
from tests.faults.inprocess_seams import Seams
from tests.support.users import RetryingUser
from worker import make_workers

REQUEST_TIMEOUT: Final = 20.0  # seconds: with many schedules at once everything is slow
INSTANCES: Final = 2  # of the API and of the worker
DRAIN_TIMEOUT: Final = 20.0  # seconds


@dataclass
class InProcessStack:
    """APIs and workers in this process; `faults` counts those that it has injected."""

    settings: Settings
    operator: TemporalClient
    seams: Seams
    apis: list[FastAPI] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    _api_stacks: dict[int, contextlib.AsyncExitStack] = field(default_factory=dict)
    _worker_stacks: list[contextlib.AsyncExitStack] = field(default_factory=list)

    async def start(self) -> None:
        """Start all APIs and workers."""
        url = make_url(self.settings.database_url)
        host, name = str(url.query["host"]), url.database
        self._pool = await asyncpg.create_pool(host=host, user="postgres", database=name, min_size=1, max_size=4)
        for _ in range(INSTANCES):
            await self._start_api()
            await self._start_worker()

    async def stop(self) -> None:
        """Stop all APIs and workers."""
        for stack in [*self._api_stacks.values(), *self._worker_stacks]:
            await _close(stack)
        await self._pool.close()

    async def sql(self, query: str, *arguments: object) -> list[Any]:
        """The rows of a query."""
        return list(await self._pool.fetch(query, *arguments))

    async def replace_api(self) -> None:
        """Start a new API, then shut down the oldest, which gets no new requests."""
        await self._start_api()
        old = self.apis.pop(0)
        await self._api_stacks.pop(id(old)).aclose()
        self.faults["API replaced"] += 1

    async def cut_database(self, which: int) -> None:
        """Terminate a quarter of the database connections of APIs and workers, or all if `which` is 4."""
        some = "pid % 4 = $1" if which < 4 else "$1::int IS NOT NULL"
        query = f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = $2 AND {some}"""  # noqa: S608 - a constant
        self.faults["connections to PostgreSQL cut"] += len(await self.sql(query, which, self.settings.app_name))

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
        await _prepare(backend)
        # A connection of its own for each worker: the SDK allows one worker of a task queue for each connection.
        client = await temporal.connect(self.settings, retry_for=10)
        reconciling = asyncio.create_task(Reconciler(engine, backend, client).run())
        stack.callback(reconciling.cancel)
        for worker in make_workers(self.settings, client, engine, self.seams.around(backend)):
            await stack.enter_async_context(worker)
        self._worker_stacks.append(stack)


async def _close(stack: contextlib.AsyncExitStack) -> None:
    """Shut a part down; a worker whose drain does not end, which happens in one process, is left as if killed."""
    await asyncio.wait([asyncio.create_task(stack.aclose())], timeout=DRAIN_TIMEOUT)


async def _prepare(backend: ComputeBackend) -> None:
    """Prepare the backend as the worker does: repeat it while the database is down."""
    while True:
        try:
            return await backend.prepare()
        except (SQLAlchemyError, OSError):
            await asyncio.sleep(0.1)


class InProcessUser(RetryingUser):
    """Sends each request to a random API; `cuts` maps request numbers to the seconds after which they are cut."""

    def __init__(self, stack: InProcessStack, headers: httpx.Headers, name: str, cuts: dict[int, float]) -> None:
        super().__init__(httpx.AsyncClient(), name)
        self._stack = stack
        self._headers = headers
        self._cuts = cuts
        self._random = Random(name)
        self._requests = itertools.count()

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        number = next(self._requests)
        app = self._random.choice(self._stack.apis)
        headers = httpx.Headers([*self._headers.items(), *options.pop("headers", {}).items()])
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with asyncio.timeout(self._cuts.get(number, REQUEST_TIMEOUT)):
            async with httpx.AsyncClient(transport=transport, base_url="http://api/api/v1") as http:
                answer = await http.request(method, path, headers=headers, **options)
        return answer


@contextlib.asynccontextmanager
async def log_in(stack: InProcessStack, name: str, cuts: dict[int, float]) -> AsyncIterator[tuple[InProcessUser, UUID]]:
    """Create a user without a slow password hash; yields the user and their id."""
    engine = database.create_engine(stack.settings)
    account = await person(stack.apis[0], engine, stack.settings, f"{name}-{uuid4().hex[:6]}")
    await engine.dispose()
    user = InProcessUser(stack, account.http.headers, account.user.username, cuts)
    yield user, account.user.id
    await user.http.aclose()
    await account.http.aclose()
