"""PATCH of VMs, volumes and snapshots: JSON merge patches (RFC 7396)."""

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Snapshot, Volume
from domain.rules.labels import MOST_LABELS, TooManyLabelsError, merged
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Status, TaskState
from tests.api.conftest import Person, pointers
from tests.api.vm_resources import snapshot_of, unknown_id, vm_of, volume_of

KINDS = ["vms", "volumes", "snapshots"]
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
each_kind = pytest.mark.parametrize("kind", KINDS)


async def path_of(kind: str, person: Person, engine: AsyncEngine, *, busy: bool = False) -> str:
    """The path of a new resource with the labels a and b."""
    labels = {"a": "1", "b": "2"}
    if kind == "volumes":
        status = VolumeStatus.DETACHING if busy else VolumeStatus.AVAILABLE
        return f"/volumes/{(await volume_of(person, engine, labels=labels, status=status)).id}"
    vm = await vm_of(person, engine, labels=labels, task_state=TaskState.POWERING_OFF if busy else None)
    if kind == "vms":
        return f"/vms/{vm.id}"
    status_ = SnapshotStatus.RESTORING if busy else SnapshotStatus.AVAILABLE
    return f"/snapshots/{(await snapshot_of(vm, engine, status_, labels=labels)).id}"


@each_kind
@pytest.mark.parametrize("headers", [{}, MERGE_PATCH, {"Content-Type": "Application/Merge-Patch+JSON; charset=utf-8"}])
async def test_labels_are_merged_and_null_removes_one(
    ada: Person, engine: AsyncEngine, kind: str, headers: dict[str, str]
) -> None:
    path = await path_of(kind, ada, engine)
    before = (await ada.http.get(path)).json()
    body = json.dumps({"name": " new ", "labels": {"a": None, "b": "3", "c": "", "absent": None}})
    headers = headers or {"Content-Type": "application/json"}
    changed = await ada.http.patch(path, content=body, headers=headers)
    assert changed.status_code == 200, changed.text
    shown = changed.json()
    assert (shown["name"], shown["labels"]) == ("new", {"b": "3", "c": ""})
    assert shown["updated_at"] > before["updated_at"]
    assert {**shown, **{key: before[key] for key in ("name", "labels", "updated_at")}} == before
    assert (await ada.http.get(path)).json() == shown


@each_kind
async def test_null_instead_of_labels_removes_them_all(ada: Person, engine: AsyncEngine, kind: str) -> None:
    path = await path_of(kind, ada, engine)
    assert (await ada.http.patch(path, json={"labels": None})).json()["labels"] == {}


@each_kind
@pytest.mark.parametrize("body", [{}, {"labels": {}}, {"labels": {"a": "1"}}, {"labels": {"absent": None}}], ids=str)
async def test_a_patch_that_changes_nothing_leaves_the_resource_as_it_is(
    ada: Person, engine: AsyncEngine, kind: str, body: dict[str, Any]
) -> None:
    path = await path_of(kind, ada, engine)
    before = (await ada.http.get(path)).json()
    assert (await ada.http.patch(path, json=body)).json() == before
    assert (await ada.http.get(path)).json() == before


@each_kind
async def test_a_busy_resource_can_be_changed(ada: Person, engine: AsyncEngine, kind: str) -> None:
    path = await path_of(kind, ada, engine, busy=True)
    changed = await ada.http.patch(path, json={"name": "new"})
    assert (changed.status_code, changed.json()["name"]) == (200, "new")


@each_kind
async def test_a_deleted_resource_cannot_be_changed(ada: Person, engine: AsyncEngine, kind: str) -> None:
    path = await path_of(kind, ada, engine)
    model: dict[str, tuple[Any, Any]] = {
        "vms": (VM, Status.DELETED),
        "volumes": (Volume, VolumeStatus.DELETED),
        "snapshots": (Snapshot, SnapshotStatus.DELETED),
    }
    table, status = model[kind]
    async with engine.begin() as tx:
        await tx.execute(update(table).values(status=status))
    before = (await ada.http.get(path)).json()
    refused = await ada.http.patch(path, json={"name": "new"})
    assert (refused.status_code, refused.json()["code"]) == (409, "invalid_transition")
    assert (refused.json()["current_status"], refused.json()["allowed_actions"]) == ("DELETED", [])
    word = {"vms": "VM", "volumes": "volume", "snapshots": "snapshot"}[kind]
    assert refused.json()["detail"].startswith(f"Cannot change a {word} in status DELETED")
    assert (await ada.http.patch(path, json={})).json() == before


@each_kind
async def test_nobody_changes_what_is_absent_or_belongs_to_another(
    ada: Person, bob: Person, engine: AsyncEngine, kind: str
) -> None:
    path = await path_of(kind, ada, engine)
    before = (await ada.http.get(path)).json()
    for wanted in (path, f"/{kind}/{unknown_id()}"):
        for body in ({"name": "mine"}, {}):
            refused = await bob.http.patch(wanted, json=body)
            assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert (await ada.http.get(path)).json() == before


@each_kind
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ("null", "#"),
        ("[]", "#"),
        ('"x"', "#"),
        ('{"name": null}', "#/name"),
        ('{"name": ""}', "#/name"),
        ('{"status": "ACTIVE"}', "#/status"),
        ('{"labels": []}', "#/labels"),
        ('{"labels": {"a": 1}}', "#/labels/a"),
        ('{"labels": {"-a": null}}', "#/labels/-a"),
        (json.dumps({"labels": dict.fromkeys(map(str, range(2 * MOST_LABELS + 1)))}), "#/labels"),
    ],
)
async def test_what_is_no_change_is_refused(
    ada: Person, engine: AsyncEngine, kind: str, body: str, pointer: str
) -> None:
    path = await path_of(kind, ada, engine)
    before = (await ada.http.get(path)).json()
    refused = await ada.http.patch(path, content=body, headers=MERGE_PATCH)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    assert pointers(refused.json()) == {pointer}
    assert (await ada.http.get(path)).json() == before


@each_kind
async def test_all_labels_can_be_replaced_at_once_but_never_be_too_many(
    ada: Person, engine: AsyncEngine, kind: str
) -> None:
    path = await path_of(kind, ada, engine)
    full = {f"k{n}": "" for n in range(MOST_LABELS)}
    refused = await ada.http.patch(path, json={"labels": full})
    [error] = refused.json()["errors"]
    assert (refused.status_code, error["pointer"], error["code"]) == (422, "#/labels", "too_long")
    assert "66" in error["detail"]
    assert (await ada.http.patch(path, json={"labels": {**full, "a": None, "b": None}})).json()["labels"] == full
    others = {f"other{n}": "" for n in range(MOST_LABELS)}
    replaced = await ada.http.patch(path, json={"labels": dict.fromkeys(full) | others})
    assert replaced.json()["labels"] == others


@each_kind
async def test_two_patches_at_the_same_time_lose_no_label(ada: Person, engine: AsyncEngine, kind: str) -> None:
    path = await path_of(kind, ada, engine)
    bodies = [{"labels": {f"k{n}": str(n)}} for n in range(8)]
    answers = await asyncio.gather(*(ada.http.patch(path, json=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    expected = {"a": "1", "b": "2"} | {f"k{n}": str(n) for n in range(8)}
    assert (await ada.http.get(path)).json()["labels"] == expected


async def test_a_merge_patch_is_no_body_of_other_methods(ada: Person) -> None:
    answer = await ada.http.post("/volumes", content='{"name": "x", "size_gb": 1}', headers=MERGE_PATCH)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_the_refusal_of_a_media_type_names_both(ada: Person, engine: AsyncEngine) -> None:
    path = await path_of("vms", ada, engine)
    answer = await ada.http.patch(path, content="{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert answer.json()["detail"].endswith("application/json or application/merge-patch+json.")


def test_merging_is_that_of_rfc_7396() -> None:
    labels = {"a": "1", "b": "2"}
    assert merged(labels, {"a": None, "c": "3"}) == {"b": "2", "c": "3"}
    assert merged(labels, {}) == labels
    assert merged(labels, None) == {}
    with pytest.raises(TooManyLabelsError):
        merged(labels, {f"k{n}": "" for n in range(MOST_LABELS)})
