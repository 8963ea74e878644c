"""A client that follows `changes_since` has a true copy of the VMs, whatever is committed while it reads."""

import asyncio
import random
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM
from domain.rules.states import Status
from tests.api.conftest import Person
from tests.support.rows import add_vm

LONGEST = 0.15  # seconds that a transaction takes


async def write(ada: Person, engine: AsyncEngine, fleet: list[VM], rng: random.Random) -> None:
    """Add, change or delete a VM in a transaction that commits a while after it began."""
    async with engine.begin() as tx:
        if rng.random() < 0.2:
            fleet.append(await add_vm(tx, ada.user, name=f"new-{uuid4()}"))
        else:
            values = {"status": Status.DELETED} if rng.random() < 0.1 else {"name": f"changed-{uuid4()}"}
            await tx.execute(update(VM).where(VM.id == rng.choice(fleet).id).values(values))
        await asyncio.sleep(rng.random() * LONGEST)


async def read(ada: Person, copy: dict[str, dict[str, Any]], since: str | None) -> str:
    """Bring the copy up to date and return what to ask with the next time."""
    parameters: dict[str, Any] = {"page_size": 3} | ({"changes_since": since} if since else {})
    page = (await ada.http.get("/vms", params=parameters)).json()
    next_since: str = page["next_changes_since"]
    while True:
        for vm in page["items"]:
            copy[vm["id"]] = vm
        if not page["next_cursor"]:
            return next_since
        page = (await ada.http.get("/vms", params=parameters | {"cursor": page["next_cursor"]})).json()


@pytest.mark.parametrize("seed", range(3))
async def test_a_copy_that_follows_the_changes_is_complete(ada: Person, engine: AsyncEngine, seed: int) -> None:
    """Without the minute by which `next_changes_since` lies before the reading, this fails."""
    rng, copy = random.Random(seed), dict[str, dict[str, Any]]()
    async with engine.begin() as tx:
        await tx.execute(delete(VM))
        fleet = [await add_vm(tx, ada.user, name=f"vm-{n}") for n in range(20)]
    since = None
    for _ in range(6):
        writes = [asyncio.create_task(write(ada, engine, fleet, rng)) for _ in range(4)]
        since = await read(ada, copy, since)
        await asyncio.gather(*writes)
    await read(ada, copy, since)
    answer = await ada.http.get("/vms", params={"changes_since": "2000-01-01T00:00:00Z", "page_size": 100})
    assert copy == {vm["id"]: vm for vm in answer.json()["items"]}
