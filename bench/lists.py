"""First pages of short and of very long lists: `python -m bench.lists [LONG]`, by default 1,000,000 rows.

Starts a PostgreSQL server in a temporary folder and an API process on it. One owner has 1,000 VMs, operations, volumes
and snapshots, another has LONG of each; a third has 1,000 live VMs and LONG that are DELETED. One client asks for the
page of the short list and that of the long list in turn, so that other work on the machine slows down both. The ratio
of the median times is the result. The exit code is 1 if one is above 1.5.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from uuid import UUID, uuid4

import asyncpg
import httpx

from bench.http import token
from bench.processes import api, new_database, postgres
from bench.usage import table

SHORT, LONG = 1_000, 1_000_000
ALLOWED = 1.5
WARM_UP, ROUNDS = 10, 200  # requests
LISTS = {
    "VMs": "/vms",
    "VMs by name": "/vms?sort=name",
    "VMs, last changed first": "/vms?sort=-updated_at",
    "VMs by status": "/vms?sort=status",
    "VMs in one of two statuses": "/vms?status=ACTIVE,SHUTOFF",
    "VMs in a rare status": "/vms?status=ERROR",
    "VMs with a label that all have": "/vms?labels=env=prod",
    "VMs with one of two values of it": "/vms?labels=env%20in%20(prod,test),!x",
    "VMs that have changed": "/vms?changes_since=2000-01-01T00:00:00Z",
    "operations": "/operations",
    "operations in progress": "/operations?status=QUEUED,RUNNING",
    "volumes": "/volumes",
    "volumes by name": "/volumes?sort=name",
    "snapshots": "/snapshots",
    "snapshots, last changed first": "/snapshots?sort=-updated_at",
    "VMs with a label that one has": "/vms?labels=n=77",
    "VMs whose label has a rare value": "/vms?labels=n%20in%20(77,78)",
}
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE 'ix\\_%'"
USER = "INSERT INTO users (id, username, email, password_hash) VALUES ($1, $2, $2, '')"
# One VM in a thousand is in ERROR, and one of the others in three is off.
VMS = """
INSERT INTO vms (id, owner_id, name, status, flavor_id, image_id, labels, operation_id, launched_at, created_at)
SELECT gen_random_uuid(), $1, 'vm-' || n,
    coalesce($3, CASE WHEN n % 1000 = 0 THEN 'ERROR' WHEN n % 3 = 0 THEN 'SHUTOFF' ELSE 'ACTIVE' END),
    (SELECT id FROM flavors LIMIT 1), (SELECT id FROM images WHERE is_default),
    jsonb_build_object('env', 'prod', 'n', n::text), gen_random_uuid(), now(), now() - n * interval '1 second'
FROM generate_series(1, $2::int) AS n
"""
OPERATIONS = """
INSERT INTO operations (id, owner_id, actor, action, status, resource_type, resource_id, vm_id, input, workflow_id,
    request_id, created_at, started_at, finished_at)
SELECT gen_random_uuid(), owner_id, 'bench', 'create', 'SUCCEEDED', 'vm', id, id, '{}', '', 'bench', created_at,
    created_at, created_at + interval '5 seconds'
FROM vms WHERE owner_id = $1
"""
VOLUMES = """
INSERT INTO volumes (id, owner_id, name, size_gb, status, operation_id, created_at)
SELECT gen_random_uuid(), $1, 'data-' || n, 1, 'AVAILABLE', gen_random_uuid(), now() - n * interval '1 second'
FROM generate_series(1, $2::int) AS n
"""

SNAPSHOTS = """
INSERT INTO snapshots (id, owner_id, vm_id, name, size_gb, status, flavor_id, image_id, operation_id, created_at)
SELECT gen_random_uuid(), owner_id, id, 'of-' || name, 1, 'AVAILABLE', flavor_id, image_id, gen_random_uuid(),
    created_at
FROM vms WHERE owner_id = $1
"""
TERMS = """
INSERT INTO search_terms (id, terms) SELECT id, search_terms_of('{kind}', owner_id, name, labels) FROM {table}
"""


@asynccontextmanager
async def filling(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that adds rows without foreign keys and indexes, which takes a tenth of the time."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    indexes = await connection.fetch(INDEXES)
    await connection.execute(f"DROP INDEX {', '.join(index['indexname'] for index in indexes)}")
    # It also keeps the triggers still that a user's project, and what the project uses, come from.
    await connection.execute("SET session_replication_role = replica")
    yield connection
    for name, kind in (("vms", "v"), ("snapshots", "s"), ("volumes", "d")):
        await connection.execute(TERMS.format(table=name, kind=kind))
    for index in indexes:
        await connection.execute(index["indexdef"])
    await connection.execute("VACUUM ANALYZE")  # as autovacuum does within a minute
    await connection.close()


async def fill(url: str, owners: dict[str, UUID], long: int) -> None:
    """Add the rows of all owners."""
    async with filling(url) as connection:
        for name, owner in owners.items():
            count = SHORT if name == "short" else long
            await connection.execute(USER, owner, name)
            if name == "deleted":
                await connection.execute(VMS, owner, long, "DELETED")
                await connection.execute(VMS, owner, SHORT, None)
                continue
            await connection.execute(VMS, owner, count, None)
            await connection.execute(OPERATIONS, owner)
            await connection.execute(VOLUMES, owner, count)
            await connection.execute(SNAPSHOTS, owner)


async def measure(api_url: str, owners: dict[str, UUID]) -> bool:
    """Print a row for each list; returns whether all ratios are allowed."""
    tokens = {name: token(name, id) for name, id in owners.items()}
    kinds = [(name, path, "long") for name, path in LISTS.items()]
    kinds.append(("VMs beside DELETED ones", "/vms", "deleted"))
    rows = []
    async with httpx.AsyncClient(base_url=api_url, timeout=60) as http:
        for name, path, owner in kinds:
            taken: dict[str, list[float]] = {"short": [], owner: []}
            for asked in ("short", owner) * (WARM_UP + ROUNDS):
                started_at = time.perf_counter()
                answer = await http.get(path, headers={"Authorization": f"Bearer {tokens[asked]}"})
                taken[asked].append(1000 * (time.perf_counter() - started_at))
                answer.raise_for_status()
            short, long = (median(taken[who][WARM_UP:]) for who in ("short", owner))
            rows.append((name, short, long, long / short))
    table("first page", "short list, ms", "long list, ms", "ratio", rows=rows)
    return all(ratio <= ALLOWED for *_, ratio in rows)


def main() -> None:
    """Fill, measure, stop."""
    owners = {name: uuid4() for name in ("short", "long", "deleted")}
    long = int(sys.argv[1]) if len(sys.argv) > 1 else LONG
    # -F: no fsync. The rows are filled in faster, and lists only read.
    with postgres("-F") as server:
        url = new_database(server.url, "bench")
        asyncio.run(fill(url, owners, long))
        with api(url) as service:
            good = asyncio.run(measure(service.url, owners))
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
