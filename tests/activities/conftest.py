"""The mock cloud on a fresh database, and activities in an environment of their own."""

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.testing import ActivityEnvironment

from activities.backends.mock import schema
from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import Port, ServerSpec
from activities.compute import ComputeActivities
from activities.recovery import reconciler as reconciling
from activities.recovery.reconciler import Reconciler
from domain.data.addresses import new_mac_address
from domain.data.catalogue import FLAVORS
from domain.settings import Settings
from tests.support.rows import IMAGE_IDS, NETWORK_IDS

LONG = 3600.0  # seconds: a delay that no test lives to see the end of
LASTING = dict.fromkeys(
    (f"mock_{verb}_delay" for verb in ("build", "start", "stop", "reboot", "resize", "delete", "snapshot")), LONG
)
Do = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[MockBackend]:
    """A mock cloud that is quick."""
    backend = await open_backend(settings)
    yield backend
    await backend.close()


@pytest.fixture
async def slow_backend(settings: Settings) -> AsyncIterator[MockBackend]:
    """The same cloud as `backend`, where nothing that is begun comes to an end."""
    backend = await open_backend(settings, **LASTING)
    yield backend
    await backend.close()


@pytest.fixture
async def unlucky(settings: Settings) -> AsyncIterator[MockBackend]:
    """The same cloud, where every operation is doomed."""
    backend = await open_backend(settings, mock_error_rate=1.0, **LASTING)
    yield backend
    await backend.close()


@pytest.fixture
def compute(engine: AsyncEngine, backend: MockBackend) -> ComputeActivities:
    """The steps, on the mock cloud."""
    return ComputeActivities(engine, backend)


@pytest.fixture
def environment() -> ActivityEnvironment:
    """Where an activity finds its attempt and its retry policy; 1 s, 2 s, 4 s, at most 5 s."""
    environment = ActivityEnvironment()
    policy = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=5))
    environment.info = replace(
        environment.info,
        retry_policy=policy,
        heartbeat_timeout=timedelta(seconds=4),
        scheduled_time=datetime.now(UTC),
    )
    return environment


@pytest.fixture
def do(environment: ActivityEnvironment) -> Do:
    """Runs an activity with its input."""
    return environment.run


async def open_backend(settings: Settings, **values: object) -> MockBackend:
    """A mock cloud as another worker would open it; the caller closes it."""
    backend = MockBackend(settings.model_copy(update=values))
    await backend.prepare()
    return backend


def new_ports(count: int = 1) -> list[Port]:
    """Ports with addresses of their own, each on another network."""
    networks = list(NETWORK_IDS.values())[:count]
    return [Port(uuid4(), id, f"ip-{uuid4()}", new_mac_address()) for id in networks]


def spec(vm_id: UUID, flavor: str = "m1.small") -> ServerSpec:
    """A server of the flavor for the VM."""
    row = next(row for row in FLAVORS if row["name"] == flavor)
    return ServerSpec(vm_id, "test-vm", row["vcpus"], row["ram_mb"], row["disk_gb"], IMAGE_IDS["cirros-0.6.3"])


async def count(engine: AsyncEngine, table: str, vm_id: UUID | None = None) -> int:
    """How many rows the mock cloud has in one of its tables, of one VM or of all."""
    rows = schema.metadata.tables[f"{schema.SCHEMA}.{table}"]
    statement = select(func.count()).select_from(rows)
    if vm_id:
        statement = statement.where(rows.c.vm_id == vm_id)
    async with engine.connect() as connection:
        return (await connection.execute(statement)).scalar_one()


async def server_row(engine: AsyncEngine, vm_id: UUID) -> tuple[object, ...] | None:
    """All that the mock cloud knows of the VM's server, with what is to come; None where there is none."""
    statement = select(schema.servers).where(schema.servers.c.vm_id == vm_id)
    async with engine.connect() as connection:
        row = (await connection.execute(statement)).one_or_none()
    return tuple(row) if row else None


class Canceling:
    """A Temporal client that writes down what is canceled."""

    def __init__(self) -> None:
        self.canceled: list[str] = []

    def get_workflow_handle(self, workflow_id: str) -> Any:
        """Something that can be canceled."""
        client = self

        class Handle:
            async def cancel(self) -> None:
                client.canceled.append(workflow_id)

        return Handle()


@pytest.fixture
def temporal_client() -> Canceling:
    """What is canceled goes here."""
    return Canceling()


@pytest.fixture
def reconciler(
    engine: AsyncEngine, backend: MockBackend, temporal_client: Canceling, monkeypatch: pytest.MonkeyPatch
) -> Reconciler:
    """One that looks when it is told to, however soon."""
    monkeypatch.setattr(reconciling, "INTERVAL", 0.0)
    return Reconciler(engine, backend, cast("Client", temporal_client))
