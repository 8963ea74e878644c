"""Real parts for every layer: PostgreSQL from the wheel, the Temporal dev server, and a fresh database per test."""

import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

import local
from domain import search_attributes
from domain.data import database
from domain.settings import Settings
from migrations.__main__ import migrate
from tests.support import logs

TEMPLATE = "template_vmapi"
MEMORY = Path("/dev/shm")  # noqa: S108 - the folder made in it is private
ROOM = 8 << 30  # bytes: for a server of each test process, whose log may grow to a gigabyte


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let workflow tests be run on the server that production resembles more."""
    parser.addoption("--temporal", choices=["skipping", "dev"], default="skipping", help="server of workflow tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs skipped time where no time is skipped."""
    if config.getoption("--temporal") == "dev":
        items[:] = [item for item in items if not item.get_closest_marker("skips_time")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes of a test that fails have logged."""
    report = yield
    if report.failed:
        report.sections.extend(logs.ends())
    return report


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """The socket directory of a PostgreSQL server of this session's own."""
    with tempfile.TemporaryDirectory(prefix="vmapi-test-", dir=_roomy_memory()) as folder:
        data_dir = Path(folder)
        socket_dir = local.init_postgres(data_dir)
        command = [*local.postgres_command(data_dir, socket_dir), "-F"]
        server = subprocess.Popen(command, **local.POSTGRES_OPTIONS, stderr=subprocess.DEVNULL)
        ready = [str(local.POSTGRES_BIN / "pg_isready"), "-q", "-h", str(socket_dir)]
        while subprocess.run(ready, check=False).returncode:
            time.sleep(0.05)
        yield socket_dir
        server.terminate()
        server.wait()


def _roomy_memory() -> Path | None:
    """Where the system keeps files in memory, if there is room: some disks take long to make and delete many files."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM else None


@pytest.fixture(scope="session")
async def template(postgres: Path) -> str:
    """The name of a migrated and seeded database to copy."""
    admin = await asyncpg.connect(host=str(postgres), user="postgres", database="postgres")
    await admin.execute(f"CREATE DATABASE {TEMPLATE}")
    await admin.close()
    await migrate(make_settings(local.postgres_url(postgres, TEMPLATE)))
    return TEMPLATE


@pytest.fixture
async def database_url(postgres: Path, template: str) -> AsyncIterator[str]:
    """The DATABASE_URL of a fresh database, migrated and seeded."""
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(host=str(postgres), user="postgres", database="postgres")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield local.postgres_url(postgres, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


def make_settings(database_url: str, **values: object) -> Settings:
    """Settings of a test: nothing from the environment's `.env`, and a mock cloud that is quick."""
    quick = {
        f"mock_{verb}_delay": 0.05 for verb in ("build", "start", "stop", "reboot", "resize", "delete", "snapshot")
    }
    defaults = {"database_url": database_url, "secret_key": secrets.token_urlsafe(48), **quick}
    return Settings(_env_file=None, **(defaults | values))  # type: ignore[arg-type]


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings on a fresh database; no Temporal server is promised at their address."""
    return make_settings(database_url, temporal_address="127.0.0.1:1")


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """A pool on the fresh database."""
    engine = database.create_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
async def temporal_environment() -> AsyncIterator[WorkflowEnvironment]:
    """The tuned Temporal dev server, its state in memory."""
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=local.TEMPORAL,
        dev_server_log_level="error",
        dev_server_extra_args=local.TEMPORAL_TUNING,
        search_attributes=search_attributes.ALL,
    ) as environment:
        yield environment


@pytest.fixture
def temporal(temporal_environment: WorkflowEnvironment) -> Client:
    """A client of the Temporal dev server."""
    return temporal_environment.client
