"""The `database` job of docker-compose.yml gives the services exactly the rights that they need."""

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends import load_backend
from domain.data import database
from domain.settings import Settings
from migrations import embedded_postgres
from migrations.__main__ import migrate, prepare_backend
from tests.conftest import make_settings
from tests.meta.test_compose import SERVICES
from tests.support.waiting import block_until

STRANGE_PASSWORD = """p@ss:/w#rd%20?&'"\\ $$x"""
# Roles with a password must give it, as they must over the network; the sockets of the jobs ask for none.
AUTHENTICATION = "local all vmapi,temporal scram-sha-256\nlocal all all trust\n"
OWNERS = """
SELECT DISTINCT relnamespace::regnamespace::text, relowner::regrole::text FROM pg_class
WHERE relnamespace::regnamespace::text IN ('public', 'mock_cloud') AND relkind IN ('r', 'S')"""


@pytest.fixture
def socket() -> Iterator[Path]:
    """The socket directory of a new server, as roles belong to the whole server."""
    with tempfile.TemporaryDirectory(prefix="vmapi-test-") as folder:
        data_dir = Path(folder)
        socket_dir = embedded_postgres.init_cluster(data_dir)
        (data_dir / "postgres" / "pg_hba.conf").write_text(AUTHENTICATION)
        command = [*embedded_postgres.server_command(data_dir, socket_dir), "-F"]
        server = subprocess.Popen(command, **embedded_postgres.PROCESS_OPTIONS, stderr=subprocess.DEVNULL)
        ready = embedded_postgres.ready_command(socket_dir)
        block_until(lambda: subprocess.run(ready, check=False).returncode == 0)
        yield socket_dir
        server.terminate()
        server.wait()


def run_job(socket: Path, password: str) -> None:
    """Run the job's script, as Compose runs it."""
    job = SERVICES["database"]
    environment = {"PGHOST": str(socket), "PGUSER": job["environment"]["PGUSER"], "PASSWORD": password}
    path = f"{embedded_postgres.BIN}{os.pathsep}{os.environ['PATH']}"
    command = [*job["entrypoint"], *(argument.replace("$$", "$") for argument in job["command"])]
    done = subprocess.run(
        command, env={"PATH": path} | environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def settings_of(socket: Path, role: str) -> Settings:
    """Settings with the server's database, as one of its roles."""
    return make_settings(embedded_postgres.database_url(socket).replace("//postgres@", f"//{role}@"))


async def migrate_as(socket: Path, role: str) -> None:
    """Do what the job `migrate` does in the database."""
    environment = SERVICES["migrate"]["environment"]
    roles = {name: environment[name.upper()].partition(":-")[2][:-1] for name in ("db_api_role", "db_worker_role")}
    settings = settings_of(socket, role).model_copy(update=roles)
    await migrate(settings)
    await prepare_backend(settings)


@pytest.fixture
async def runtime(socket: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    """Connections of the API and the workers, whose password is in PGPASSWORD."""
    monkeypatch.setenv("PGPASSWORD", STRANGE_PASSWORD)
    engine = database.create_engine(settings_of(socket, "vmapi"))
    yield engine
    await engine.dispose()


async def assert_only_rows_can_be_changed(engine: AsyncEngine) -> None:
    """Check that the role of the API and the workers can change rows and nothing else."""
    async with engine.begin() as tx:
        await tx.exec_driver_sql("INSERT INTO mock_cloud.faults (verb, mode) VALUES ('create_server', 'fail')")
        await tx.exec_driver_sql("UPDATE flavors SET name = name")
        await tx.exec_driver_sql("DELETE FROM findings")
    schema = ("DROP TABLE vms", "CREATE TABLE mine ()", "CREATE SCHEMA mine", "ALTER TABLE vms ADD mine int")
    for refused in ("TRUNCATE vms", "DELETE FROM users", "SELECT * FROM alembic_version", *schema):
        with pytest.raises(Exception, match=r"permission denied|must be owner"):
            async with engine.begin() as tx:
                await tx.exec_driver_sql(refused)


async def test_the_services_may_change_rows_and_nothing_else(socket: Path, runtime: AsyncEngine) -> None:
    run_job(socket, STRANGE_PASSWORD)
    await migrate_as(socket, "vmapi_owner")
    await assert_only_rows_can_be_changed(runtime)


async def test_the_workers_need_not_create_the_mock_cloud(socket: Path, runtime: AsyncEngine) -> None:
    run_job(socket, STRANGE_PASSWORD)
    await migrate_as(socket, "vmapi_owner")
    backend = load_backend(settings_of(socket, "vmapi"))
    await backend.prepare()
    await backend.close()
    await assert_only_rows_can_be_changed(runtime)


async def test_an_installation_in_which_all_belongs_to_the_superuser_is_taken_over(
    socket: Path, runtime: AsyncEngine
) -> None:
    """As an earlier version of the file left it."""
    await migrate_as(socket, "postgres")
    for _ in range(2):
        run_job(socket, STRANGE_PASSWORD)
    admin = await asyncpg.connect(host=str(socket), user="postgres", database="vmapi")
    assert {tuple(row) for row in await admin.fetch(OWNERS)} == {
        ("public", "vmapi_owner"),
        ("mock_cloud", "vmapi_owner"),
    }
    await admin.close()
    await migrate_as(socket, "vmapi_owner")
    await assert_only_rows_can_be_changed(runtime)


async def test_a_changed_password_takes_effect(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job(socket, "the first one")
    run_job(socket, STRANGE_PASSWORD)
    monkeypatch.setenv("PGPASSWORD", "the first one")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host=str(socket), user="vmapi", database="vmapi")
    monkeypatch.setenv("PGPASSWORD", STRANGE_PASSWORD)
    await (await asyncpg.connect(host=str(socket), user="vmapi", database="vmapi")).close()


async def test_only_the_roles_of_services_have_a_password(socket: Path) -> None:
    """PostgreSQL lets a role without a password in only over its socket."""
    admin = await asyncpg.connect(host=str(socket), user="postgres", database="vmapi")
    await admin.execute("ALTER ROLE postgres PASSWORD 'of an earlier installation'")
    run_job(socket, STRANGE_PASSWORD)
    rows = await admin.fetch("SELECT rolname, rolsuper FROM pg_authid WHERE rolpassword IS NOT NULL")
    assert {(row["rolname"], row["rolsuper"]) for row in rows} == {("vmapi", False), ("temporal", False)}
    await admin.close()


async def test_temporal_owns_its_databases_and_cannot_read_ours(socket: Path) -> None:
    run_job(socket, STRANGE_PASSWORD)
    await migrate_as(socket, "vmapi_owner")
    admin = await asyncpg.connect(host=str(socket), user="postgres", database="vmapi")
    owners = await admin.fetch("SELECT datname, datdba::regrole::text FROM pg_database WHERE datname LIKE 'temporal%'")
    assert {tuple(row) for row in owners} == {("temporal", "temporal"), ("temporal_visibility", "temporal")}
    await admin.execute("SET ROLE temporal")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await admin.fetch("SELECT * FROM users")
    await admin.close()
