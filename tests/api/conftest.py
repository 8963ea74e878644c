"""The running application, and users with clients that call it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import create_app
from api.background import housekeeping
from api.background.dispatcher import Dispatcher
from api.background.use_exchange import UseExchange
from api.background.workflow_recovery import WorkflowRecovery
from api.web import security
from api.web.security import LoginCaller, Signing
from domain.data import database
from domain.data.accounts import ProgramToken, User
from domain.data.guests import SSHKey
from domain.data.models import VM, Operation, Volume
from domain.rules.accounts import Role
from domain.settings import Settings
from migrations import embedded_postgres
from tests.conftest import fresh_database, without_temporal
from tests.support.rows import FLAVOR_IDS, add_user

PASSWORD = "Correct-Horse-1"
FLAVOR = str(FLAVOR_IDS["m1.small"])


@dataclass
class Person:
    """A user; the client `http` sends their access token with every request."""

    user: User
    caller: LoginCaller
    http: httpx.AsyncClient

    async def create(self, name: str = "web-1", **body: Any) -> dict[str, Any]:
        """Create a VM, and return the body of the answer."""
        answer = await self.http.post("/vms", json={"name": name, "flavor_id": FLAVOR} | body)
        assert answer.status_code == 202, answer.text
        vm: dict[str, Any] = answer.json()
        return vm


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application, started and later shut down. Its role in the database has the rights of the API."""
    url = settings.database_url.replace(f"//{embedded_postgres.OWNER}@", f"//{embedded_postgres.API_ROLE}@")
    app = create_app(settings.model_copy(update={"database_url": url}))
    async with app.router.lifespan_context(app):
        yield app


def client_of(app: FastAPI, token: str | None = None) -> httpx.AsyncClient:
    """A client of the application that sends this token."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://api/api/v1", headers=headers)


def signing_of(settings: Settings) -> Signing:
    """The key and algorithm with which the application signs its tokens."""
    assert settings.secret_key
    return Signing(settings.secret_key.get_secret_value(), settings.algorithm)


async def person(app: FastAPI, engine: AsyncEngine, settings: Settings, name: str, role: Role = Role.USER) -> Person:
    """A new user, without the half second that it takes to hash and check a password."""
    async with engine.begin() as tx:
        user = await add_user(tx, name, role)
    caller = LoginCaller(user.id, user.username, uuid4())
    token = security.sign(signing_of(settings), "access", caller, uuid4(), timedelta(hours=2))  # LONG_LIST takes long
    return Person(user, caller, client_of(app, token))


async def operations_of(engine: AsyncEngine, vm_id: str | UUID) -> list[Operation]:
    """The VM's operations, oldest first."""
    async with engine.connect() as connection:
        operations = select(Operation).where(Operation.vm_id == UUID(str(vm_id))).order_by(Operation.created_at)
        return list((await connection.execute(operations)).all())  # type: ignore[arg-type] # rows have the model's attributes


async def count(engine: AsyncEngine, model: type[Any]) -> int:
    """The number of rows in the table."""
    async with engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(model))).scalar_one()


def pointers(problem: dict[str, Any]) -> set[str]:
    """The pointers, parameters and headers that the errors of a problem name."""
    return {error.get("pointer") or error.get("parameter") or error.get("header") for error in problem["errors"]}


async def _nothing(*_: object) -> None:
    """Do nothing, in place of a task."""


class _IdleDispatcher(Dispatcher):
    async def run(self) -> None:
        """Deliver nothing."""


@pytest.fixture(autouse=True)
def few_tasks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the tasks of the application that look at the database once it starts and find nothing to do there.

    Together they take longer than most tests. Tests of these tasks call what they do, or have the mark `delivers`.
    """
    if not request.node.get_closest_marker("delivers"):
        monkeypatch.setattr("api.app.Dispatcher", _IdleDispatcher)
    monkeypatch.setattr(housekeeping, "run", _nothing)
    monkeypatch.setattr(WorkflowRecovery, "run", _nothing)
    monkeypatch.setattr(UseExchange, "run", _nothing)


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The running application."""
    async with running(settings) as app:
        yield app


@pytest.fixture
async def anyone(app: FastAPI) -> httpx.AsyncClient:
    """A client that has not logged in."""
    return client_of(app)


@pytest.fixture
async def ada(app: FastAPI, engine: AsyncEngine, settings: Settings) -> Person:
    """A user."""
    return await person(app, engine, settings, "ada")


@pytest.fixture
async def bob(app: FastAPI, engine: AsyncEngine, settings: Settings) -> Person:
    """Another user."""
    return await person(app, engine, settings, "bob")


@pytest.fixture(scope="module")
async def visitor(postgres: Path, superuser: asyncpg.Connection, template: str) -> AsyncIterator[Person]:
    """A user who changes nothing: all tests of a file share the user, the application and its database."""
    async with fresh_database(postgres, superuser, template) as url:
        settings = without_temporal(url)
        engine = database.create_engine(settings)
        async with running(settings) as app:
            yield await person(app, engine, settings, "visitor")
        changed = [model for model in (VM, Volume, Operation, SSHKey, ProgramToken) if await count(engine, model)]
        await engine.dispose()
        assert changed == [], "a test has changed something, so it needs a user of its own"
