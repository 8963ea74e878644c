"""Fixtures for every suite: a PostgreSQL server, a fresh database for each test, and the Temporal dev server."""

import contextlib
import gc
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings as hypothesis
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from domain import search_attributes
from domain.data import database
from domain.settings import Settings
from migrations import embedded_postgres, embedded_temporal
from migrations.__main__ import migrate
from tests.support import logs, one_dialect
from tests.support.waiting import block_until

# A test that draws its input is no measurement: on a busy machine one draw may take as long as it likes.
hypothesis.register_profile("any machine", deadline=None)
hypothesis.load_profile("any machine")
one_dialect.install()

pytest_plugins = ["tests.support.shared_stack"]
TEMPLATE = "template_vmapi"
# What a client sees of a VM includes its interfaces and attachments (see Changing). This fails every test in which a
# transaction changes one of them and not the row of its VM.
VM_IS_UPDATED_TOO = """
CREATE FUNCTION check_vm_is_updated_too() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM vms WHERE id = coalesce(NEW.vm_id, OLD.vm_id) AND changed <> pg_current_xact_id()) THEN
        RAISE '% of VM % changed, but not the VM', TG_TABLE_NAME, coalesce(NEW.vm_id, OLD.vm_id);
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER vm_is_updated_too AFTER UPDATE OF ip_address, mac_address OR DELETE ON interfaces
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_vm_is_updated_too();
CREATE CONSTRAINT TRIGGER vm_is_updated_too AFTER UPDATE OF device OR DELETE ON attachments
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_vm_is_updated_too();
"""
WITH_STACK = {"contract", "examples", "faults", "integration", "local", "vmctl"}  # folders of tests
LAST_STACK = 0.8  # of the run, after which no test with a stack begins
MEMORY = Path("/dev/shm")  # noqa: S108 - the folder created in it is private
MEMORY_NEEDED = 8 << 30  # bytes: each test process has a server, and its write-ahead log may grow to a gigabyte


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options: workflow tests on the dev server, which is closer to production, and tests on a real cloud."""
    parser.addoption("--temporal", choices=["skipping", "dev"], default="skipping", help="server of workflow tests")
    parser.addoption("--openstack", action="store_true", help="test the real cloud that OS_CLOUD names")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mix the files, and leave out the tests that need the time-skipping server if it is not used.

    Tests of a stack wait most of their time, and the others compute. If the processes had only the one or the other
    kind at a time, processors would idle first and be short later. The last files are short ones, for the same end.
    """
    files = list(dict.fromkeys(item.path for item in items))
    waiting = [file for file in files if file.parent.name in WITH_STACK]
    computing = [file for file in files if file.parent.name not in WITH_STACK]
    place = {file: number / len(waiting) * LAST_STACK for number, file in enumerate(waiting)}
    place |= {file: number / len(computing) for number, file in enumerate(computing)}
    items.sort(key=lambda item: place[item.path])
    if config.getoption("--temporal") == "dev":
        items[:] = [item for item in items if not item.get_closest_marker("skips_time")]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from all modules and tests, which stay until the end, and have it look less often."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the running processes with a test that fails."""
    report = yield
    if report.failed:
        report.sections.extend(logs.tails())
    return report


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """The socket directory of this session's PostgreSQL server."""
    with tempfile.TemporaryDirectory(prefix="vmapi-test-", dir=_memory_folder()) as folder:
        data_dir = Path(folder)
        socket_dir = embedded_postgres.init_cluster(data_dir)
        command = [*embedded_postgres.server_command(data_dir, socket_dir), "-F"]  # -F: no fsync
        server = subprocess.Popen(command, **embedded_postgres.PROCESS_OPTIONS, stderr=subprocess.DEVNULL)
        ready = embedded_postgres.ready_command(socket_dir)
        block_until(lambda: subprocess.run(ready, check=False).returncode == 0)
        yield socket_dir
        server.send_signal(signal.SIGINT)  # after SIGTERM it would wait for a connection that a test has left open
        server.wait()


def _memory_folder() -> Path | None:
    """The folder of files in memory if it has enough space: some disks are slow to create and delete many files."""
    has_space = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED
    return MEMORY if has_space and "LONG_LIST" not in os.environ else None  # its rows are many gigabytes


@pytest.fixture(scope="session")
async def superuser(postgres: Path) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the superuser, to make databases with."""
    superuser = await asyncpg.connect(host=str(postgres), user="postgres", database="postgres")
    yield superuser
    await superuser.close()


@pytest.fixture(scope="session")
async def template(postgres: Path, superuser: asyncpg.Connection) -> str:
    """The name of a migrated and seeded database that `database_url` copies: that is faster than migrating again."""
    await superuser.execute(f"CREATE DATABASE {TEMPLATE}")
    roles = {"db_api_role": embedded_postgres.API_ROLE, "db_worker_role": embedded_postgres.WORKER_ROLE}
    await migrate(make_settings(embedded_postgres.database_url(postgres, TEMPLATE), **roles))
    database = await asyncpg.connect(host=str(postgres), user="postgres", database=TEMPLATE)
    await database.execute(VM_IS_UPDATED_TOO)
    await database.close()
    return TEMPLATE


@contextlib.asynccontextmanager
async def fresh_database(postgres: Path, superuser: asyncpg.Connection, template: str) -> AsyncIterator[str]:
    """The DATABASE_URL of a fresh database, migrated and seeded, which is dropped in the end."""
    name = f"test_{uuid4().hex}"
    await superuser.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield embedded_postgres.database_url(postgres, name)
    await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database_url(postgres: Path, superuser: asyncpg.Connection, template: str) -> AsyncIterator[str]:
    """The DATABASE_URL of a fresh database, migrated and seeded."""
    async with fresh_database(postgres, superuser, template) as url:
        yield url


class GivenSettings(Settings):
    """Settings for which nobody looks into the environment: that would take five times as long."""

    def __init__(self, **values: object) -> None:
        """Check only what is given."""
        BaseModel.__init__(self, **values)


def make_settings(database_url: str, **values: object) -> Settings:
    """Settings with a fast mock cloud; neither the environment nor the `.env` file is read."""
    quick = {
        f"mock_{verb}_delay": 0.05 for verb in ("build", "start", "stop", "reboot", "resize", "delete", "snapshot")
    }
    defaults = {"database_url": database_url, "secret_key": secrets.token_urlsafe(48), **quick}
    return GivenSettings(**(defaults | values))


def without_temporal(database_url: str) -> Settings:
    """Such settings, at whose address of Temporal no server listens."""
    return make_settings(database_url, temporal_address="127.0.0.1:1")


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings with a fresh database. No Temporal server listens at their address."""
    return without_temporal(database_url)


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """A connection pool of the fresh database."""
    engine = database.create_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
async def temporal_environment() -> AsyncIterator[WorkflowEnvironment]:
    """The Temporal dev server, tuned as in `make up`, with its state in memory."""
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=embedded_temporal.TEMPORAL,
        dev_server_log_level="error",
        dev_server_extra_args=embedded_temporal.TUNING,
        search_attributes=search_attributes.ALL,
    ) as environment:
        yield environment


@pytest.fixture
def temporal(temporal_environment: WorkflowEnvironment) -> Client:
    """A client of the Temporal dev server."""
    return temporal_environment.client
