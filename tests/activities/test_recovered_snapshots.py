"""A snapshot whose image was missing for a while is AVAILABLE again, and nothing deletes its image meanwhile."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import images
from activities.recovery.reconciler import Reconciler
from domain.data.models import VM, Operation, Snapshot
from domain.progress import resource_claims
from domain.rules.resources import Kind, SnapshotStatus
from domain.rules.states import Action, OperationStatus
from domain.upkeep.findings import Drift
from tests.activities.drift import add_idle_vm, all_rows, change_cloud, recorded_findings, recorded_repairs
from tests.support.rows import add_operation, add_snapshot


async def reconcile_twice(reconciler: Reconciler) -> None:
    await reconciler.reconcile()
    await reconciler.reconcile()


async def lose(engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler) -> tuple[VM, Snapshot]:
    """Add a VM with a snapshot whose image the cloud does not show, and compare until that is known."""
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        snapshot = await add_snapshot(tx, vm, cloud_id=str(uuid4()))
    await reconcile_twice(reconciler)
    return vm, snapshot


@pytest.mark.parametrize("vm_is_deleted", [False, True])
async def test_it_comes_back_with_its_image(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, *, vm_is_deleted: bool
) -> None:
    """Glance may show no image for a minute, or somebody may deactivate an account of its store."""
    vm, snapshot = await lose(engine, backend, reconciler)
    [lost] = await all_rows(engine, Snapshot)
    assert lost.status is SnapshotStatus.ERROR
    if vm_is_deleted:
        async with engine.begin() as tx:
            await resource_claims.take_over(tx, vm.id, uuid4())
        assert await all_rows(engine, Snapshot) == [lost], "the image may come back, so the delete leaves it"
    await add_image(engine, snapshot)
    await reconcile_twice(reconciler)
    [found] = await all_rows(engine, Snapshot)
    assert found.status is SnapshotStatus.AVAILABLE
    assert await recorded_findings(engine) == [
        (Drift.IMAGE_GONE, snapshot.id, False),
        (Drift.IMAGE_RECOVERED, snapshot.id, False),
    ]
    repairs = [(repair.resource_id, repair.vm_id, repair.input["status"]) for repair in await recorded_repairs(engine)]
    assert sorted(repairs, key=str) == [(snapshot.id, vm.id, "AVAILABLE"), (snapshot.id, vm.id, "ERROR")]


async def test_it_comes_back_after_a_delete_that_was_canceled_before_it_began(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    """The canceled delete has claimed the row, so the row no longer names the repair."""
    vm, snapshot = await lose(engine, backend, reconciler)
    async with engine.begin() as tx:
        canceled = await add_operation(
            tx,
            vm,
            Action.DELETE_SNAPSHOT,
            status=OperationStatus.CANCELED,
            resource_type=Kind.SNAPSHOT,
            resource_id=snapshot.id,
        )
        await tx.execute(update(Snapshot).values(operation_id=canceled.id))
        await resource_claims.take_over(tx, vm.id, uuid4())
    await add_image(engine, snapshot)
    await reconcile_twice(reconciler)
    [found] = await all_rows(engine, Snapshot)
    assert found.status is SnapshotStatus.AVAILABLE


async def test_an_image_that_is_not_complete_changes_nothing(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    _, snapshot = await lose(engine, backend, reconciler)
    await add_image(engine, snapshot)
    await change_cloud(engine, images, fault="The store is full.")
    await reconcile_twice(reconciler)
    [row] = await all_rows(engine, Snapshot)
    assert row.status is SnapshotStatus.ERROR


async def test_a_snapshot_that_was_never_complete_does_not_come_back(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    """Its operation failed, so its image may have any content. A delete of its VM takes it, too."""
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        snapshot = await add_snapshot(tx, vm, status=SnapshotStatus.ERROR, cloud_id=str(uuid4()))
        began, status = datetime.now(UTC), OperationStatus.FAILED
        taken = await add_operation(
            tx,
            vm,
            Action.SNAPSHOT,
            status=status,
            resource_type=Kind.SNAPSHOT,
            resource_id=snapshot.id,
            started_at=began,
        )
        await tx.execute(update(Snapshot).values(operation_id=taken.id))
    await add_image(engine, snapshot)
    await reconcile_twice(reconciler)
    async with engine.begin() as tx:
        deletion = await add_operation(tx, vm, Action.DELETE)
        await resource_claims.take_over(tx, vm.id, deletion.id)
        holder = await tx.scalar(select(Operation.action).join(Snapshot, Snapshot.operation_id == Operation.id))
    [row] = await all_rows(engine, Snapshot)
    assert (row.status, holder) == (SnapshotStatus.DELETING, Action.DELETE)


async def add_image(engine: AsyncEngine, snapshot: Snapshot) -> None:
    """Add the complete image of a snapshot to the cloud."""
    row = {"id": snapshot.id, "cloud_id": snapshot.cloud_id, "vm_id": snapshot.vm_id, "name": snapshot.name}
    async with engine.begin() as tx:
        await tx.execute(insert(images).values(**row, content="disk", due_at=func.now()))


async def add_copies(tx: AsyncConnection, model: type[Snapshot | Operation], id: UUID, number: int) -> None:
    """Add copies of a row, with ids of their own."""
    row = (await tx.execute(select(model).where(model.id == id))).mappings().one()
    values = {name: value for name, value in row.items() if name != "changed"}
    await tx.execute(insert(model), [values | {"id": uuid4()} for _ in range(number)])


async def test_snapshots_that_were_canceled_cost_one_look_at_the_operations_of_their_vm(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    """One look for each of them took longer than a statement may, and no comparison came to its end."""
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        canceled = await add_operation(tx, vm, Action.SNAPSHOT, status=OperationStatus.CANCELED, holds=False)
        snapshot = await add_snapshot(tx, vm, status=SnapshotStatus.ERROR, operation_id=canceled.id)
        await add_copies(tx, Snapshot, snapshot.id, 300)
        await add_copies(tx, Operation, canceled.id, 3_000)
    await reconcile_twice(reconciler)
    assert await recorded_findings(engine) == []
    read = text("SELECT pg_stat_get_xact_tuples_fetched('operations'::regclass)")
    async with engine.begin() as tx:
        before = await tx.scalar(read) or 0
        await resource_claims.take_over(tx, vm.id, uuid4())
        assert (await tx.scalar(read) or 0) - before < 10_000
