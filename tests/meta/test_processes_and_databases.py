"""Every process ends with one clear line if it cannot work with its database, and when it is told to stop meanwhile."""

import asyncio
import contextlib
import os
import re
import secrets
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

import local
from domain.data import advisory_locks
from domain.data.cloud import BoundCloud
from migrations import embedded_postgres
from tests.support.rows import add_user, add_vm
from tests.support.stack import free_ports
from tests.support.waiting import poll

PROCESSES = ["api", "worker", "migrations"]
NO_DATABASE = "postgresql://127.0.0.1:1/none"


async def start(module: str, database_url: str, **others: str) -> Process:
    """Start a process with this database, and without a Temporal server unless `others` name one."""
    [port] = free_ports(1)
    settings = {"DATABASE_URL": database_url, "SECRET_KEY": secrets.token_urlsafe(48), "API_PORT": str(port)}
    environment = os.environ | settings | {"TEMPORAL_ADDRESS": "127.0.0.1:1"} | others
    command = [sys.executable, "-m", module]
    return await asyncio.create_subprocess_exec(*command, cwd=local.ROOT, env=environment, stdout=PIPE, stderr=PIPE)


@pytest.fixture
async def latin1(postgres: Path, superuser: asyncpg.Connection) -> AsyncIterator[str]:
    """DATABASE_URL of a database with another encoding."""
    await superuser.execute("CREATE DATABASE of_processes TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    yield embedded_postgres.database_url(postgres, "of_processes")
    await superuser.execute("DROP DATABASE of_processes WITH (FORCE)")


@pytest.mark.parametrize("module", PROCESSES)
async def test_a_database_with_another_encoding_ends_the_process_with_one_line(module: str, latin1: str) -> None:
    process = await start(module, latin1)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    [line] = err.decode().splitlines()
    assert line.startswith("The database of DATABASE_URL cannot be used: ")
    assert line.endswith("its encoding is LATIN1; create the database with ENCODING 'UTF8'")
    assert (process.returncode, out) == (1, b"")


async def test_an_account_that_may_create_no_tables_ends_the_migrations_with_one_line(
    postgres: Path, superuser: asyncpg.Connection
) -> None:
    await superuser.execute("CREATE ROLE reader LOGIN")
    await superuser.execute("CREATE DATABASE not_ours TEMPLATE template0")
    url = embedded_postgres.database_url(postgres, "not_ours").replace("postgres@", "reader@")
    process = await start("migrations", url)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    await superuser.execute("DROP DATABASE not_ours WITH (FORCE)")
    await superuser.execute("DROP ROLE reader")
    [line] = err.decode().splitlines()
    assert line.startswith("The database of DATABASE_URL cannot be used: InsufficientPrivilegeError 42501: ")
    assert (process.returncode, out) == (1, b"")


async def test_ctrl_c_ends_the_migrations_with_one_line(postgres: Path, superuser: asyncpg.Connection) -> None:
    await superuser.execute("CREATE DATABASE interrupted TEMPLATE template0")
    url = embedded_postgres.database_url(postgres, "interrupted")
    other = await asyncpg.connect(host=str(postgres), user="postgres", database="interrupted")
    await other.execute("SELECT pg_advisory_lock($1)", advisory_locks.MIGRATIONS)  # another process migrates
    # A shell's background jobs, and so perhaps these tests, ignore Ctrl-C, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = await start("migrations", url)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'interrupted' AND wait_event = 'advisory'"
    await poll(lambda: superuser.fetchval(waiting), bool)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    await other.close()
    await superuser.execute("DROP DATABASE interrupted WITH (FORCE)")
    assert (process.returncode, out, err) == (130, b"", b"Interrupted; what was not finished is rolled back\n")


async def test_a_cloud_that_is_not_configured_ends_the_worker_with_one_line(tmp_path: Path) -> None:
    none = str(tmp_path / "clouds.yaml")
    process = await start("worker", NO_DATABASE, COMPUTE_BACKEND="openstack", OS_CLIENT_CONFIG_FILE=none)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    [line] = err.decode().splitlines()
    assert line.startswith(
        "The cloud of COMPUTE_BACKEND cannot be used: no OpenStack cloud is configured; set OS_CLOUD"
    )
    assert (process.returncode, out) == (1, b"")


@pytest.mark.parametrize("module", ["worker", "migrations"])
async def test_a_database_of_another_cloud_ends_the_process_with_one_line(
    module: str, database_url: str, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        await add_vm(tx, await add_user(tx))
        await tx.execute(update(BoundCloud).values(backend="openstack", identity="project p"))
    process = await start(module, database_url)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    [line] = err.decode().splitlines()
    assert line == (
        "The database of DATABASE_URL cannot be used: it has VMs, volumes or snapshots of openstack (project p), "
        "and the settings name mock. Go back to that cloud, or use another database"
    )
    assert (process.returncode, out) == (1, b"")


@pytest.mark.parametrize("module", PROCESSES)
async def test_an_unknown_parameter_of_the_url_ends_the_process_with_one_line(module: str) -> None:
    process = await start(module, "postgresql://me:hunter2@127.0.0.1:1/x?gssencmode=disable")
    out, err = await asyncio.wait_for(process.communicate(), 60)
    [line] = err.decode().splitlines()
    assert line.startswith("Wrong setting DATABASE_URL: has the parameter gssencmode, which is not supported")
    assert "hunter2" not in line
    assert (process.returncode, out) == (1, b"")


@pytest.mark.parametrize("module", ["api", "worker"])
async def test_a_process_whose_server_never_answers_stops_when_it_is_told_to(module: str) -> None:
    handles_signals = 1 << (signal.SIGTERM - 1)

    async def caught() -> int:
        status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
        return int(status.partition("SigCgt:")[2].split()[0], 16)

    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel accepts connections, nobody answers
        process = await start(module, f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/x")
        await poll(caught, lambda mask: mask & handles_signals)
        await asyncio.sleep(0.5)
        process.terminate()
        out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode in {0, -signal.SIGTERM}
    assert b"Traceback" not in out + err


async def test_a_worker_waits_for_its_namespace_and_ends_well_however_often_it_is_told_to(
    database_url: str, temporal: Client
) -> None:
    server = {"TEMPORAL_ADDRESS": temporal.service_client.config.target_host, "TEMPORAL_NAMESPACE": "nowhere"}
    process = await start("worker", database_url, **server)
    assert process.stderr
    line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
    assert "Waiting for PostgreSQL, Temporal and the cloud: RPCError: Namespace nowhere is not found." in line
    while process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)  # `terminate` may take the exit code, which asyncio then misses
        await asyncio.sleep(0.001)
    assert process.returncode == 0
    assert await process.stderr.read() == b"", "the reason is said once"


async def test_an_error_of_the_migrations_is_one_line_in_the_format_of_all_logs(
    postgres: Path, superuser: asyncpg.Connection
) -> None:
    """Here, the database belongs to another program that has a table of the same name."""
    await superuser.execute("CREATE DATABASE of_others TEMPLATE template0")
    url = embedded_postgres.database_url(postgres, "of_others")
    other = await asyncpg.connect(host=str(postgres), user="postgres", database="of_others")
    await other.execute("CREATE TABLE vms (secret text)")
    process = await start("migrations", url)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    await other.close()
    await superuser.execute("DROP DATABASE of_others WITH (FORCE)")
    [line] = err.decode().splitlines()
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z ERROR migrations The migrations failed request_id=- .*", line)
    assert "DuplicateTableError" in line
    assert "CREATE TABLE" not in line
    assert (process.returncode, out) == (1, b"")
