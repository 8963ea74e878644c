"""Rows of the catalogue know since when the cloud no longer offers them; housekeeping deletes them by that."""

from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.catalogue import Catalogue
from activities.backends.protocol import ComputeBackend
from activities.catalogue import CatalogueReader
from domain.data.catalogue import zone_id
from domain.data.models import Flavor, Image, Network
from domain.data.placement import AvailabilityZone, SecurityGroup
from tests.activities.test_catalogue import BARE, GROUP, OFFERED, PLAIN, SMALL, Offering

NOTHING = Catalogue([], [], [])
# One of each.
ROWS: dict[Any, UUID] = {
    Flavor: UUID(SMALL.cloud_id),
    Image: PLAIN.id,
    Network: BARE.id,
    SecurityGroup: GROUP.id,
    AvailabilityZone: zone_id("north"),
}


async def test_it_is_noted_since_when_something_is_no_longer_offered(
    engine: AsyncEngine,
) -> None:
    cloud = Offering(OFFERED)
    reader = CatalogueReader(engine, cast("ComputeBackend", cloud))

    async def times() -> list[datetime | None]:
        async with engine.connect() as connection:
            times = [select(model.withdrawn_at).where(model.id == id) for model, id in ROWS.items()]
            return [await connection.scalar(each) for each in times]

    await reader.read()
    assert await times() == [None] * 5
    cloud.offered = NOTHING
    await reader.read()
    first = await times()
    assert None not in first
    await reader.read()
    assert await times() == first, "the time of the first reading without it stays"
    async with engine.begin() as tx:  # as the version before withdraws rows
        for model in ROWS:
            await tx.execute(update(model).values(withdrawn_at=None))
    await reader.read()
    assert None not in await times()
    cloud.offered = OFFERED
    await reader.read()
    assert await times() == [None] * 5
