"""Volumes follow the cloud into ERROR, and out of it once it has repaired them or taken them from their VMs."""

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
    ("was", "is_attached", "state", "kind", "becomes"),
    [
        (VolumeStatus.ERROR, False, VolumeState.AVAILABLE, Drift.VOLUME_RECOVERED, VolumeStatus.AVAILABLE),
        (VolumeStatus.ERROR, False, VolumeState.IN_USE, Drift.VOLUME_ELSEWHERE, VolumeStatus.ERROR),
        (VolumeStatus.ERROR, False, VolumeState.ERROR, None, VolumeStatus.ERROR),
        (VolumeStatus.ERROR, False, None, None, VolumeStatus.ERROR),
        (VolumeStatus.ERROR, True, VolumeState.IN_USE, Drift.VOLUME_RECOVERED, VolumeStatus.IN_USE),
        (VolumeStatus.ERROR, True, VolumeState.AVAILABLE, Drift.VOLUME_DETACHED, VolumeStatus.AVAILABLE),
        (VolumeStatus.ERROR, True, VolumeState.ERROR, None, VolumeStatus.ERROR),
        (VolumeStatus.ERROR, True, None, Drift.VOLUME_GONE, VolumeStatus.ERROR),
        (VolumeStatus.AVAILABLE, False, VolumeState.ERROR, Drift.VOLUME_ERROR, VolumeStatus.ERROR),
        (VolumeStatus.IN_USE, True, VolumeState.ERROR, Drift.VOLUME_ERROR, VolumeStatus.ERROR),
    ],
)
async def test_a_volume_follows_the_cloud_into_error_and_out_of_it(  # noqa: PLR0913 - a row of the table each
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    was: VolumeStatus,
    *,
    is_attached: bool,
    state: VolumeState | None,
    kind: Drift | None,
    becomes: VolumeStatus,
) -> None:
    """Nothing else would end that state: a volume in ERROR cannot be detached, and an attached one not be deleted."""
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=was, cloud_id="lost")
        if is_attached:
            await add_attachment(tx, vm, volume)
    if state:
        has_vm = {"vm_id": vm.id, "device": "/dev/vdb"} if is_attached and state is not VolumeState.AVAILABLE else {}
        await add_known_volume(engine, backend, volume.id, state=state, **has_vm)
    await reconciler.reconcile()
    await reconciler.reconcile()
    (after,) = await all_rows(engine, Volume)
    assert after.status is becomes
    keeps = is_attached and kind in {None, Drift.VOLUME_ERROR, Drift.VOLUME_RECOVERED}
    assert len(await all_rows(engine, Attachment)) == keeps
    is_open = kind is Drift.VOLUME_ELSEWHERE
    assert await recorded_findings(engine) == ([(kind, volume.id, is_open)] if kind else [])
