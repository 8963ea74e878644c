"""Rules that snapshots, volumes, attachments and interfaces share: owners, idempotency keys, bodies, list filters."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.accounts import IdempotencyKey
from domain.data.models import Attachment, Interface, Operation, Snapshot, Volume
from domain.rules.resources import SnapshotStatus, VolumeStatus
from tests.api.conftest import Person, count, pointers
from tests.api.test_idempotency import KEY, is_replay
from tests.api.vm_resources import attached_to, rows_of, snapshot_of, unknown_id, vm_of, volume_of
from tests.support.rows import NETWORK_IDS, add_interface, add_snapshot, add_volume, read_vm

NETWORK, OTHER_NETWORK = str(NETWORK_IDS["private"]), str(NETWORK_IDS["edge"])
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)  # rows that are kept
Call = tuple[str, str, Any]


async def add_resources(ada: Person, engine: AsyncEngine) -> dict[str, str]:
    """Add one resource of each kind for the user; return their ids by the names that CALLS uses."""
    vm = await vm_of(ada, engine)
    attached, _ = await attached_to(vm, ada, engine)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm)
    ids = {"attached": attached.id, "loose": (await volume_of(ada, engine)).id, "interface": interface.id, "vm": vm.id}
    ids["snapshot"] = (await snapshot_of(vm, engine)).id
    return {name: str(id) for name, id in ids.items()}


CALLS: list[Call] = [
    ("GET", "/vms/{vm}/snapshots", None),
    ("POST", "/vms/{vm}/snapshots", {"name": "x"}),
    ("GET", "/vms/{vm}/snapshots/{snapshot}", None),
    ("DELETE", "/vms/{vm}/snapshots/{snapshot}", None),
    ("POST", "/vms/{vm}/snapshots/{snapshot}/restore", None),
    ("GET", "/volumes/{attached}", None),
    ("GET", "/volumes/{loose}", None),
    ("DELETE", "/volumes/{loose}", None),
    ("GET", "/vms/{vm}/volumes", None),
    ("POST", "/vms/{vm}/volumes", {"volume_id": "{loose}"}),
    ("GET", "/vms/{vm}/volumes/{attached}", None),
    ("DELETE", "/vms/{vm}/volumes/{attached}", None),
    ("GET", "/vms/{vm}/interfaces", None),
    ("POST", "/vms/{vm}/interfaces", {"network_id": NETWORK}),
    ("GET", "/vms/{vm}/interfaces/{interface}", None),
    ("DELETE", "/vms/{vm}/interfaces/{interface}", None),
]


def filled(call: Call, ids: dict[str, str]) -> tuple[str, str, Any]:
    """The call's method, path and body with ids in place of their names."""
    method, path, body = call
    return method, path.format_map(ids), {key: text.format_map(ids) for key, text in body.items()} if body else None


async def all_rows(engine: AsyncEngine) -> list[list[Any]]:
    """Every row about resources other than VMs."""
    return [await rows_of(engine, model) for model in (Snapshot, Volume, Attachment, Interface, Operation)]


async def test_another_users_resources_look_as_if_they_did_not_exist(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    ids_of_ada = await add_resources(ada, engine)
    unknown_ids = {name: unknown_id() for name in ids_of_ada}
    before, vm = await all_rows(engine), await read_vm(engine, UUID(ids_of_ada["vm"]))
    for call in CALLS:
        details = []
        for ids in (ids_of_ada, unknown_ids):
            method, path, body = filled(call, ids)
            answer = await bob.http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), call
            detail: str = answer.json()["detail"]
            details.append(detail.replace(next(id for id in ids.values() if id in detail), "id"))
        assert details[0] == details[1]
    assert (await bob.http.get("/volumes")).json()["total"] == 0
    assert (await all_rows(engine), await read_vm(engine, UUID(ids_of_ada["vm"]))) == (before, vm)


async def test_another_users_volume_cannot_be_attached_to_ones_own_vm(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    vm_of_bob, volume_of_ada = await vm_of(bob, engine), await volume_of(ada, engine)
    answer = await bob.http.post(f"/vms/{vm_of_bob.id}/volumes", json={"volume_id": str(volume_of_ada.id)})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert str(volume_of_ada.id) in answer.json()["detail"]
    assert (await rows_of(engine, Volume), await count(engine, Operation)) == ([volume_of_ada], 0)


CHANGING_CALLS = [call for call in [*CALLS, ("POST", "/volumes", {"name": "x"})] if call[0] != "GET"]


def other_body(body: dict[str, Any]) -> dict[str, Any]:
    """A valid body that differs from this one."""
    others: dict[str, dict[str, Any]] = {
        "name": {"name": "y"},
        "volume_id": {"delete_on_termination": True},
        "size_gb": {"size_gb": 2},
    }
    changes = [change for key, change in others.items() if key in body]
    return body | (changes[0] if changes else {"network_id": OTHER_NETWORK})


@pytest.mark.parametrize("call", CHANGING_CALLS, ids=lambda call: f"{call[0]} {call[1]}")
async def test_a_repeated_request_with_its_key_gets_the_first_answer_and_changes_nothing(
    ada: Person, engine: AsyncEngine, call: Call
) -> None:
    method, path, body = filled(call, await add_resources(ada, engine))
    if path == "/volumes":
        body = {"name": "x", "size_gb": 1}
    first = await ada.http.request(method, path, json=body, headers=KEY)
    assert first.status_code in {202, 204}, first.text
    before = await all_rows(engine)
    assert is_replay(first, await ada.http.request(method, path, json=body, headers=KEY))
    assert await all_rows(engine) == before
    assert await count(engine, Operation) == await count(engine, IdempotencyKey) == 1
    if body:
        reused = await ada.http.request(method, path, json=other_body(body), headers=KEY)
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
        assert await all_rows(engine) == before


async def test_the_same_request_with_its_key_succeeds_after_a_refusal(ada: Person, engine: AsyncEngine) -> None:
    vm, volume = await vm_of(ada, engine), await volume_of(ada, engine, status=VolumeStatus.CREATING)
    path, body = f"/vms/{vm.id}/volumes", {"volume_id": str(volume.id)}
    assert (await ada.http.post(path, json=body, headers=KEY)).status_code == 409
    async with engine.begin() as tx:
        await tx.exec_driver_sql("UPDATE volumes SET status = 'AVAILABLE'")
    assert (await ada.http.post(path, json=body, headers=KEY)).status_code == 202


VOLUME, ATTACHMENT = {"name": "x", "size_gb": 1}, {"volume_id": unknown_id()}
INVALID: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    *(("/volumes", VOLUME, {"size_gb": size}, "#/size_gb") for size in (0, -1, 16_385, 0.0, 1.5, "1", True, None, [1])),
    ("/volumes", VOLUME, {"size_gb": 10**400}, "#/size_gb"),
    ("/volumes", VOLUME, {"name": " "}, "#/name"),
    ("/volumes", VOLUME, {"name": "nul\0"}, "#/name"),
    ("/volumes", VOLUME, {"status": "AVAILABLE"}, "#/status"),
    ("/vms/{vm}/volumes", ATTACHMENT, {"volume_id": "data"}, "#/volume_id"),
    ("/vms/{vm}/volumes", ATTACHMENT, {"volume_id": None}, "#/volume_id"),
    ("/vms/{vm}/volumes", ATTACHMENT, {"device": "/dev/vdb"}, "#/device"),
    *(
        ("/vms/{vm}/volumes", ATTACHMENT, {"delete_on_termination": value}, "#/delete_on_termination")
        for value in (1, "true", None)
    ),
    ("/vms/{vm}/interfaces", {"network_id": NETWORK}, {"network_id": "private"}, "#/network_id"),
    ("/vms/{vm}/interfaces", {"network_id": NETWORK}, {"ip_address": "10.0.0"}, "#/ip_address"),
    ("/vms/{vm}/snapshots", {"name": "x"}, {"name": "x" * 256}, "#/name"),
    ("/vms/{vm}/snapshots", {"name": "x"}, {"name": 7}, "#/name"),
    ("/vms/{vm}/snapshots", {"name": "x"}, {"size_gb": 1}, "#/size_gb"),
    ("/vms/{vm}/snapshots/{snapshot}/restore", {}, {"force": True}, "#/force"),
]


async def test_an_invalid_body_is_refused_and_the_field_is_named(ada: Person, engine: AsyncEngine) -> None:
    ids = await add_resources(ada, engine)
    before = await all_rows(engine)
    for path, body, change, pointer in INVALID:
        answer = await ada.http.post(path.format_map(ids), json=body | change)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), (path, change, answer.text)
        assert pointers(answer.json()) == {pointer}, (path, change)
        assert await all_rows(engine) == before, (path, change)


@pytest.mark.parametrize("path", ["/volumes", "/vms/{vm}/volumes", "/vms/{vm}/interfaces", "/vms/{vm}/snapshots"])
async def test_a_create_without_a_complete_body_is_refused(ada: Person, engine: AsyncEngine, path: str) -> None:
    filled_path = path.format_map(await add_resources(ada, engine))
    answers = [
        await ada.http.post(filled_path),
        await ada.http.post(filled_path, json={}),
        await ada.http.post(filled_path, json=[]),
    ]
    assert [answer.status_code for answer in answers] == [422] * 3
    assert await count(engine, Operation) == 0


async def add_each_status(ada: Person, engine: AsyncEngine, kind: str) -> tuple[str, list[str]]:
    """Add a volume or snapshot in each status; return the path of their list and their ids, newest first."""
    vm, ids = await vm_of(ada, engine), []
    statuses: type[VolumeStatus | SnapshotStatus] = VolumeStatus if kind == "volumes" else SnapshotStatus
    async with engine.begin() as tx:
        for minute, status in enumerate(statuses):
            values: dict[str, Any] = {"status": status, "name": status.value, "created_at": NOON + minute * MINUTE}
            add = add_volume(tx, ada.user, **values) if kind == "volumes" else add_snapshot(tx, vm, **values)
            ids.append(str((await add).id))
    return "/volumes" if kind == "volumes" else f"/vms/{vm.id}/snapshots", ids[::-1]


MINUTE = timedelta(minutes=1)
each_list = pytest.mark.parametrize("kind", ["volumes", "snapshots"])


@each_list
async def test_a_list_is_newest_first_and_leaves_deleted_resources_out(
    ada: Person, engine: AsyncEngine, kind: str
) -> None:
    path, ids = await add_each_status(ada, engine, kind)
    deleted = (await ada.http.get(path, params={"status": "DELETED"})).json()
    assert [item["status"] for item in deleted["items"]] == ["DELETED"]
    expected = [id for id in ids if id != deleted["items"][0]["id"]]
    whole = (await ada.http.get(path)).json()
    assert [item["id"] for item in whole["items"]] == expected
    found: list[str] = []
    parameters = {"page_size": "2"}
    while page := (await ada.http.get(path, params=parameters)).json():
        assert page["total"] == len(expected)
        found += [item["id"] for item in page["items"]]
        if not page["next_cursor"]:
            break
        parameters["cursor"] = page["next_cursor"]
    assert found == expected
    second = (await ada.http.get(path, params={"page": 2, "page_size": 2})).json()
    assert [item["id"] for item in second["items"]] == expected[2:4]


@each_list
async def test_a_list_can_be_filtered_by_status(ada: Person, engine: AsyncEngine, kind: str) -> None:
    path, _ = await add_each_status(ada, engine, kind)

    async def names(*statuses: str) -> set[str]:
        answer = await ada.http.get(path, params={"status": list(statuses)})
        return {item["name"] for item in answer.json()["items"]}

    assert await names("ERROR") == {"ERROR"}
    assert await names("ERROR,CREATING", "DELETED") == {"ERROR", "CREATING", "DELETED"}
    for status in ("error", "ACTIVE", "ATTACHED", "ERROR,", ""):
        refused = await ada.http.get(path, params={"status": status})
        assert (refused.status_code, pointers(refused.json())) == (422, {"status"})


async def test_volumes_can_be_filtered_by_part_of_the_name_without_wildcards(ada: Person, engine: AsyncEngine) -> None:
    for name in ("Data-1", "data_2", "100%"):
        await volume_of(ada, engine, name=name)

    async def names(name: str) -> list[str]:
        return [item["name"] for item in (await ada.http.get("/volumes", params={"name": name})).json()["items"]]

    assert await names("DATA") == ["data_2", "Data-1"]
    assert await names("_") == ["data_2"]
    assert await names("%") == ["100%"]
    for refused in ("nul\0", ""):
        assert (await ada.http.get("/volumes", params={"name": refused})).status_code == 422


async def test_operations_on_the_resources_of_a_vm_are_listed_with_the_vm(ada: Person, engine: AsyncEngine) -> None:
    ids = await add_resources(ada, engine)
    for method, path, body in (filled(call, ids) for call in CALLS):
        if method == "DELETE":
            assert (await ada.http.request(method, path, json=body)).status_code == 204
    of_vm = (await ada.http.get(f"/vms/{ids['vm']}/operations")).json()["items"]
    assert {operation["action"]: operation["resource_type"] for operation in of_vm} == {
        "delete-snapshot": "snapshot",
        "detach-volume": "volume",
        "detach-interface": "interface",
    }
    assert {operation["vm_id"] for operation in of_vm} == {ids["vm"]}
    (deleted,) = (await ada.http.get("/operations", params={"action": "delete-volume"})).json()["items"]
    assert (deleted["resource_type"], deleted["resource_id"], deleted["vm_id"]) == ("volume", ids["loose"], None)
