"""What is left over from operations that have ended is removed after two sightings and a while, and nothing else."""

from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import Token
from activities.backends.resources import InventoryPage, Listed, Ref
from activities.recovery import leftovers
from activities.recovery import reconciler as reconciler_module
from activities.recovery.reconciler import Reconciler
from domain.data.models import VM, Operation, Snapshot, Volume
from domain.rules.resources import Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status
from domain.settings import Settings
from domain.upkeep.findings import Drift
from tests.activities.conftest import CancelRecorder
from tests.activities.drift import add_idle_vm, recorded_findings
from tests.support.rows import add_operation, add_snapshot, add_user, add_vm, add_volume

DOUBLE = str(uuid4())
FAILED, SUCCEEDED = OperationStatus.FAILED, OperationStatus.SUCCEEDED


class Cloud(MockBackend):
    """A cloud that has more than the mock can have, and notes what it is asked to remove."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.more: dict[Kind, dict[str, Listed]] = {}
        self.removed: list[tuple[str, Ref]] = []

    async def inventory(self, kind: Kind, marker: str | None) -> InventoryPage:
        page = await super().inventory(kind, marker)
        return InventoryPage({**page.items, **self.more.get(kind, {})}, page.next)

    async def purge(self, vm: Ref) -> None:
        self.removed.append(("server", vm))

    async def delete_volume(self, token: Token, volume: Ref) -> None:
        assert token.compensates
        self.removed.append(("volume", volume))

    async def delete_image(self, token: Token, image: Ref) -> None:
        assert token.compensates
        self.removed.append(("image", image))

    async def delete_server_interface(self, token: Token, vm: Ref, port: Ref) -> None:
        assert token.compensates
        self.removed.append((f"port of {vm.id}", port))


@pytest.fixture
async def cloud(settings: Settings) -> Any:
    """The cloud."""
    cloud = Cloud(settings)
    yield cloud
    await cloud.close()


@pytest.fixture
def sweep(engine: AsyncEngine, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compares twice and returns what was removed; no leftover is too young."""
    monkeypatch.setattr(reconciler_module, "INTERVAL", 0.0)
    monkeypatch.setattr(leftovers, "MIN_AGE", 0.0)
    reconciler = Reconciler(engine, cloud, cast("Client", CancelRecorder()))

    async def sweep() -> list[tuple[str, Ref]]:
        await reconciler.reconcile()
        assert cloud.removed == []
        await reconciler.reconcile()
        return cloud.removed

    return sweep


async def add_built(engine: AsyncEngine, cloud: Cloud, made: OperationStatus) -> tuple[VM, Operation]:
    """Add a VM whose server exists, or whose build has failed, and the operation that built it."""
    if made is SUCCEEDED:
        vm = await add_idle_vm(engine, cloud)
        (cloud_id,) = (await cloud.inventory(Kind.VM, None)).items
    else:
        async with engine.begin() as tx:
            vm = await add_vm(tx, await add_user(tx), status=Status.ERROR, launched=False)
        cloud_id = str(uuid4())
    async with engine.begin() as tx:
        build = await add_operation(tx, vm, Action.CREATE, status=made)
        await tx.execute(update(VM).values(cloud_id=cloud_id, operation_id=build.id))
    return vm, build


@pytest.mark.parametrize("made", [SUCCEEDED, FAILED])
async def test_the_double_of_a_server_is_removed_alone(
    engine: AsyncEngine, cloud: Cloud, sweep: Any, made: OperationStatus
) -> None:
    """The ref has no id of the VM, whose ports and server must stay."""
    vm, build = await add_built(engine, cloud, made)
    cloud.more[Kind.VM] = {DOUBLE: Listed(vm.id, "ACTIVE", operation_id=build.id)}
    assert await sweep() == [("server", Ref(UUID(DOUBLE), DOUBLE))]
    assert (Drift.ORPHAN_SERVER, vm.id, False) in await recorded_findings(engine)


async def test_a_server_that_appears_after_its_build_was_undone_is_removed(
    engine: AsyncEngine, cloud: Cloud, sweep: Any
) -> None:
    vm, build = await add_built(engine, cloud, FAILED)
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(cloud_id=None))
    cloud.more[Kind.VM] = {DOUBLE: Listed(vm.id, "ACTIVE", operation_id=build.id)}
    assert await sweep() == [("server", Ref(UUID(DOUBLE), DOUBLE))]


@pytest.mark.parametrize(
    "values",
    [
        {"operation_id": uuid4()},  # another operation has held the VM since
        {"cloud_id": DOUBLE},  # the undo was refused, and the owner must delete the VM
        {"launched_at": "now()"},
    ],
    ids=["held by another operation", "the recorded server", "launched"],
)
async def test_the_server_of_a_live_vm_stays(
    engine: AsyncEngine, cloud: Cloud, sweep: Any, values: dict[str, Any]
) -> None:
    vm, build = await add_built(engine, cloud, FAILED)
    values = values | ({"launched_at": build.created_at} if "launched_at" in values else {})
    async with engine.begin() as tx:
        await tx.execute(update(VM).values({"cloud_id": None} | values))
    cloud.more[Kind.VM] = {DOUBLE: Listed(vm.id, "ACTIVE", operation_id=build.id)}
    assert await sweep() == []


@pytest.mark.parametrize(
    "make",
    [
        lambda build: Listed(build.resource_id, "ACTIVE"),
        lambda build: Listed(build.resource_id, "ACTIVE", operation_id=uuid4()),
    ],
    ids=["no mark of an operation", "an operation that nobody knows"],
)
async def test_a_double_that_cannot_be_proved_ours_stays(
    engine: AsyncEngine, cloud: Cloud, sweep: Any, make: Any
) -> None:
    vm, build = await add_built(engine, cloud, SUCCEEDED)
    cloud.more[Kind.VM] = {DOUBLE: make(build)}
    assert await sweep() == []
    assert await recorded_findings(engine) == [(Drift.ORPHAN_SERVER, vm.id, True)]


async def test_a_double_of_a_running_build_or_of_a_server_that_is_gone_stays(
    engine: AsyncEngine, cloud: Cloud, sweep: Any
) -> None:
    vm, build = await add_built(engine, cloud, SUCCEEDED)
    cloud.more[Kind.VM] = {DOUBLE: Listed(vm.id, "ACTIVE", operation_id=build.id)}
    async with engine.begin() as tx:
        await tx.execute(update(Operation).values(status=OperationStatus.RUNNING, finished_at=None))
    assert await sweep() == []
    async with engine.begin() as tx:
        await tx.execute(update(Operation).values(status=SUCCEEDED, finished_at=build.created_at))
        await tx.execute(update(VM).values(cloud_id="gone"))
    assert await sweep() == []


async def test_a_leftover_must_be_old_enough(
    engine: AsyncEngine, cloud: Cloud, sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "MIN_AGE", 60.0)
    vm, build = await add_built(engine, cloud, SUCCEEDED)
    cloud.more[Kind.VM] = {DOUBLE: Listed(vm.id, "ACTIVE", operation_id=build.id)}
    assert await sweep() == []


@pytest.mark.parametrize("exists", [True, False])
async def test_doubles_of_volumes_and_images_are_removed_if_the_rows_own_exist(
    engine: AsyncEngine, cloud: Cloud, sweep: Any, *, exists: bool
) -> None:
    vm = await add_idle_vm(engine, cloud)
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx))
        snapshot = await add_snapshot(tx, vm)
        make = await add_operation(tx, vm, Action.CREATE_VOLUME, status=SUCCEEDED, resource_id=volume.id)
        save = await add_operation(tx, vm, Action.SNAPSHOT, status=SUCCEEDED, resource_id=snapshot.id)
    ids = [
        await cloud.create_volume(Token(make.id, "make"), volume.id, "data", 1),
        await cloud.create_server_image(Token(save.id, "save"), Ref(vm.id), snapshot.id, "before"),
    ]
    async with engine.begin() as tx:
        for model, id in zip((Volume, Snapshot), ids, strict=True):
            await tx.execute(update(model).values(cloud_id=id if exists else f"not {id}"))
    cloud.more = {
        Kind.VOLUME: {DOUBLE: Listed(volume.id, "available", operation_id=make.id, created_at=make.created_at)},
        Kind.SNAPSHOT: {DOUBLE: Listed(snapshot.id, "queued", operation_id=save.id)},
    }
    doubles = [("volume", Ref(volume.id, DOUBLE)), ("image", Ref(snapshot.id, DOUBLE))]
    assert await sweep() == (doubles if exists else [])


@pytest.mark.parametrize("age", [timedelta(minutes=-5), timedelta(days=1), None])
@pytest.mark.parametrize("status", [VolumeStatus.AVAILABLE, VolumeStatus.DELETED])
async def test_a_volume_that_was_restored_from_a_backup_stays(
    engine: AsyncEngine, cloud: Cloud, sweep: Any, status: VolumeStatus, age: timedelta | None
) -> None:
    """It has the marks of the volume that was backed up. Somebody has made it now, or had it before."""
    vm = await add_idle_vm(engine, cloud)
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=status)
        make = await add_operation(tx, vm, Action.CREATE_VOLUME, status=SUCCEEDED, resource_id=volume.id, holds=False)
    if status is VolumeStatus.AVAILABLE:
        await cloud.create_volume(Token(make.id, "make"), volume.id, "data", volume.size_gb)
    async with engine.begin() as tx:
        ours = next(iter((await cloud.inventory(Kind.VOLUME, None)).items), "deleted")
        await tx.execute(update(Volume).values(cloud_id=ours, operation_id=make.id))
    created_at = make.created_at - age if age else None
    cloud.more[Kind.VOLUME] = {DOUBLE: Listed(volume.id, "available", operation_id=make.id, created_at=created_at)}
    assert await sweep() == []
    assert [(drift, is_open) for drift, _, is_open in await recorded_findings(engine)] == [(Drift.ORPHAN_VOLUME, True)]


@pytest.mark.parametrize("kind", [Kind.VOLUME, Kind.SNAPSHOT])
async def test_a_volume_or_an_image_that_appears_after_its_making_was_undone_is_removed(
    engine: AsyncEngine, cloud: Cloud, sweep: Any, kind: Kind
) -> None:
    vm = await add_idle_vm(engine, cloud)
    async with engine.begin() as tx:
        if kind is Kind.VOLUME:
            row: Any = await add_volume(tx, await add_user(tx), status=VolumeStatus.ERROR)
        else:
            row = await add_snapshot(tx, vm, status=SnapshotStatus.ERROR)
        action = Action.CREATE_VOLUME if kind is Kind.VOLUME else Action.SNAPSHOT
        maker = await add_operation(tx, vm, action, status=FAILED, resource_id=row.id)
        await tx.execute(update(Volume if kind is Kind.VOLUME else Snapshot).values(operation_id=maker.id))
    cloud.more[kind] = {DOUBLE: Listed(row.id, "available", operation_id=maker.id)}
    assert await sweep() == [("volume" if kind is Kind.VOLUME else "image", Ref(row.id, DOUBLE))]


@pytest.mark.parametrize("is_plugged", [True, False])
async def test_a_port_that_no_interface_has_is_removed_unless_it_is_plugged_in(
    engine: AsyncEngine, cloud: Cloud, sweep: Any, *, is_plugged: bool
) -> None:
    vm, port_id = await add_idle_vm(engine, cloud), uuid4()
    cloud.more[Kind.INTERFACE] = {DOUBLE: Listed(port_id, "DOWN", vm.id, is_plugged=is_plugged)}
    assert await sweep() == ([] if is_plugged else [(f"port of {vm.id}", Ref(port_id, DOUBLE))])
    assert await recorded_findings(engine) == [(Drift.ORPHAN_PORT, port_id, is_plugged)]
