"""Volumes in ERROR follow the cloud, once it has repaired them or taken them from their VMs."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import volumes
from activities.backends.protocol import Token
from activities.recovery.reconciler import Reconciler
from domain.data.models import Attachment, Volume
from domain.rules.cloud import VolumeState
from domain.rules.resources import VolumeStatus
from domain.upkeep.findings import Drift
from tests.activities.drift import add_idle_vm, all_rows, change_cloud, recorded_findings
from tests.support.rows import add_attachment, add_user, add_volume


async def add_known_volume(engine: AsyncEngine, backend: MockBackend, id: UUID, **values: Any) -> None:
    """Add a volume to the cloud, and its id there to the row."""
    cloud_id = await backend.create_volume(Token(uuid4(), "make"), id, "data", 10)
    async with engine.begin() as tx:
        await tx.execute(update(Volume).values(cloud_id=cloud_id))
    await change_cloud(engine, volumes, **values)


@pytest.mark.parametrize(
    ("state", "kind", "becomes"),
    [
        (VolumeState.AVAILABLE, Drift.VOLUME_RECOVERED, VolumeStatus.AVAILABLE),
        (VolumeState.IN_USE, Drift.VOLUME_ELSEWHERE, VolumeStatus.ERROR),
        (VolumeState.ERROR, None, VolumeStatus.ERROR),
        (None, None, VolumeStatus.ERROR),
    ],
)
async def test_a_volume_in_error_that_the_cloud_has_repaired_is_usable_again(  # noqa: PLR0913, PLR0917
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    state: VolumeState | None,
    kind: Drift | None,
    becomes: VolumeStatus,
) -> None:
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=VolumeStatus.ERROR, cloud_id="lost")
    if state:
        await add_known_volume(engine, backend, volume.id, state=state)
    await reconciler.reconcile()
    await reconciler.reconcile()
    (after,) = await all_rows(engine, Volume)
    assert after.status is becomes
    assert await recorded_findings(engine) == ([(kind, volume.id, becomes is VolumeStatus.ERROR)] if kind else [])


@pytest.mark.parametrize(
    ("state", "kind", "becomes"),
    [
        (VolumeState.IN_USE, Drift.VOLUME_RECOVERED, VolumeStatus.IN_USE),
        (VolumeState.AVAILABLE, Drift.VOLUME_DETACHED, VolumeStatus.AVAILABLE),
        (VolumeState.ERROR, None, VolumeStatus.ERROR),
        (None, Drift.VOLUME_GONE, VolumeStatus.ERROR),
    ],
)
async def test_an_attached_volume_in_error_follows_the_cloud(  # noqa: PLR0913, PLR0917
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    state: VolumeState | None,
    kind: Drift | None,
    becomes: VolumeStatus,
) -> None:
    """Nothing else would end that state: a volume in ERROR cannot be detached, and an attached one not be deleted."""
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=VolumeStatus.ERROR, cloud_id="lost")
        await add_attachment(tx, vm, volume)
    if state:
        has_vm = {"vm_id": vm.id, "device": "/dev/vdb"} if state is not VolumeState.AVAILABLE else {}
        await add_known_volume(engine, backend, volume.id, state=state, **has_vm)
    await reconciler.reconcile()
    await reconciler.reconcile()
    (after,) = await all_rows(engine, Volume)
    assert after.status is becomes
    keeps = kind is None or kind is Drift.VOLUME_RECOVERED
    assert len(await all_rows(engine, Attachment)) == keeps
    assert await recorded_findings(engine) == ([(kind, volume.id, False)] if kind else [])
