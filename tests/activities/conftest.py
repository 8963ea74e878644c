"""Fixtures for activities: the mock cloud on a fresh database, and an environment to run them in."""

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.testing import ActivityEnvironment

from activities.backends.mock.backend import MockBackend
from activities.compute import ComputeActivities
from activities.recovery import reconciler as reconciler_module
from activities.recovery.reconciler import Reconciler
from domain.settings import Settings
from tests.activities.cloud import ENDLESS_DELAYS, open_backend
from tests.activities.polled_cloud import PolledCloud

Run = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[MockBackend]:
    """The mock cloud without delays."""
    backend = await open_backend(settings)
    yield backend
    await backend.close()


@pytest.fixture
async def slow_backend(settings: Settings) -> AsyncIterator[MockBackend]:
    """The same cloud as `backend`, but no change completes by itself."""
    backend = await open_backend(settings, **ENDLESS_DELAYS)
    yield backend
    await backend.close()


@pytest.fixture
async def doomed_backend(settings: Settings) -> AsyncIterator[MockBackend]:
    """The same cloud as `slow_backend`, but every operation fails."""
    backend = await open_backend(settings, mock_error_rate=1.0, **ENDLESS_DELAYS)
    yield backend
    await backend.close()


@pytest.fixture
async def polled_cloud(settings: Settings) -> AsyncIterator[PolledCloud]:
    """The same cloud as `slow_backend`, with a record of its polls."""
    cloud = PolledCloud(settings.model_copy(update=ENDLESS_DELAYS))
    await cloud.prepare()
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
def reconciler(
    engine: AsyncEngine, backend: MockBackend, temporal_client: CancelRecorder, monkeypatch: pytest.MonkeyPatch
) -> Reconciler:
    """A reconciler that runs when it is called; two calls count as two comparisons, however soon they follow."""
    monkeypatch.setattr(reconciler_module, "INTERVAL", 0.0)
    return Reconciler(engine, backend, cast("Client", temporal_client))
