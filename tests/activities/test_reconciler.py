"""The database follows the cloud, deleted things leave it, and what nobody knows is only shown; after a second look."""

from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode, images, ports, servers, volumes
from activities.backends.protocol import Token
from activities.recovery import drift_detection
from activities.recovery import reconciler as reconciling
from activities.recovery.reconciler import ACTOR, Reconciler
from domain.data.models import VM, Attachment, Finding, Interface, Operation, Snapshot, Volume
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.settings import Settings
from domain.upkeep.findings import NO_LONGER_FOUND, Drift
from tests.activities.conftest import Canceling, spec
from tests.activities.held import add_server, be_due
from tests.support.rows import (
    FLAVOR_IDS,
    add_attachment,
    add_interface,
    add_operation,
    add_snapshot,
    add_user,
    add_vm,
    add_volume,
    claim,
    read_vm,
)


async def at_rest(engine: AsyncEngine, backend: MockBackend, status: Status = Status.ACTIVE, **values: Any) -> VM:
    """A VM whose server is ACTIVE; whatever the VM shows."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=status, **values)
        await add_operation(tx, vm, Action.CREATE, status=OperationStatus.SUCCEEDED)
    await add_server(engine, backend, vm.id)
    return await read_vm(engine, vm.id)


async def findings(engine: AsyncEngine) -> list[tuple[str, UUID, bool]]:
    """What was found: how it differs, what, and whether that is open."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(Finding).order_by(Finding.found_at))
        return [(row.kind, row.resource_id, row.resolved_at is None) for row in rows]


async def resets(engine: AsyncEngine) -> list[Operation]:
    """What was written down of states that were put right."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(Operation).where(Operation.action == Action.RESET_STATE))
        return list(rows)  # type: ignore[arg-type] # rows have the model's attributes


async def rows_of(engine: AsyncEngine, model: Any) -> list[Any]:
    """All rows of a table."""
    async with engine.connect() as connection:
        return list(await connection.execute(select(model)))


async def change(engine: AsyncEngine, table: Any, **values: Any) -> None:
    """Something happens in the cloud behind everybody's back."""
    async with engine.begin() as tx:
        await tx.execute(update(table).values(values) if values else delete(table))


async def test_what_agrees_is_left_alone(engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler) -> None:
    await at_rest(engine, backend)
    await reconciler.look()
    await reconciler.look()
    assert await findings(engine) == []


async def test_a_first_look_does_nothing_and_what_the_second_does_not_see_is_over(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm = await at_rest(engine, backend)
    await change(engine, servers, status=ServerStatus.SHUTOFF)
    await reconciler.look()
    assert await findings(engine) == [(Drift.POWER_STATE, vm.id, True)]
    assert (await read_vm(engine, vm.id)).status is Status.ACTIVE
    await change(engine, servers, status=ServerStatus.ACTIVE)
    await reconciler.look()
    assert await findings(engine) == [(Drift.POWER_STATE, vm.id, False)]
    assert [row.resolution for row in await rows_of(engine, Finding)] == [NO_LONGER_FOUND]
    assert await resets(engine) == []


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
async def test_a_vm_follows_its_server_and_that_is_written_down(  # noqa: PLR0913, PLR0917 - a row of the table each
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    status: Status,
    server: ServerStatus | None,
    kind: Drift,
    becomes: Status,
) -> None:
    vm = await at_rest(engine, backend, status)
    await change(engine, servers, **({"status": server} if server else {}))
    await reconciler.look()
    await reconciler.look()
    after = await read_vm(engine, vm.id)
    assert (after.status, after.task_state) == (becomes, None)
    assert (after.fault or {}).get("code") == (kind if becomes is Status.ERROR else None)
    (reset,) = await resets(engine)
    assert (reset.status, reset.actor, reset.vm_id, reset.id) == ("SUCCEEDED", ACTOR, vm.id, after.operation_id)
    assert (reset.input["status"], reset.input["because"]) == (becomes, kind)
    assert await findings(engine) == [(kind, vm.id, False)]
    await reconciler.look()
    assert len(await resets(engine)) == 1


@pytest.mark.parametrize("size", ["m1.small", "m1.medium"])
async def test_a_resize_that_was_decided_in_the_cloud_is_decided(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, temporal_client: Canceling, size: str
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE, flavor_id=FLAVOR_IDS["m1.medium"])
        resize = await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
    await add_server(engine, backend, vm.id, size)
    await reconciler.look()
    await reconciler.look()
    after = await read_vm(engine, vm.id)
    assert (after.status, after.flavor_id, after.confirm_by) == (Status.ACTIVE, FLAVOR_IDS[size], None)
    assert temporal_client.canceled == [resize.workflow_id]


@pytest.mark.parametrize(
    ("status", "values", "kind"),
    [
        (Status.ACTIVE, {"status": ServerStatus.VERIFY_RESIZE}, Drift.SERVER_STATUS),
        (Status.ACTIVE, {"vcpus": 63}, Drift.SERVER_SIZE),
        (Status.ERROR, {"status": ServerStatus.VERIFY_RESIZE}, Drift.SERVER_STATUS),
    ],
)
async def test_what_a_person_must_decide_is_only_shown(  # noqa: PLR0913, PLR0917
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    status: Status,
    values: dict[str, Any],
    kind: Drift,
) -> None:
    vm = await at_rest(engine, backend, status)
    await change(engine, servers, **values)
    for _ in range(3):
        await reconciler.look()
    assert await findings(engine) == [(kind, vm.id, True)]
    assert await read_vm(engine, vm.id) == vm


async def test_what_is_being_done_is_no_difference(
    engine: AsyncEngine, backend: MockBackend, slow_backend: MockBackend, reconciler: Reconciler
) -> None:
    stopping, attaching, building = [await at_rest(engine, backend) for _ in range(3)]
    async with engine.begin() as tx:
        await claim(tx, stopping.id, Action.STOP)
        await tx.execute(update(VM).where(VM.id == attaching.id).values(attaching=1))
        await tx.execute(update(VM).where(VM.id == building.id).values(status="BUILDING", task_state="spawning"))
    await change(engine, servers, status=ServerStatus.SHUTOFF)
    busy = await at_rest(engine, backend)
    await slow_backend.stop_server(Token(uuid4(), "powering_off"), busy.id)
    await reconciler.look()
    assert await findings(engine) == []


async def test_what_was_asked_between_two_looks_is_not_overruled(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await at_rest(engine, backend)
    await change(engine, servers, status=ServerStatus.SHUTOFF)
    await reconciler.look()
    seen = await drift_detection.find(engine, backend)

    async def as_before(*_: object) -> object:
        async with engine.begin() as tx:
            await claim(tx, vm.id, Action.REBOOT_HARD)
        return seen

    monkeypatch.setattr(drift_detection, "find", as_before)
    await reconciler.look()
    after = await read_vm(engine, vm.id)
    assert (after.status, after.task_state) == (Status.REBOOTING, TaskState.REBOOTING_HARD)
    assert await resets(engine) == []


async def test_servers_and_ports_of_deleted_vms_are_removed_and_unknown_ones_are_shown(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    deleted, lonely = [await at_rest(engine, backend, Status.DELETED) for _ in range(2)]
    async with engine.begin() as tx:
        await tx.execute(delete(servers).where(servers.c.vm_id == lonely.id))
        row = {"network_id": uuid4(), "ip_address": "10.0.0.9", "mac_address": "fa:16:3e:00:00:09"}
        await tx.execute(ports.insert().values(vm_id=lonely.id, **row))
    unknown = uuid4()
    await backend.create_server(Token(uuid4(), "spawning"), spec(unknown))
    await be_due(engine, backend, unknown)
    await reconciler.look()
    assert len((await backend.inventory()).servers) == 2
    await reconciler.look()
    left = await backend.inventory()
    assert (set(left.servers), left.ports) == ({unknown}, {})
    assert set(await findings(engine)) == {
        (Drift.ORPHAN_SERVER, deleted.id, False),
        (Drift.ORPHAN_PORT, lonely.id, False),
        (Drift.ORPHAN_SERVER, unknown, True),
    }


async def test_deleted_volumes_and_images_are_removed_and_unknown_ones_are_shown(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm = await at_rest(engine, backend)
    async with engine.begin() as tx:
        user = await add_user(tx)
        volume = await add_volume(tx, user, status=VolumeStatus.DELETED)
        snapshot = await add_snapshot(tx, vm, status=SnapshotStatus.DELETED)
    unknown = uuid4()
    for id in (volume.id, unknown):
        await backend.create_volume(Token(uuid4(), "make"), id, "data", 1)
    for id in (snapshot.id, unknown):
        await backend.create_server_image(Token(uuid4(), "make"), vm.id, id, "before")
    await reconciler.look()
    await reconciler.look()
    left = await backend.inventory()
    assert (set(left.volumes), set(left.images)) == ({unknown}, {unknown})
    still_open = {(kind, id) for kind, id, is_open in await findings(engine) if is_open}
    assert still_open == {(Drift.ORPHAN_VOLUME, unknown), (Drift.ORPHAN_IMAGE, unknown)}


async def test_what_the_cloud_refuses_to_remove_is_tried_at_every_look(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, settings: Settings
) -> None:
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=VolumeStatus.DELETED)
    await backend.create_volume(Token(uuid4(), "make"), volume.id, "data", 1)
    await add_fault(settings, "delete_volume", FaultMode.REFUSE)
    await reconciler.look()
    await reconciler.look()
    assert await findings(engine) == [(Drift.ORPHAN_VOLUME, volume.id, True)]
    await reconciler.look()
    assert await findings(engine) == [(Drift.ORPHAN_VOLUME, volume.id, False)]


@pytest.mark.parametrize(
    ("status", "state", "kind", "becomes"),
    [
        (VolumeStatus.AVAILABLE, None, Drift.VOLUME_GONE, VolumeStatus.ERROR),
        (VolumeStatus.IN_USE, None, Drift.VOLUME_GONE, VolumeStatus.ERROR),
        (VolumeStatus.IN_USE, VolumeState.AVAILABLE, Drift.VOLUME_DETACHED, VolumeStatus.AVAILABLE),
        (VolumeStatus.AVAILABLE, VolumeState.IN_USE, Drift.VOLUME_ELSEWHERE, VolumeStatus.AVAILABLE),
    ],
)
async def test_a_volume_follows_the_clouds(  # noqa: PLR0913, PLR0917
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    status: VolumeStatus,
    state: VolumeState | None,
    kind: Drift,
    becomes: VolumeStatus,
) -> None:
    vm = await at_rest(engine, backend)
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=status)
        if status is VolumeStatus.IN_USE:
            await add_attachment(tx, vm, volume)
    if state:
        await backend.create_volume(Token(uuid4(), "make"), volume.id, "data", 1)
        if state is VolumeState.IN_USE:
            await change(engine, volumes, state=state, vm_id=vm.id, device="/dev/vdb")
    await reconciler.look()
    await reconciler.look()
    (after,) = await rows_of(engine, Volume)
    assert after.status is becomes
    assert await rows_of(engine, Attachment) == []
    assert await findings(engine) == [(kind, volume.id, kind is Drift.VOLUME_ELSEWHERE)]
    written = [(one.resource_type, one.resource_id, one.vm_id) for one in await resets(engine)]
    held_by = vm.id if status is VolumeStatus.IN_USE else None
    assert written == ([] if kind is Drift.VOLUME_ELSEWHERE else [("volume", volume.id, held_by)])


async def test_an_interface_and_a_snapshot_that_are_gone_in_the_cloud_are_gone(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm = await at_rest(engine, backend)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm)
        snapshot = await add_snapshot(tx, vm)
    await change(engine, images)
    await reconciler.look()
    await reconciler.look()
    assert await rows_of(engine, Interface) == []
    assert [row.status for row in await rows_of(engine, Snapshot)] == [SnapshotStatus.ERROR]
    assert {(one.resource_type, one.resource_id) for one in await resets(engine)} == {
        ("interface", interface.id),
        ("snapshot", snapshot.id),
    }


async def test_only_one_worker_looks_at_a_time(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    await at_rest(engine, backend)
    await change(engine, servers, status=ServerStatus.SHUTOFF)
    other = Reconciler(engine, backend, cast("Client", Canceling()))
    looked = []

    async def nested() -> None:
        looked.append("first")
        await other._look_alone()

    reconciler.look = nested  # type: ignore[method-assign]
    other.look = nested  # type: ignore[method-assign]
    await reconciler._look_alone()
    assert looked == ["first"]
    await other._look_alone()
    assert looked == ["first", "first"]


async def test_two_looks_right_after_each_other_are_one(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where two workers take turns."""
    vm = await at_rest(engine, backend)
    await change(engine, servers, status=ServerStatus.SHUTOFF)
    monkeypatch.setattr(reconciling, "INTERVAL", 15.0)
    await reconciler.look()
    await reconciler.look()
    assert (await read_vm(engine, vm.id)).status is Status.ACTIVE
    async with engine.begin() as tx:
        await tx.execute(update(Finding).values(found_at=Finding.found_at - timedelta(seconds=15)))
    await reconciler.look()
    assert (await read_vm(engine, vm.id)).status is Status.SHUTOFF


async def test_that_very_much_is_gone_is_not_believed(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    vms = [await at_rest(engine, backend) for _ in range(3)]
    await change(engine, servers, status=ServerStatus.SHUTOFF)
    async with engine.begin() as tx:
        await tx.execute(delete(servers).where(servers.c.vm_id != vms[0].id))
    monkeypatch.setattr(reconciling, "MOST_GONE", 1)
    for _ in range(3):
        await reconciler.look()
    shown = [(await read_vm(engine, vm.id)).status for vm in vms]
    assert shown == [Status.SHUTOFF, Status.ACTIVE, Status.ACTIVE]
    assert sorted(is_open for _, _, is_open in await findings(engine)) == [False, True, True]
    monkeypatch.setattr(reconciling, "MOST_GONE", 2)
    await reconciler.look()
    shown = [(await read_vm(engine, vm.id)).status for vm in vms]
    assert shown == [Status.SHUTOFF, Status.ERROR, Status.ERROR]


@pytest.mark.usefixtures("backend")
async def test_thousands_of_differences_are_written_down(engine: AsyncEngine, reconciler: Reconciler) -> None:
    row = {"name": "nobody knows it", "size_gb": 1, "state": VolumeState.AVAILABLE}
    async with engine.begin() as tx:
        for _ in range(7):
            await tx.execute(insert(volumes).values([{"id": uuid4(), **row} for _ in range(1000)]))
    for _ in range(2):
        await reconciler.look()
    assert len(await findings(engine)) == 7000
