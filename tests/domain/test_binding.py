"""A database belongs to one cloud as long as it has something that is there."""

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.cloud import BoundCloud
from domain.data.models import VM, Snapshot, Volume
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Status
from domain.upkeep.binding import OtherCloudError, bind
from tests.support.rows import add_snapshot, add_user, add_vm, add_volume


async def bound(engine: AsyncEngine) -> list[tuple[str, str]]:
    """Return the cloud that the database is bound to."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(BoundCloud.backend, BoundCloud.identity))
        return [(row.backend, row.identity) for row in rows]


async def test_a_migrated_database_is_bound_and_an_empty_one_follows_the_settings(engine: AsyncEngine) -> None:
    assert await bound(engine) == [("mock", "mock")]
    for identity in ("project p", "project q"):
        async with engine.begin() as tx:
            await bind(tx, "openstack", identity)
        assert await bound(engine) == [("openstack", identity)]


@pytest.mark.parametrize("filled", [VM, Volume, Snapshot])
@pytest.mark.parametrize(("backend", "identity"), [("openstack", "project q"), ("mock", "mock"), ("mock", None)])
async def test_a_filled_database_refuses_another_cloud(
    engine: AsyncEngine, filled: type[VM | Volume | Snapshot], backend: str, identity: str | None
) -> None:
    async with engine.begin() as tx:
        await bind(tx, "openstack", "project p")
        vm = await add_vm(tx, user := await add_user(tx), status=Status.ACTIVE if filled is VM else Status.DELETED)
        await add_volume(tx, user, status=VolumeStatus.AVAILABLE if filled is Volume else VolumeStatus.DELETED)
        await add_snapshot(tx, vm, status=SnapshotStatus.AVAILABLE if filled is Snapshot else SnapshotStatus.DELETED)
    with pytest.raises(OtherCloudError, match=r"of openstack \(project p\)"):
        async with engine.begin() as tx:
            await bind(tx, backend, identity)
    for known in ("project p", None):
        async with engine.begin() as tx:
            await bind(tx, "openstack", known)
    async with engine.begin() as tx:
        await tx.execute(update(filled).values(status="DELETED"))
        await bind(tx, backend, identity)
    assert await bound(engine) == [(backend, identity) if identity else ("openstack", "project p")]


async def test_a_filled_database_of_an_earlier_version_is_bound_to_the_first_cloud_that_says_who_it_is(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as tx:
        await tx.execute(delete(BoundCloud))
        await add_vm(tx, await add_user(tx))
        await bind(tx, "openstack", None)
    assert await bound(engine) == []
    async with engine.begin() as tx:
        await bind(tx, "openstack", "project p")
    assert await bound(engine) == [("openstack", "project p")]
