"""What grows with the number of VMs: `python -m bench.scale [VMS [OPERATIONS_OF_EACH]]`, by default 1,000,000 and 2.

Starts a PostgreSQL server with two databases and an API process on each. In one a user has 1,000 VMs, in the other VMS.
Each request goes to both in turn, one at a time, so that other work on the machine slows down both. The ratio of the
median times is the result. The exit code is 1 if one is above 1.3.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from statistics import median
from uuid import UUID, uuid4

import asyncpg
import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.http import token
from bench.lists import OPERATIONS, USER, VMS, filling
from bench.processes import api, new_database, postgres
from bench.usage import table
from domain.data import database
from domain.data.models import Operation
from domain.progress import outbox
from domain.upkeep import retention
from tests.conftest import make_settings

SMALL, LARGE, OPERATIONS_OF_EACH = 1_000, 1_000_000, 2
ALLOWED = 1.3
WARM_UP, ROUNDS = 10, 150  # requests
LONGEST, FEWEST = 12.0, 4  # seconds and turns, for what takes long
LEASED = 16
PAGES, PAGE_SIZE = 200, 100  # so far does the cursor go; page 1,000 of twenty items begins there, too
SEVERAL = "SELECT id FROM vms WHERE owner_id = $1 AND status = 'ACTIVE' ORDER BY created_at DESC LIMIT 2000"
# Filling has kept the triggers still that do this.
PROJECT = "INSERT INTO projects (id, name, personal_of) VALUES ($1, 'bench', $1)"
NO_QUOTA = "UPDATE default_quotas SET vms = 0"
# Its age is that of the VM in the middle, so neither end of a list is near it.
ODD_ONE = "UPDATE vms SET name = 'a-needle-in-it' WHERE owner_id = $1 AND name = 'vm-' || $2::int / 2"
USE = "INSERT INTO project_usage (project_id, vms) VALUES ($1, $2)"
LISTS = {
    "first page": "/vms",
    "first page, sorted by name": "/vms?sort=name",
    "filter by a label that all have": "/vms?labels=env=prod",
    "filter by a label that one has": "/vms?labels=n=77",
    "filter by a part of a name that many have": "/vms?name=vm-1",
    "filter by a part of a name that one in a thousand has": "/vms?name=vm-777",
    "filter by a part of a name that one has": "/vms?name=needle",
    "operations, first page": "/operations",
}


@dataclass
class Place:
    """A database of one owner, with an API process."""

    http: httpx.AsyncClient
    engine: AsyncEngine
    vms: "itertools.cycle[UUID]"
    flavor: str
    deep: str = ""
    claimed: "itertools.cycle[UUID]" = field(default_factory=lambda: itertools.cycle([]))

    async def get(self, path: str) -> None:
        """Read."""
        (await self.http.get(path)).raise_for_status()

    async def get_one(self) -> None:
        """Read a VM, another one each time."""
        await self.get(f"/vms/{next(self.vms)}")

    async def create(self) -> None:
        """Create a VM."""
        (await self.http.post("/vms", json={"name": "new", "flavor_id": self.flavor})).raise_for_status()

    async def claim(self) -> None:
        """Stop a VM, another one each time: the operation claims it."""
        (await self.http.post(f"/vms/{next(self.claimed)}/actions/stop")).raise_for_status()

    async def lease(self) -> None:
        """Lease operations for delivery, and give them back."""
        async with self.engine.connect() as tx:
            await outbox.lease_operations(tx, LEASED, 10)

    async def check(self) -> None:
        """Lease checks of workflows, as recovery does, and give them back."""
        async with self.engine.connect() as tx:
            await outbox.lease_checks(tx, LEASED, 10)

    async def retain(self) -> None:
        """Delete a batch of old operations, as housekeeping does, and take it back."""
        [old] = [each for each in retention.expiries(1) if each.model is Operation]
        async with self.engine.connect() as tx:
            await retention.delete_batch(tx, replace(old, age=timedelta()), None)

    async def find_deep_page(self) -> None:
        """Follow the cursors; in a short list to its last page but one."""
        path = f"/vms?page_size={PAGE_SIZE}"
        for _ in range(PAGES):
            cursor = (await self.http.get(path)).json()["next_cursor"]
            if cursor is None:
                break
            path = f"/vms?page_size={PAGE_SIZE}&cursor={cursor}"
            self.deep = f"/vms?page_size=20&cursor={cursor}"


async def fill(url: str, count: int, operations: int) -> UUID:
    """Add a user with so many VMs, and operations of each; returns the user's id."""
    owner = uuid4()
    async with filling(url) as connection:
        await connection.execute(USER, owner, "bench")
        await connection.execute(PROJECT, owner)
        await connection.execute(NO_QUOTA)
        await connection.execute(USE, owner, count)
        await connection.execute(VMS, owner, count, None)
        for _ in range(operations):
            await connection.execute(OPERATIONS, owner)
        await connection.execute(ODD_ONE, owner, count)
    return owner


async def place(url: str, address: str, owner: UUID) -> Place:
    """Get ready to send requests as the owner."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    ids = [row[0] for row in await connection.fetch(SEVERAL, owner)]
    flavor = await connection.fetchval("SELECT id::text FROM flavors WHERE name = 'm1.tiny'")
    await connection.close()
    headers = {"Authorization": f"Bearer {token('bench', owner)}"}
    http = httpx.AsyncClient(base_url=address, timeout=60, headers=headers)
    found = Place(http, database.create_engine(make_settings(url)), itertools.cycle(ids), flavor)
    found.claimed = itertools.cycle(ids)
    await found.find_deep_page()
    return found


KINDS: Mapping[str, Callable[[Place], Awaitable[None]]] = {
    "GET of a VM": Place.get_one,
    "POST of a VM": Place.create,
    "claim: stop of a VM": Place.claim,
    **{name: lambda place, path=path: place.get(path) for name, path in LISTS.items()},  # type: ignore[misc]
    "page 1,000 by cursor": lambda place: place.get(place.deep),
    "relay: lease of 16 operations": Place.lease,
    "recovery: lease of 16 checks": Place.check,
    "housekeeping: a batch of old operations": Place.retain,
}


async def measure(urls: Mapping[str, str], owners: Mapping[str, UUID], addresses: Mapping[str, str]) -> bool:
    """Print a row for each kind; returns whether all ratios are allowed."""
    places = {name: await place(urls[name], addresses[name], owners[name]) for name in urls}
    rows = []
    for name, send in KINDS.items():
        taken: dict[str, list[float]] = {each: [] for each in places}
        ends_at = time.perf_counter() + LONGEST
        for turn in range(WARM_UP + ROUNDS):
            for each, times in taken.items():
                begun = time.perf_counter()
                await send(places[each])
                times.append(1000 * (time.perf_counter() - begun))
            if turn >= FEWEST and time.perf_counter() > ends_at:
                break
        few, many = (median(times[min(WARM_UP, len(times) // 2) :]) for times in taken.values())
        print(f"{name}: {few:.3g}, {many:.3g}", file=sys.stderr, flush=True)
        rows.append((name, few, many, many / few))
    for one in places.values():
        await one.http.aclose()
        await database.close(one.engine)
    table("one at a time", "of 1,000 VMs, ms", "of many, ms", "ratio", rows=rows)
    return all(ratio <= ALLOWED for *_, ratio in rows)


def main() -> None:
    """Fill, measure, stop."""
    large, each = [*map(int, sys.argv[1:]), *(LARGE, OPERATIONS_OF_EACH)[len(sys.argv) - 1 :]]
    sizes = {"small": SMALL, "large": large}
    # What is measured does not wait for the disk, and the rows are filled in faster.
    with ExitStack() as stack:
        server = stack.enter_context(postgres("-F", "-cmax_wal_size=8GB", "-cmaintenance_work_mem=512MB"))
        urls = {name: new_database(server.url, name) for name in sizes}
        owners = {}
        for name, size in sizes.items():
            begun = time.monotonic()
            owners[name] = asyncio.run(fill(urls[name], size, each))
            print(f"{size:,} VMs and {each * size:,} operations in {time.monotonic() - begun:.0f} s", flush=True)
        services = {name: stack.enter_context(api(url)) for name, url in urls.items()}
        good = asyncio.run(measure(urls, owners, {name: service.url for name, service in services.items()}))
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
