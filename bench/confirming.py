"""What the loops read while many resizes wait for their confirmation: `python -m bench.confirming [COUNT]`.

Starts a PostgreSQL server with two databases. In one, 1,000 VMs wait for a confirmation and as many others have an open
operation; in the other, COUNT of each, by default 100,000. The statements of the loops run on both in turn, and the
medians are compared. Then 1, 4 and 10 processes at a time lease operations of one long outbox, as dispatchers do.
Nothing but PostgreSQL runs. Times are of a busy machine; ratios and processor times are what counts.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from statistics import median
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.recovery.drift_detection import _IDLE_VMS
from activities.recovery.rows import PAGE_SIZE
from bench.lists import USER, filling
from bench.processes import Process, new_database, postgres
from bench.scale import NO_QUOTA, PROJECT, USE
from bench.usage import table
from domain.commands.resize_decisions import overdue_resizes
from domain.data import database
from domain.progress import outbox
from domain.upkeep.attention import ATTENTION, SINCE
from tests.conftest import make_settings

FEW, MANY, ROUNDS, WARM_UP = 1_000, 100_000, 40, 5
CHECKS, LEASED = 50, 16  # rows of a round of recovery, and of the dispatcher
OWNERS, IN_OUTBOX, TURNS = 100, 20_000, 100
# Every second VM waits, and its resize has succeeded. The others are being stopped.
VMS = """
INSERT INTO vms (id, owner_id, name, status, task_state, flavor_id, image_id, labels, operation_id, confirm_by,
    launched_at, created_at)
SELECT gen_random_uuid(), $1, 'vm-' || n, CASE n % 2 WHEN 0 THEN 'VERIFY_RESIZE' ELSE 'ACTIVE' END,
    CASE n % 2 WHEN 1 THEN 'powering_off' END, (SELECT id FROM flavors LIMIT 1),
    (SELECT id FROM images WHERE is_default), '{}', gen_random_uuid(),
    CASE n % 2 WHEN 0 THEN now() + interval '1 hour' + n * interval '10 milliseconds' END, now(), now()
FROM generate_series(1, 2 * $2::int) AS n
"""
OPERATIONS = """
INSERT INTO operations (id, owner_id, actor, action, status, resource_type, resource_id, vm_id, input, workflow_id,
    request_id, started_at, finished_at, deliveries, delivered_at, deliver_after, attempt)
SELECT operation_id, owner_id, 'bench', CASE WHEN confirm_by IS NULL THEN 'stop' ELSE 'resize' END,
    CASE WHEN confirm_by IS NULL THEN 'RUNNING' ELSE 'SUCCEEDED' END, 'vm', id, id, '{}', '', 'bench', now(),
    CASE WHEN confirm_by IS NOT NULL THEN now() END, 1, now(), now() + random() * interval '30 seconds', 1
FROM vms
"""
OUTBOX = """
INSERT INTO operations (id, owner_id, actor, action, resource_type, resource_id, input, workflow_id, request_id)
SELECT gen_random_uuid(), owner.id, owner.id::text, 'create-volume', 'volume', gen_random_uuid(), '{}', '', 'bench'
FROM unnest($1::uuid[]) AS owner (id), generate_series(1, $2::int / cardinality($1::uuid[]))
"""
OVERDUE = "UPDATE vms SET confirm_by = confirm_by - interval '3 hours' WHERE confirm_by IS NOT NULL"


async def _attention(tx: AsyncConnection) -> object:
    return (await tx.execute(ATTENTION.order_by(SINCE.desc()).limit(21))).all()


async def _compare(tx: AsyncConnection) -> object:
    return (await tx.execute(_IDLE_VMS.order_by(_IDLE_VMS.selected_columns[0]).limit(PAGE_SIZE))).all()


Kinds = Mapping[str, Callable[[AsyncConnection], Awaitable[object]]]
WAITING: Kinds = {
    "recovery: lease of 50 checks": lambda tx: outbox.lease_checks(tx, CHECKS, 30),
    "recovery: look for overdue confirmations, none is": lambda tx: overdue_resizes(tx, CHECKS, 30),
    "dispatcher: lease of 16, the outbox is empty": lambda tx: outbox.lease_operations(tx, LEASED, 10),
    "comparison with the cloud: a page of 500 VMs": _compare,
    "attention list: the first page": _attention,
}
LATE: Kinds = {"recovery: look for overdue confirmations, all are": lambda tx: overdue_resizes(tx, CHECKS, 30)}


async def fill(url: str, count: int) -> None:
    """Add the VMs and their operations."""
    owner = uuid4()
    async with filling(url) as connection:
        await connection.execute(USER, owner, "bench")
        await connection.execute(PROJECT, owner)
        await connection.execute(NO_QUOTA)
        await connection.execute(USE, owner, 2 * count)
        await connection.execute(VMS, owner, count)
        await connection.execute(OPERATIONS)


async def measure(engines: Mapping[int, AsyncEngine], kinds: Kinds) -> list[tuple[object, ...]]:
    """Run each statement on both databases in turn, without committing; returns the rows of the table."""
    rows: list[tuple[object, ...]] = []
    for name, run in kinds.items():
        taken: dict[int, list[float]] = {count: [] for count in engines}
        for _ in range(WARM_UP + ROUNDS):
            for count, engine in engines.items():
                async with engine.connect() as tx:
                    await tx.execute(text("SELECT 1"))
                    begun = time.perf_counter()
                    await run(tx)
                    taken[count].append(1000 * (time.perf_counter() - begun))
        few, many = (median(times[WARM_UP:]) for times in taken.values())
        rows.append((name, few, many, many / few))
        print(f"{name}: {few:.3g}, {many:.3g}", file=sys.stderr, flush=True)
    return rows


async def claim(url: str, server: Process) -> list[tuple[object, ...]]:
    """Lease with several connections at a time; returns the rows of the table."""
    connection, owners = await asyncpg.connect(url.replace("+asyncpg", "")), [uuid4() for _ in range(OWNERS)]
    await connection.execute("SET session_replication_role = replica")
    rows: list[tuple[object, ...]] = []
    for number in (1, 4, 10):
        await connection.execute("DELETE FROM operations")
        await connection.execute(OUTBOX, owners, IN_OUTBOX)
        await connection.execute("VACUUM ANALYZE operations")
        engine = database.create_engine(make_settings(url))
        leased: list[UUID] = []
        statements = [0]
        ends = [asyncio.create_task(_claimer(engine, leased, statements, TURNS // number)) for _ in range(number)]
        cpu, begun = server.cpu, time.perf_counter()
        await asyncio.gather(*ends)
        taken, used = time.perf_counter() - begun, server.cpu - cpu
        await database.close(engine)
        double = len(leased) - len(set(leased))
        each = len(leased)
        rows.append((number, each, double, statements[0] / each, 1000 * taken / each, 1000 * used / each))
    await connection.close()
    return rows


async def _claimer(engine: AsyncEngine, leased: list[UUID], statements: list[int], turns: int) -> None:
    for _ in range(turns):
        async with engine.begin() as tx:
            leased += [operation.id for operation in await outbox.lease_operations(tx, LEASED, 600)]
        statements[0] += 1


async def compare(urls: Mapping[int, str], server: Process) -> None:
    """Measure and print the tables."""
    for count, url in urls.items():
        await fill(url, count)
    engines = {count: database.create_engine(make_settings(url)) for count, url in urls.items()}
    rows = await measure(engines, WAITING)
    for url in urls.values():
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        for statement in (OVERDUE, "VACUUM ANALYZE vms"):
            await connection.execute(statement)
        await connection.close()
    rows += await measure(engines, LATE)
    for engine in engines.values():
        await database.close(engine)
    few, many = urls
    table("a round", f"{few:,} wait, ms", f"{many:,} wait, ms", "ratio", rows=rows)
    heads = ("operations", "leased twice", "statements for each", "ms for each", "CPU ms of PostgreSQL for each")
    table("dispatchers at a time", *heads, rows=await claim(urls[few], server))


def main() -> None:
    """Fill, measure, stop."""
    many = int(sys.argv[1]) if len(sys.argv) > 1 else MANY
    with ExitStack() as stack:
        server = stack.enter_context(postgres("-F", "-cmax_wal_size=4GB"))
        urls = {count: new_database(server.url, f"waiting_{count}") for count in (FEW, many)}
        asyncio.run(compare(urls, server))


if __name__ == "__main__":
    main()
