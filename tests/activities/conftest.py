"""Fixtures for activities: a fresh database with the mock cloud, and an environment to run them in."""

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.testing import ActivityEnvironment

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import SCHEMA, create_schema
from activities.compute import ComputeActivities
from activities.recovery import reconciler as reconciler_module
from activities.recovery.reconciler import Reconciler
from domain.data import database
from domain.settings import Settings
from migrations import embedded_postgres
from tests.activities.cloud import ENDLESS_DELAYS
from tests.activities.polled_cloud import PolledCloud
from tests.conftest import make_settings

Run = Callable[..., Coroutine[Any, Any, Any]]
TEMPLATE = "template_with_mock_cloud"


@pytest.fixture(scope="session")
async def template(postgres: Path, superuser: asyncpg.Connection, template: str) -> str:
    """The name of a database that has the mock cloud, too; creating its tables takes longer than most tests."""
    await superuser.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE {template}")
    engine = database.create_engine(make_settings(embedded_postgres.database_url(postgres, TEMPLATE)))
    async with engine.begin() as tx:
        await create_schema(tx)
    await engine.dispose()
    return TEMPLATE


@pytest.fixture
async def no_cloud_yet(engine: AsyncEngine) -> None:
    """Leave it to the test to create the mock cloud."""
    async with engine.begin() as tx:
        await tx.execute(text(f"DROP SCHEMA {SCHEMA} CASCADE"))


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[MockBackend]:
    """The mock cloud without delays."""
    backend = MockBackend(settings)
    yield backend
    await backend.close()


@pytest.fixture
async def slow_backend(settings: Settings) -> AsyncIterator[MockBackend]:
    """The same cloud as `backend`, but no change completes by itself."""
    backend = MockBackend(settings.model_copy(update=ENDLESS_DELAYS))
    yield backend
    await backend.close()


@pytest.fixture
async def doomed_backend(settings: Settings) -> AsyncIterator[MockBackend]:
    """The same cloud as `slow_backend`, but every operation fails."""
    backend = MockBackend(settings.model_copy(update={"mock_error_rate": 1.0, **ENDLESS_DELAYS}))
    yield backend
    await backend.close()


@pytest.fixture
async def polled_cloud(settings: Settings) -> AsyncIterator[PolledCloud]:
    """The same cloud as `slow_backend`, with a record of its polls."""
    cloud = PolledCloud(settings.model_copy(update=ENDLESS_DELAYS))
    yield cloud
    await cloud.close()


@pytest.fixture
def compute(engine: AsyncEngine, backend: MockBackend) -> ComputeActivities:
    """The steps on servers, on the cloud without delays."""
    return ComputeActivities(engine, backend)


@pytest.fixture
def environment() -> ActivityEnvironment:
    """The environment of an activity: a first attempt, retried after 1 s, 2 s, 4 s and then every 5 s."""
    environment, now = ActivityEnvironment(), datetime.now(UTC)
    policy = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=5))
    environment.info = replace(
        environment.info,
        retry_policy=policy,
        heartbeat_timeout=timedelta(seconds=4),
        scheduled_time=now,
        started_time=now,
    )
    return environment


@pytest.fixture
def run(environment: ActivityEnvironment) -> Run:
    """Runs an activity with its input."""
    return environment.run


class CancelRecorder:
    """A Temporal client that only records which workflows are canceled."""

    def __init__(self) -> None:
        self.canceled: list[str] = []

    def get_workflow_handle(self, workflow_id: str) -> Any:
        """Return a handle that can be canceled."""
        client = self

        class Handle:
            async def cancel(self) -> None:
                client.canceled.append(workflow_id)

        return Handle()


@pytest.fixture
def temporal_client() -> CancelRecorder:
    """The Temporal client of `reconciler`."""
    return CancelRecorder()


@pytest.fixture
async def workers_engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """A connection pool with the rights of a worker."""
    url = make_url(settings.database_url).set(username=embedded_postgres.WORKER_ROLE)
    of_worker = settings.model_copy(update={"database_url": url.render_as_string(hide_password=False)})
    engine = database.create_engine(of_worker)
    yield engine
    await engine.dispose()


@pytest.fixture
def reconciler(
    workers_engine: AsyncEngine, backend: MockBackend, temporal_client: CancelRecorder, monkeypatch: pytest.MonkeyPatch
) -> Reconciler:
    """A reconciler that runs when it is called; two calls count as two comparisons, however soon they follow."""
    monkeypatch.setattr(reconciler_module, "INTERVAL", 0.0)
    return Reconciler(workers_engine, backend, cast("Client", temporal_client))
