"""Snapshots: take, restore, delete, and read them after their VM is deleted."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Operation, Snapshot
from domain.rules.resources import SnapshotStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.api.conftest import Person, count
from tests.api.vm_resources import (
    check_create_answer,
    check_delete_answer,
    check_refused_and_unchanged,
    rows_of,
    set_vm,
    snapshot_of,
    unknown_id,
    vm_of,
)
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS, read_vm

NAMED = {"name": "before"}
FIELDS = {
    *("id", "project_id", "vm_id", "name", "status", "size_gb", "labels", "flavor_id", "image_id", "operation_id"),
    *("created_at", "updated_at"),
}
active_or_shutoff = pytest.mark.parametrize("status", [Status.ACTIVE, Status.SHUTOFF])
NOT_AT_REST = [
    {"status": Status.ERROR},
    {"status": Status.VERIFY_RESIZE},
    {"status": Status.ACTIVE, "task_state": TaskState.POWERING_OFF},
    {"status": Status.ACTIVE, "launched": False},
    {"status": Status.DELETED},
]
each_state_not_at_rest = pytest.mark.parametrize(
    "state", NOT_AT_REST, ids=["error", "undecided", "busy", "never-launched", "deleted"]
)


@active_or_shutoff
async def test_a_new_snapshot_records_flavor_and_image_of_the_vm_and_claims_it(
    ada: Person, engine: AsyncEngine, status: Status
) -> None:
    flavor, image = FLAVOR_IDS["m1.large"], IMAGE_IDS["debian-12"]
    vm = await vm_of(ada, engine, status=status, flavor_id=flavor, image_id=image)
    answer = await ada.http.post(f"/vms/{vm.id}/snapshots", json={"name": " before "})
    snapshot = answer.json()
    operation = await check_create_answer(ada, engine, answer, f"/vms/{vm.id}/snapshots/{snapshot['id']}")
    assert set(snapshot) == FIELDS
    shown = {"vm_id": str(vm.id), "status": "CREATING", "size_gb": 80, "flavor_id": str(flavor), "image_id": str(image)}
    assert snapshot | NAMED | shown == snapshot
    claimed = await read_vm(engine, vm.id)
    assert (claimed.status, claimed.task_state, claimed.operation_id) == (
        status,
        TaskState.IMAGE_SNAPSHOT,
        operation.id,
    )
    assert (operation.action, operation.status) == (Action.SNAPSHOT, OperationStatus.QUEUED)
    assert (operation.resource_type, str(operation.resource_id), operation.vm_id) == ("snapshot", snapshot["id"], vm.id)
    assert (operation.input, operation.previous_status) == (NAMED, status)


@each_state_not_at_rest
async def test_no_snapshot_is_taken_of_a_vm_that_is_not_at_rest(
    ada: Person, engine: AsyncEngine, state: dict[str, Any]
) -> None:
    vm = await vm_of(ada, engine, **state)
    allowed = (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"]
    conflict = {"current_status": vm.status, "task_state": vm.task_state, "allowed_actions": allowed}
    answer = await ada.http.post(f"/vms/{vm.id}/snapshots", json=NAMED)
    await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", **conflict)
    assert await count(engine, Snapshot) == 0


@active_or_shutoff
async def test_a_restore_claims_the_vm_and_the_snapshot(ada: Person, engine: AsyncEngine, status: Status) -> None:
    vm = await vm_of(ada, engine, status=status, flavor_id=FLAVOR_IDS["m1.large"])
    snapshot = await snapshot_of(vm, engine, flavor_id=FLAVOR_IDS["m1.tiny"], size_gb=1)
    answer = await ada.http.post(f"/vms/{vm.id}/snapshots/{snapshot.id}/restore")
    shown = answer.json()
    assert (answer.status_code, answer.headers["Retry-After"]) == (202, "1")
    assert "Location" not in answer.headers
    assert answer.headers["Operation-Location"] == f"/api/v1/operations/{shown['operation_id']}"
    assert (shown["id"], shown["status"], shown["task_state"]) == (str(vm.id), status, "restoring")
    assert (shown["flavor_id"], shown["allowed_actions"]) == (str(vm.flavor_id), ["delete"])
    restored = (await ada.http.get(f"/vms/{vm.id}/snapshots/{snapshot.id}")).json()
    assert (restored["status"], restored["operation_id"]) == ("RESTORING", shown["operation_id"])
    (operation,) = await rows_of(engine, Operation)
    assert (operation.resource_type, operation.resource_id, operation.vm_id) == ("snapshot", snapshot.id, vm.id)
    ids = {"flavor_id": str(snapshot.flavor_id), "image_id": str(snapshot.image_id)}
    assert operation.input == NAMED | ids


@each_state_not_at_rest
async def test_a_vm_that_is_not_at_rest_cannot_be_restored(
    ada: Person, engine: AsyncEngine, state: dict[str, Any]
) -> None:
    vm = await vm_of(ada, engine, **state)
    snapshot = await snapshot_of(vm, engine)
    answer = await ada.http.post(f"/vms/{vm.id}/snapshots/{snapshot.id}/restore")
    conflict = {"current_status": vm.status, "task_state": vm.task_state}
    await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", **conflict)
    assert await rows_of(engine, Snapshot) == [snapshot]


@pytest.mark.parametrize("status", sorted(set(SnapshotStatus) - {SnapshotStatus.AVAILABLE}))
async def test_only_an_available_snapshot_can_be_restored(
    ada: Person, engine: AsyncEngine, status: SnapshotStatus
) -> None:
    vm = await vm_of(ada, engine)
    snapshot = await snapshot_of(vm, engine, status)
    answer = await ada.http.post(f"/vms/{vm.id}/snapshots/{snapshot.id}/restore", json={})
    allowed = ["delete-snapshot"] if status is SnapshotStatus.ERROR else []
    conflict = {"current_status": status, "task_state": None, "allowed_actions": allowed}
    problem = await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", **conflict)
    assert "Cannot restore a snapshot" in problem["detail"]
    assert await rows_of(engine, Snapshot) == [snapshot]


@pytest.mark.parametrize("action", ["snapshot", "restore"])
async def test_no_snapshot_is_taken_or_restored_while_a_volume_is_being_attached(
    ada: Person, engine: AsyncEngine, action: str
) -> None:
    vm = await vm_of(ada, engine, attaching=1)
    snapshot = await snapshot_of(vm, engine)
    path = f"/vms/{vm.id}/snapshots" + (f"/{snapshot.id}/restore" if action == "restore" else "")
    answer = await ada.http.post(path, json=NAMED if action == "snapshot" else None)
    problem = await check_refused_and_unchanged(engine, vm, answer, "attachment_in_progress", current_status="ACTIVE")
    assert "while a volume or an interface is being attached" in problem["detail"]
    assert not {"resize", "snapshot", "restore"} & set(problem["allowed_actions"])
    assert await rows_of(engine, Snapshot) == [snapshot]


@pytest.mark.parametrize("status", [SnapshotStatus.AVAILABLE, SnapshotStatus.ERROR])
@pytest.mark.parametrize(
    "state", [{}, {"task_state": TaskState.POWERING_OFF}, {"status": Status.DELETED}], ids=["idle", "busy", "deleted"]
)
async def test_a_snapshot_can_be_deleted_in_any_state_of_its_vm(
    ada: Person, engine: AsyncEngine, state: dict[str, Any], status: SnapshotStatus
) -> None:
    vm = await vm_of(ada, engine, **state)
    snapshot = await snapshot_of(vm, engine, status)
    path = f"/vms/{vm.id}/snapshots/{snapshot.id}"
    operation = await check_delete_answer(ada, engine, await ada.http.delete(path))
    shown = (await ada.http.get(path)).json()
    assert (shown["status"], shown["operation_id"]) == ("DELETING", str(operation.id))
    assert (operation.action, operation.vm_id) == (Action.DELETE_SNAPSHOT, vm.id)
    assert (operation.resource_type, operation.resource_id) == ("snapshot", snapshot.id)
    assert operation.previous_status is None
    assert await read_vm(engine, vm.id) == vm


@pytest.mark.parametrize("status", [SnapshotStatus.CREATING, SnapshotStatus.RESTORING])
async def test_a_snapshot_that_is_being_taken_or_restored_cannot_be_deleted(
    ada: Person, engine: AsyncEngine, status: SnapshotStatus
) -> None:
    vm = await vm_of(ada, engine)
    snapshot = await snapshot_of(vm, engine, status)
    answer = await ada.http.delete(f"/vms/{vm.id}/snapshots/{snapshot.id}")
    conflict: dict[str, Any] = {"current_status": status, "task_state": None, "allowed_actions": []}
    await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", **conflict)
    assert await rows_of(engine, Snapshot) == [snapshot]


async def test_a_second_delete_of_a_snapshot_returns_the_same_operation(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    snapshot = await snapshot_of(vm, engine)
    path = f"/vms/{vm.id}/snapshots/{snapshot.id}"
    answers = [await ada.http.delete(path) for _ in range(2)]
    async with engine.begin() as tx:
        await tx.exec_driver_sql("UPDATE snapshots SET status = 'DELETED'")
    answers.append(await ada.http.delete(path))
    assert {answer.status_code for answer in answers} == {204}
    assert len({answer.headers["Operation-Location"] for answer in answers}) == 1
    assert await count(engine, Operation) == 1


async def test_a_delete_of_the_vm_also_deletes_the_snapshot_that_is_being_taken(
    ada: Person, engine: AsyncEngine
) -> None:
    vm = await vm_of(ada, engine)
    snapshot = (await ada.http.post(f"/vms/{vm.id}/snapshots", json=NAMED)).json()
    delete = await check_delete_answer(ada, engine, await ada.http.delete(f"/vms/{vm.id}"))
    path = f"/vms/{vm.id}/snapshots/{snapshot['id']}"
    shown = (await ada.http.get(path)).json()
    assert (shown["status"], shown["operation_id"]) == ("DELETING", str(delete.id))
    superseded = (await ada.http.get(f"/operations/{snapshot['operation_id']}")).json()
    assert superseded["status"] == "SUPERSEDED"
    second = await ada.http.delete(path)
    assert second.headers["Operation-Location"] == f"/api/v1/operations/{delete.id}"


async def test_the_snapshots_of_a_deleted_vm_stay_readable(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    snapshot = await snapshot_of(vm, engine)
    await set_vm(engine, vm, status=Status.DELETED)
    listed = (await ada.http.get(f"/vms/{vm.id}/snapshots")).json()
    assert [item["id"] for item in listed["items"]] == [str(snapshot.id)]
    assert (await ada.http.get(f"/vms/{vm.id}/snapshots/{snapshot.id}")).json() == listed["items"][0]


async def test_a_snapshot_is_found_only_under_its_own_vm(ada: Person, engine: AsyncEngine) -> None:
    vm, other = await vm_of(ada, engine), await vm_of(ada, engine)
    snapshot = await snapshot_of(vm, engine)
    for snapshot_id, vm_id in ((snapshot.id, other.id), (unknown_id(), vm.id), (snapshot.id, unknown_id())):
        path = f"/vms/{vm_id}/snapshots/{snapshot_id}"
        answers = [await ada.http.get(path), await ada.http.delete(path), await ada.http.post(f"{path}/restore")]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "not_found")] * 3
    assert (await ada.http.get(f"/vms/{other.id}/snapshots")).json()["total"] == 0
    assert await rows_of(engine, Snapshot) == [snapshot]
