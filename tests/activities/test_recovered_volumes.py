"""Volumes follow the cloud into ERROR, and out of it once it has repaired them or taken them from their VMs."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import volumes
from activities.backends.protocol import Token
from activities.backends.resources import Ref
from activities.recovery.reconciler import Reconciler
from domain.data.models import VM, Attachment, Operation, Volume
from domain.rules.cloud import VolumeState
from domain.rules.resources import VolumeStatus
from domain.rules.states import Action, OperationStatus, Status
from domain.upkeep.findings import Drift
from migrations.embedded_postgres import WORKER_ROLE
from tests.activities.drift import add_idle_vm, all_rows, change_cloud, recorded_findings, recorded_repairs
from tests.support.rows import add_attachment, add_operation, add_user, add_volume, read_vm


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


async def lose(engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler) -> tuple[VM, Attachment]:
    """Add a VM with a volume that the cloud does not show, and compare until the VM has lost it."""
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=VolumeStatus.IN_USE, cloud_id="lost")
        await add_attachment(tx, vm, volume, delete_on_termination=True)
    [attachment] = await all_rows(engine, Attachment)
    await reconcile(reconciler)
    [lost] = await all_rows(engine, Volume)
    assert (lost.status, await all_rows(engine, Attachment)) == (VolumeStatus.ERROR, [])
    return vm, attachment


async def show(engine: AsyncEngine, backend: MockBackend, had: Attachment) -> None:
    """Let the cloud show the volume again, at the VM that had it."""
    at_vm = {"state": VolumeState.IN_USE, "vm_id": had.vm_id, "device": had.device}
    await add_known_volume(engine, backend, had.volume_id, **at_vm)


async def reconcile(reconciler: Reconciler) -> None:
    for _ in range(2):
        await reconciler.reconcile()


async def test_a_volume_that_was_missing_at_its_vm_is_attached_again(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    """Cinder may not show it for a minute. The attachment must outlive that."""
    vm, had = await lose(engine, backend, reconciler)
    await show(engine, backend, had)
    before = await read_vm(engine, vm.id)
    await reconcile(reconciler)
    [volume], [attachment] = await all_rows(engine, Volume), await all_rows(engine, Attachment)
    assert volume.status is VolumeStatus.IN_USE
    kept = ("vm_id", "volume_id", "device", "status", "delete_on_termination")
    assert [getattr(attachment, name) for name in kept] == [getattr(had, name) for name in kept]
    assert (await read_vm(engine, vm.id)).updated_at > before.updated_at
    assert (Drift.VOLUME_RECOVERED, had.volume_id, False) in await recorded_findings(engine)
    operations = [(repair.vm_id, repair.input["status"]) for repair in await recorded_repairs(engine)]
    assert sorted(operations) == [(vm.id, "ERROR"), (vm.id, "IN_USE")]


async def test_a_volume_comes_back_without_its_device_if_another_has_got_that(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm, had = await lose(engine, backend, reconciler)
    await add_known_volume(engine, backend, had.volume_id, state=VolumeState.IN_USE, vm_id=vm.id, device="/dev/sdc")
    async with engine.begin() as tx:
        other = await add_volume(tx, await add_user(tx), status=VolumeStatus.ERROR, cloud_id="other")
        await add_attachment(tx, vm, other, device=had.device)
        await tx.execute(insert(volumes).values(id=other.id, cloud_id=uuid4(), name="", size_gb=1, state="ERROR"))
    await reconcile(reconciler)
    devices = {attachment.volume_id: attachment.device for attachment in await all_rows(engine, Attachment)}
    assert devices[had.volume_id] is None


@pytest.mark.parametrize("change", [{"status": Status.DELETED}, {"attaching": 1}])
async def test_a_volume_does_not_come_back_to_a_vm_that_is_deleted_or_at_work(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, change: dict[str, Any]
) -> None:
    _, had = await lose(engine, backend, reconciler)
    await show(engine, backend, had)
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(change))
    await reconcile(reconciler)
    [volume] = await all_rows(engine, Volume)
    assert (volume.status, await all_rows(engine, Attachment)) == (VolumeStatus.ERROR, [])
    assert (Drift.VOLUME_RECOVERED, had.volume_id, True) in await recorded_findings(engine)


@pytest.mark.parametrize("status", [OperationStatus.FAILED, OperationStatus.CANCELED])
async def test_a_delete_that_came_to_nothing_does_not_hide_how_the_volume_was_lost(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, status: OperationStatus
) -> None:
    """Its owner saw the volume in ERROR. The cloud refused the delete, because its VM has it."""
    vm, had = await lose(engine, backend, reconciler)
    await show(engine, backend, had)
    async with engine.begin() as tx:
        deletion = await add_operation(
            tx, vm, Action.DELETE_VOLUME, status=status, holds=False, resource_id=had.volume_id, vm_id=None
        )
        await tx.execute(update(Volume).values(operation_id=deletion.id))
        await tx.execute(update(Operation).values(owner_id=select(Volume.owner_id).scalar_subquery()))
    await reconcile(reconciler)
    [volume], [attachment] = await all_rows(engine, Volume), await all_rows(engine, Attachment)
    assert (volume.status, attachment.device) == (VolumeStatus.IN_USE, had.device)
    assert attachment.delete_on_termination


async def test_a_right_that_is_missing_for_one_repair_does_not_keep_others_from_theirs(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, caplog: pytest.LogCaptureFixture
) -> None:
    _, had = await lose(engine, backend, reconciler)
    await show(engine, backend, had)
    async with engine.begin() as tx:
        await tx.execute(text(f"REVOKE INSERT ON attachments FROM {WORKER_ROLE}"))
    other = await add_idle_vm(engine, backend)
    await backend.purge(Ref(other.id))
    await reconcile(reconciler)
    assert (await read_vm(engine, other.id)).status is Status.ERROR
    assert (Drift.VOLUME_RECOVERED, had.volume_id, True) in await recorded_findings(engine)
    [told] = {line for line in caplog.messages if "permission denied" in line}
    assert told == (
        f"volume {had.volume_id} still has the finding volume_recovered: InsufficientPrivilegeError 42501: permission "
        "denied for table attachments; grant the role of DATABASE_URL its rights, as docs/operations.md says"
    )


async def test_a_volume_that_an_earlier_version_lost_comes_back_without_what_is_not_known(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm, had = await lose(engine, backend, reconciler)
    await show(engine, backend, had)
    async with engine.begin() as tx:
        earlier = {"status": "ERROR", "because": "volume_gone", "seen": {"vm_id": str(vm.id), "status": "IN_USE"}}
        await tx.execute(update(Operation).where(Operation.action == Action.RESET_STATE).values(input=earlier))
    await reconcile(reconciler)
    [volume], [attachment] = await all_rows(engine, Volume), await all_rows(engine, Attachment)
    assert (volume.status, attachment.device) == (VolumeStatus.IN_USE, None)
    assert not attachment.delete_on_termination


async def test_a_volume_that_was_detached_here_does_not_come_back(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    """It came back earlier, and its owner detached it."""
    vm, had = await lose(engine, backend, reconciler)
    await show(engine, backend, had)
    async with engine.begin() as tx:
        status = OperationStatus.SUCCEEDED
        await add_operation(tx, vm, Action.DETACH_VOLUME, status=status, resource_id=had.volume_id)
    await reconcile(reconciler)
    [volume] = await all_rows(engine, Volume)
    assert (volume.status, await all_rows(engine, Attachment)) == (VolumeStatus.ERROR, [])
