"""The repairs of the reconciler: the database adopts the cloud's state, and deleted resources leave the cloud."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode, images, ports, servers, volumes
from activities.backends.protocol import Token
from activities.backends.resources import Ref
from activities.recovery.reconciler import Reconciler
from domain.data.models import Attachment, Interface, Snapshot, Volume
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.resources import Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status
from domain.settings import Settings
from domain.upkeep.findings import ACTOR, Drift
from tests.activities.cloud import add_server, complete_changes, free_servers, inventory, server_spec
from tests.activities.conftest import CancelRecorder
from tests.activities.drift import add_idle_vm, all_rows, change_cloud, recorded_findings, recorded_repairs
from tests.support.rows import (
    FLAVOR_IDS,
    add_attachment,
    add_interface,
    add_operation,
    add_snapshot,
    add_user,
    add_vm,
    add_volume,
    read_vm,
)


@pytest.mark.parametrize(
    ("status", "server", "kind", "becomes"),
    [
        (Status.ACTIVE, ServerStatus.SHUTOFF, Drift.POWER_STATE, Status.SHUTOFF),
        (Status.SHUTOFF, ServerStatus.ACTIVE, Drift.POWER_STATE, Status.ACTIVE),
        (Status.ACTIVE, ServerStatus.ERROR, Drift.SERVER_ERROR, Status.ERROR),
        (Status.ACTIVE, None, Drift.SERVER_GONE, Status.ERROR),
        (Status.VERIFY_RESIZE, None, Drift.SERVER_GONE, Status.ERROR),
    ],
)
async def test_the_vm_adopts_the_status_of_its_server_and_an_operation_records_it(  # noqa: PLR0913, PLR0917 - a row of the table each
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    status: Status,
    server: ServerStatus | None,
    kind: Drift,
    becomes: Status,
) -> None:
    vm = await add_idle_vm(engine, backend, status)
    await change_cloud(engine, servers, **({"status": server} if server else {}))
    await reconciler.reconcile()
    await reconciler.reconcile()
    after = await read_vm(engine, vm.id)
    assert (after.status, after.task_state) == (becomes, None)
    assert (after.fault or {}).get("code") == (kind if becomes is Status.ERROR else None)
    (reset,) = await recorded_repairs(engine)
    assert (reset.status, reset.actor, reset.vm_id, reset.id) == ("SUCCEEDED", ACTOR, vm.id, after.operation_id)
    assert (reset.input["status"], reset.input["because"]) == (becomes, kind)
    assert await recorded_findings(engine) == [(kind, vm.id, False)]
    await reconciler.reconcile()
    assert len(await recorded_repairs(engine)) == 1


@pytest.mark.parametrize("size", ["m1.small", "m1.medium"])
async def test_a_resize_that_was_decided_in_the_cloud_is_adopted(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, temporal_client: CancelRecorder, size: str
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE, flavor_id=FLAVOR_IDS["m1.medium"])
        resize = await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
    await add_server(engine, backend, vm.id, size)
    await reconciler.reconcile()
    await reconciler.reconcile()
    after = await read_vm(engine, vm.id)
    assert (after.status, after.flavor_id, after.confirm_by) == (Status.ACTIVE, FLAVOR_IDS[size], None)
    assert temporal_client.canceled == [resize.workflow_id]


@pytest.mark.parametrize(
    ("status", "values", "kind"),
    [
        (Status.ACTIVE, {"status": ServerStatus.PAUSED}, Drift.SERVER_STATUS),
        (Status.ACTIVE, {"vcpus": 63}, Drift.SERVER_SIZE),
        (Status.ERROR, {"status": ServerStatus.VERIFY_RESIZE}, Drift.SERVER_STATUS),
    ],
)
async def test_findings_that_need_a_decision_are_only_reported(  # noqa: PLR0913, PLR0917
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    status: Status,
    values: dict[str, Any],
    kind: Drift,
) -> None:
    vm = await add_idle_vm(engine, backend, status)
    await change_cloud(engine, servers, **values)
    for _ in range(3):
        await reconciler.reconcile()
    assert await recorded_findings(engine) == [(kind, vm.id, True)]
    assert await read_vm(engine, vm.id) == vm


async def test_servers_and_ports_of_deleted_vms_are_removed_and_unknown_ones_reported(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    deleted, without_server = [await add_idle_vm(engine, backend, Status.DELETED) for _ in range(2)]
    async with engine.begin() as tx:
        await tx.execute(delete(servers).where(servers.c.vm_id == without_server.id))
        row = {"network_id": uuid4(), "ip_address": "10.0.0.9", "mac_address": "fa:16:3e:00:00:09"}
        await tx.execute(ports.insert().values(vm_id=without_server.id, **row))
    unknown = uuid4()
    await backend.create_server(Token(uuid4(), "spawning"), server_spec(unknown))
    await complete_changes(engine, backend, unknown)
    await reconciler.reconcile()
    assert len(await inventory(backend, Kind.VM)) == 2
    await reconciler.reconcile()
    assert set(await inventory(backend, Kind.VM)) == {unknown}
    assert await inventory(backend, Kind.INTERFACE) == {}
    assert set(await recorded_findings(engine)) == {
        (Drift.ORPHAN_SERVER, deleted.id, False),
        (Drift.ORPHAN_PORT, without_server.id, False),
        (Drift.ORPHAN_SERVER, unknown, True),
    }


async def test_deleted_volumes_and_images_are_removed_and_unknown_ones_reported(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        user = await add_user(tx)
        volume = await add_volume(tx, user, status=VolumeStatus.DELETED)
        snapshot = await add_snapshot(tx, vm, status=SnapshotStatus.DELETED)
    unknown = uuid4()
    for id in (volume.id, unknown):
        await backend.create_volume(Token(uuid4(), "make"), id, "data", 1)
    for id in (snapshot.id, unknown):
        await backend.create_server_image(Token(uuid4(), "make"), Ref(vm.id), id, "before")
        await free_servers(engine)
    await reconciler.reconcile()
    await reconciler.reconcile()
    assert set(await inventory(backend, Kind.VOLUME)) == set(await inventory(backend, Kind.SNAPSHOT)) == {unknown}
    still_open = {(kind, id) for kind, id, is_open in await recorded_findings(engine) if is_open}
    assert still_open == {(Drift.ORPHAN_VOLUME, unknown), (Drift.ORPHAN_IMAGE, unknown)}


async def test_an_orphan_that_the_cloud_refuses_to_remove_is_tried_again(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, settings: Settings
) -> None:
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=VolumeStatus.DELETED)
    await backend.create_volume(Token(uuid4(), "make"), volume.id, "data", 1)
    await add_fault(settings, "delete_volume", FaultMode.REFUSE)
    await reconciler.reconcile()
    await reconciler.reconcile()
    assert await recorded_findings(engine) == [(Drift.ORPHAN_VOLUME, volume.id, True)]
    await reconciler.reconcile()
    assert await recorded_findings(engine) == [(Drift.ORPHAN_VOLUME, volume.id, False)]


@pytest.mark.parametrize(
    ("status", "state", "kind", "becomes"),
    [
        (VolumeStatus.AVAILABLE, None, Drift.VOLUME_GONE, VolumeStatus.ERROR),
        (VolumeStatus.IN_USE, None, Drift.VOLUME_GONE, VolumeStatus.ERROR),
        (VolumeStatus.IN_USE, VolumeState.AVAILABLE, Drift.VOLUME_DETACHED, VolumeStatus.AVAILABLE),
        (VolumeStatus.AVAILABLE, VolumeState.IN_USE, Drift.VOLUME_ELSEWHERE, VolumeStatus.AVAILABLE),
    ],
)
async def test_a_volume_adopts_its_state_in_the_cloud(  # noqa: PLR0913, PLR0917
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    status: VolumeStatus,
    state: VolumeState | None,
    kind: Drift,
    becomes: VolumeStatus,
) -> None:
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=status)
        if status is VolumeStatus.IN_USE:
            await add_attachment(tx, vm, volume)
    if state:
        await backend.create_volume(Token(uuid4(), "make"), volume.id, "data", 1)
        if state is VolumeState.IN_USE:
            await change_cloud(engine, volumes, state=state, vm_id=vm.id, device="/dev/vdb")
    await reconciler.reconcile()
    await reconciler.reconcile()
    (after,) = await all_rows(engine, Volume)
    assert after.status is becomes
    assert await all_rows(engine, Attachment) == []
    assert await recorded_findings(engine) == [(kind, volume.id, kind is Drift.VOLUME_ELSEWHERE)]
    repairs = [
        (operation.resource_type, operation.resource_id, operation.vm_id)
        for operation in await recorded_repairs(engine)
    ]
    held_by = vm.id if status is VolumeStatus.IN_USE else None
    assert repairs == ([] if kind is Drift.VOLUME_ELSEWHERE else [("volume", volume.id, held_by)])


@pytest.mark.parametrize("is_attached", [True, False], ids=["attached", "free"])
async def test_a_volume_adopts_its_size_in_the_cloud(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, *, is_attached: bool
) -> None:
    vm = await add_idle_vm(engine, backend)
    status = VolumeStatus.IN_USE if is_attached else VolumeStatus.AVAILABLE
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=status)
        if is_attached:
            await add_attachment(tx, vm, volume)
    await backend.create_volume(Token(uuid4(), "make"), volume.id, "data", 10)
    if is_attached:
        await backend.attach_volume(Token(uuid4(), "attach"), Ref(vm.id), Ref(volume.id), "/dev/vdb")
    await reconciler.reconcile()
    assert await recorded_findings(engine) == []
    await change_cloud(engine, volumes, size_gb=20, state=VolumeState.EXTENDING)
    await reconciler.reconcile()
    assert await recorded_findings(engine) == []
    await change_cloud(engine, volumes, state=VolumeState.IN_USE if is_attached else VolumeState.AVAILABLE)
    await reconciler.reconcile()
    await reconciler.reconcile()
    (after,) = await all_rows(engine, Volume)
    assert (after.size_gb, after.status) == (20, status)
    assert await recorded_findings(engine) == [(Drift.VOLUME_SIZE, volume.id, False)]
    (repair,) = await recorded_repairs(engine)
    assert (repair.resource_id, repair.vm_id) == (volume.id, vm.id if is_attached else None)


async def test_an_interface_and_a_snapshot_adopt_that_they_are_gone(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm)
        snapshot = await add_snapshot(tx, vm)
    await change_cloud(engine, images)
    await reconciler.reconcile()
    await reconciler.reconcile()
    assert await all_rows(engine, Interface) == []
    assert [row.status for row in await all_rows(engine, Snapshot)] == [SnapshotStatus.ERROR]
    assert {(operation.resource_type, operation.resource_id) for operation in await recorded_repairs(engine)} == {
        ("interface", interface.id),
        ("snapshot", snapshot.id),
    }
