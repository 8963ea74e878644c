"""The cost of comparing the cloud with the database: `python -m bench.drift [COUNT]`, by default 100,000 VMs.

Fills a database and the mock cloud with VMs that have an interface each, all equal on both sides, and runs the
reconciler. A worker does this in the event loop that also sends the heartbeats of its activities. So the longest time
that the loop is blocked matters most.
"""

import asyncio
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import asyncpg
from temporalio.client import Client

from activities.backends.mock.backend import MockBackend
from activities.recovery.reconciler import Reconciler
from bench.usage import exit_with, table
from domain.data import database
from domain.settings import Settings
from migrations import embedded_postgres
from migrations.__main__ import migrate
from tests.conftest import make_settings
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS, NETWORK_IDS
from tests.support.waiting import block_until

ROUNDS = 3
SEED = """
WITH owner AS (
    INSERT INTO users (id, username, email, password_hash)
    VALUES (gen_random_uuid(), 'bench', 'bench@example.com', '') RETURNING id
), vm AS (
    INSERT INTO vms (id, owner_id, name, status, flavor_id, image_id, labels, operation_id, launched_at)
    SELECT gen_random_uuid(), owner.id, 'vm-' || n, 'ACTIVE', $1, $2, '{}', gen_random_uuid(), now()
    FROM owner, generate_series(1, $4::int) n RETURNING *
), interface AS (
    INSERT INTO interfaces (vm_id, network_id, ip_address, mac_address, status, operation_id)
    SELECT id, $3, id, id, 'ATTACHED', operation_id FROM vm RETURNING *
), server AS (
    INSERT INTO mock_cloud.servers (vm_id, name, vcpus, ram_mb, disk_gb, image_id, status)
    SELECT vm.id, vm.name, vcpus, ram_mb, disk_gb, image_id, 'ACTIVE' FROM vm JOIN flavors ON flavors.id = flavor_id
) INSERT INTO mock_cloud.ports (id, vm_id, network_id, ip_address, mac_address)
SELECT id, vm_id, network_id, ip_address, mac_address FROM interface
"""


class Callbacks:
    """Measures the processor time of each callback of the event loop: while one runs, the loop is blocked."""

    def __init__(self) -> None:
        self.times: list[float] = []
        run = asyncio.Handle._run  # noqa: SLF001 - asyncio offers no other place to measure

        def measured(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            self.times.append((time.thread_time() - began) * 1000)

        asyncio.Handle._run = measured  # type: ignore[assignment, method-assign] # noqa: SLF001


async def measure(settings: Settings, connection: asyncpg.Connection, count: int) -> list[str]:
    """Fill the database, compare several times, print a table, and return errors."""
    engine, backend = database.create_engine(settings), MockBackend(settings)
    await backend.prepare()
    await connection.execute(SEED, FLAVOR_IDS["m1.small"], IMAGE_IDS["cirros-0.6.3"], NETWORK_IDS["private"], count)
    await connection.execute("ANALYZE")
    reconciler, rows = Reconciler(engine, backend, cast("Client", None)), []
    callbacks = Callbacks()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(ROUNDS):
        callbacks.times.clear()
        started, cpu = time.monotonic(), time.process_time()
        await reconciler.reconcile()
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        blocks = statistics.quantiles(callbacks.times, n=100)[98], max(callbacks.times)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        rows.append((count, seconds, cpu, *blocks, grown))
    columns = ("VMs", "s", "CPU s of the worker", "longest callback of 99 %, ms", "longest, ms", "MB of memory more")
    table(*columns, rows=rows)
    findings = await connection.fetchval("SELECT count(*) FROM findings")
    await backend.close()
    await engine.dispose()
    return [f"{findings} findings"] if findings else []


Measurement = Callable[[Settings, asyncpg.Connection], Coroutine[Any, Any, list[str]]]


def on_a_database(measurement: Measurement) -> list[str]:
    """Measure with a PostgreSQL server in a temporary folder, whose database is migrated; return errors."""
    with tempfile.TemporaryDirectory() as folder:
        socket_dir = embedded_postgres.init_cluster(Path(folder))
        command = embedded_postgres.server_command(Path(folder), socket_dir)
        server = subprocess.Popen(command, **embedded_postgres.PROCESS_OPTIONS, stderr=subprocess.DEVNULL)
        ready = embedded_postgres.ready_command(socket_dir)
        try:
            block_until(lambda: subprocess.run(ready, check=False).returncode == 0)
            return asyncio.run(_migrate_and_measure(embedded_postgres.database_url(socket_dir), measurement))
        finally:
            server.terminate()
            server.wait()


async def _migrate_and_measure(url: str, measurement: Measurement) -> list[str]:
    settings = make_settings(url)
    await migrate(settings)
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    errors = await measurement(settings, connection)
    await connection.close()
    return errors


def main() -> None:
    """Measure on a PostgreSQL server of its own."""
    count = int((sys.argv[1:] or ["100000"])[0])
    exit_with(on_a_database(lambda settings, connection: measure(settings, connection, count)))


if __name__ == "__main__":
    main()
