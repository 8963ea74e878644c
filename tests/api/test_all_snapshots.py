"""`/snapshots`: the caller's snapshots of all VMs, also of those that are gone; and sorted lists of resources."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Operation, Snapshot
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status
from tests.api.conftest import Person, count
from tests.api.vm_resources import check_create_answer, check_delete_answer, rows_of, snapshot_of, unknown_id, vm_of
from tests.support.rows import add_operation, add_snapshot, add_vm, add_volume

NOON = datetime.now(UTC) - timedelta(days=1)


async def listed(person: Person, path: str, **parameters: Any) -> list[str]:
    """The names on the page, in order; of operations their ids."""
    answer = await person.http.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return [item.get("name") or item["id"] for item in answer.json()["items"]]


async def test_all_snapshots_of_the_caller_are_listed_also_those_whose_vm_is_gone(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    kept, gone = await vm_of(ada, engine), await vm_of(ada, engine, status=Status.DELETED)
    foreign = await snapshot_of(await vm_of(bob, engine), engine, name="foreign")
    for n, (vm, name) in enumerate(((kept, "a"), (gone, "b"), (gone, "c"))):
        await snapshot_of(vm, engine, name=name, created_at=NOON + timedelta(minutes=n))
    await snapshot_of(gone, engine, SnapshotStatus.DELETED, name="deleted")
    assert await listed(ada, "/snapshots") == ["c", "b", "a"]
    assert await listed(ada, "/snapshots", vm_id=str(gone.id)) == ["c", "b"]
    assert await listed(ada, "/snapshots", vm_id=unknown_id()) == []
    assert await listed(ada, "/snapshots", status="DELETED") == ["deleted"]
    assert await listed(ada, "/snapshots", name="B") == ["b"]
    assert await listed(bob, "/snapshots", vm_id=str(kept.id)) == []
    assert await listed(bob, "/snapshots") == ["foreign"]
    for method in ("GET", "DELETE"):
        refused = await ada.http.request(method, f"/snapshots/{foreign.id}")
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


async def test_both_paths_of_a_snapshot_show_the_same(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine, status=Status.DELETED)
    snapshot = await snapshot_of(vm, engine, labels={"env": "prod"})
    shown = await ada.http.get(f"/snapshots/{snapshot.id}")
    assert shown.status_code == 200
    assert shown.json() == (await ada.http.get(f"/vms/{vm.id}/snapshots/{snapshot.id}")).json()
    assert shown.json()["labels"] == {"env": "prod"}


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.DELETED])
async def test_a_snapshot_is_deleted_by_its_own_path(ada: Person, engine: AsyncEngine, status: Status) -> None:
    vm = await vm_of(ada, engine, status=status)
    snapshot = await snapshot_of(vm, engine)
    path = f"/snapshots/{snapshot.id}"
    operation = await check_delete_answer(ada, engine, await ada.http.delete(path))
    assert (operation.action, operation.vm_id, operation.resource_id) == (Action.DELETE_SNAPSHOT, vm.id, snapshot.id)
    assert (await ada.http.get(path)).json()["status"] == "DELETING"
    for again in (path, f"/vms/{vm.id}/snapshots/{snapshot.id}"):
        repeated = await check_delete_answer(ada, engine, await ada.http.delete(again))
        assert repeated.id == operation.id
    assert await count(engine, Operation) == 1


async def test_a_snapshot_that_is_being_taken_is_not_deleted(ada: Person, engine: AsyncEngine) -> None:
    snapshot = await snapshot_of(await vm_of(ada, engine), engine, SnapshotStatus.CREATING)
    refused = await ada.http.delete(f"/snapshots/{snapshot.id}")
    assert (refused.status_code, refused.json()["current_status"]) == (409, "CREATING")
    assert await rows_of(engine, Snapshot) == [snapshot]


async def test_a_key_of_one_path_is_not_one_of_the_other(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    snapshot = await snapshot_of(vm, engine)
    key = {"Idempotency-Key": "k"}
    answers = [await ada.http.delete(f"/snapshots/{snapshot.id}", headers=key) for _ in range(2)]
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true"]
    nested = await ada.http.delete(f"/vms/{vm.id}/snapshots/{snapshot.id}", headers=key)
    assert (nested.status_code, "Idempotency-Replayed" in nested.headers) == (204, False)


async def test_new_snapshots_and_volumes_have_labels(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    labels = {"env": "prod", "owner": "é"}
    taken = await ada.http.post(f"/vms/{vm.id}/snapshots", json={"name": "x", "labels": labels})
    assert taken.json()["labels"] == labels
    await check_create_answer(ada, engine, taken, f"/vms/{vm.id}/snapshots/{taken.json()['id']}")
    made = await ada.http.post("/volumes", json={"name": "x", "size_gb": 1, "labels": labels})
    assert made.json()["labels"] == labels
    await check_create_answer(ada, engine, made, f"/volumes/{made.json()['id']}")
    for path, body in ((f"/vms/{vm.id}/snapshots", {"name": "x"}), ("/volumes", {"name": "x", "size_gb": 1})):
        refused = await ada.http.post(path, json=body | {"labels": {"-": ""}})
        assert refused.status_code == 422


async def test_a_key_from_before_labels_is_still_valid(ada: Person, engine: AsyncEngine) -> None:
    """The payload of a request without labels is what the version before compared."""
    body = {"name": "x", "size_gb": 1}
    headers = {"Idempotency-Key": "k"}
    first = await ada.http.post("/volumes", json=body, headers=headers)
    assert (await ada.http.post("/volumes", json=body | {"labels": {}}, headers=headers)).json() == first.json()
    other = await ada.http.post("/volumes", json=body | {"labels": {"a": ""}}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    async with engine.connect() as connection:
        kept = (await connection.exec_driver_sql("SELECT fingerprint FROM idempotency_keys")).scalar_one()
    assert kept == hashlib.sha256(b'{"name": "x", "size_gb": 1}').hexdigest()


NAMES = ["delta", "alpha", "charlie", "bravo"]
SORTS = {
    "created_at": ["delta", "alpha", "charlie", "bravo"],
    "updated_at": ["bravo", "charlie", "alpha", "delta"],
    "name": ["alpha", "bravo", "charlie", "delta"],
}


@pytest.mark.parametrize("path", ["/volumes", "/snapshots", "/vms/{}/snapshots", "/vms"])
async def test_lists_are_sorted_in_both_directions(ada: Person, engine: AsyncEngine, path: str) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.DELETED)
        for n, name in enumerate(NAMES):
            times: dict[str, Any] = {
                "created_at": NOON + timedelta(minutes=n),
                "updated_at": NOON - timedelta(minutes=n),
            }
            await add_vm(tx, ada.user, name=name, **times)
            await add_volume(tx, ada.user, name=name, **times)
            await add_snapshot(tx, vm, name=name, **times)
    for sort, expected in SORTS.items():
        assert await listed(ada, path.format(vm.id), sort=sort) == expected
        assert await listed(ada, path.format(vm.id), sort=f"-{sort}") == expected[::-1]
    assert await listed(ada, path.format(vm.id)) == SORTS["created_at"][::-1]
    refused = await ada.http.get(path.format(vm.id), params={"sort": "size_gb"})
    assert refused.json()["errors"][0]["code"] == "unknown_value"


async def test_volumes_and_snapshots_are_sorted_by_status(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        for status in ("ERROR", "CREATING", "AVAILABLE"):
            await add_volume(tx, ada.user, name=status, status=VolumeStatus(status))
            await add_snapshot(tx, vm, name=status, status=SnapshotStatus(status))
    for path in ("/volumes", "/snapshots"):
        assert await listed(ada, path, sort="status") == ["AVAILABLE", "CREATING", "ERROR"]
        assert await listed(ada, path, sort="-status") == ["ERROR", "CREATING", "AVAILABLE"]


async def test_operations_are_sorted_from_either_end(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        made = [
            str((await add_operation(tx, vm, Action.START, created_at=NOON + timedelta(minutes=n))).id)
            for n in range(3)
        ]
    for path in ("/operations", f"/vms/{vm.id}/operations"):
        assert await listed(ada, path, sort="created_at") == made
        assert await listed(ada, path) == await listed(ada, path, sort="-created_at") == made[::-1]
