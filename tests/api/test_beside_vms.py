"""What snapshots, volumes, attachments and interfaces have in common: whose they are, keys, bodies, pages."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Attachment, IdempotencyKey, Interface, Operation, Snapshot, Volume
from domain.rules.resources import SnapshotStatus, VolumeStatus
from tests.api.conftest import Person, count, pointers
from tests.api.test_idempotency import KEY, same
from tests.api.vm_resources import attached_to, rows_of, snapshot_of, unknown_id, vm_of, volume_of
from tests.support.rows import NETWORK_IDS, add_interface, add_snapshot, add_volume, read_vm

NETWORK, OTHER_NETWORK = str(NETWORK_IDS["private"]), str(NETWORK_IDS["edge"])
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Call = tuple[str, str, Any]


async def everything(ada: Person, engine: AsyncEngine) -> dict[str, str]:
    """One of each of hers, by the name of its path parameter."""
    vm = await vm_of(ada, engine)
    held, _ = await attached_to(vm, ada, engine)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm)
    ids = {"held": held.id, "loose": (await volume_of(ada, engine)).id, "interface": interface.id, "vm": vm.id}
    ids["snapshot"] = (await snapshot_of(vm, engine)).id
    return {name: str(id) for name, id in ids.items()}


CALLS: list[Call] = [
    ("GET", "/vms/{vm}/snapshots", None),
    ("POST", "/vms/{vm}/snapshots", {"name": "x"}),
    ("GET", "/vms/{vm}/snapshots/{snapshot}", None),
    ("DELETE", "/vms/{vm}/snapshots/{snapshot}", None),
    ("POST", "/vms/{vm}/snapshots/{snapshot}/restore", None),
    ("GET", "/volumes/{held}", None),
    ("GET", "/volumes/{loose}", None),
    ("DELETE", "/volumes/{loose}", None),
    ("GET", "/vms/{vm}/volumes", None),
    ("POST", "/vms/{vm}/volumes", {"volume_id": "{loose}"}),
    ("GET", "/vms/{vm}/volumes/{held}", None),
    ("DELETE", "/vms/{vm}/volumes/{held}", None),
    ("GET", "/vms/{vm}/interfaces", None),
    ("POST", "/vms/{vm}/interfaces", {"network_id": NETWORK}),
    ("GET", "/vms/{vm}/interfaces/{interface}", None),
    ("DELETE", "/vms/{vm}/interfaces/{interface}", None),
]


def filled(call: Call, ids: dict[str, str]) -> tuple[str, str, Any]:
    """The call with ids in place of their names."""
    method, path, body = call
    return method, path.format_map(ids), {key: text.format_map(ids) for key, text in body.items()} if body else None


async def state(engine: AsyncEngine) -> list[list[Any]]:
    """All that anybody has beside VMs."""
    return [await rows_of(engine, model) for model in (Snapshot, Volume, Attachment, Interface, Operation)]


async def test_another_owners_is_not_there_at_all(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    hers = await everything(ada, engine)
    nothing = {name: unknown_id() for name in hers}
    before, vm = await state(engine), await read_vm(engine, UUID(hers["vm"]))
    for call in CALLS:
        told = []
        for ids in (hers, nothing):
            method, path, body = filled(call, ids)
            answer = await bob.http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), call
            detail: str = answer.json()["detail"]
            told.append(detail.replace(next(id for id in ids.values() if id in detail), "id"))
        assert told[0] == told[1]
    assert (await bob.http.get("/volumes")).json()["total"] == 0
    assert (await state(engine), await read_vm(engine, UUID(hers["vm"]))) == (before, vm)


async def test_ones_own_vm_takes_no_volume_of_another(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    his, hers = await vm_of(bob, engine), await volume_of(ada, engine)
    answer = await bob.http.post(f"/vms/{his.id}/volumes", json={"volume_id": str(hers.id)})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert str(hers.id) in answer.json()["detail"]
    assert (await rows_of(engine, Volume), await count(engine, Operation)) == ([hers], 0)


ASKING = [call for call in [*CALLS, ("POST", "/volumes", {"name": "x"})] if call[0] != "GET"]


def other_body(body: dict[str, Any]) -> dict[str, Any]:
    """A body that asks for something else."""
    others: dict[str, dict[str, Any]] = {
        "name": {"name": "y"},
        "volume_id": {"delete_on_termination": True},
        "size_gb": {"size_gb": 2},
    }
    changes = [change for key, change in others.items() if key in body]
    return body | (changes[0] if changes else {"network_id": OTHER_NETWORK})


@pytest.mark.parametrize("call", ASKING, ids=lambda call: f"{call[0]} {call[1]}")
async def test_a_key_is_answered_again_and_nothing_is_done_twice(ada: Person, engine: AsyncEngine, call: Call) -> None:
    method, path, body = filled(call, await everything(ada, engine))
    if path == "/volumes":
        body = {"name": "x", "size_gb": 1}
    first = await ada.http.request(method, path, json=body, headers=KEY)
    assert first.status_code in {202, 204}, first.text
    before = await state(engine)
    assert same(first, await ada.http.request(method, path, json=body, headers=KEY))
    assert await state(engine) == before
    assert await count(engine, Operation) == await count(engine, IdempotencyKey) == 1
    if body:
        reused = await ada.http.request(method, path, json=other_body(body), headers=KEY)
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
        assert await state(engine) == before


async def test_a_refusal_is_not_kept(ada: Person, engine: AsyncEngine) -> None:
    vm, volume = await vm_of(ada, engine), await volume_of(ada, engine, status=VolumeStatus.CREATING)
    path, body = f"/vms/{vm.id}/volumes", {"volume_id": str(volume.id)}
    assert (await ada.http.post(path, json=body, headers=KEY)).status_code == 409
    async with engine.begin() as tx:
        await tx.exec_driver_sql("UPDATE volumes SET status = 'AVAILABLE'")
    assert (await ada.http.post(path, json=body, headers=KEY)).status_code == 202


VOLUME, ATTACHMENT = {"name": "x", "size_gb": 1}, {"volume_id": unknown_id()}
WRONG: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    *(("/volumes", VOLUME, {"size_gb": size}, "#/size_gb") for size in (0, -1, 16_385, 1.0, 1.5, "1", True, None, [1])),
    ("/volumes", VOLUME, {"size_gb": 10**400}, "#/size_gb"),
    ("/volumes", VOLUME, {"name": " "}, "#/name"),
    ("/volumes", VOLUME, {"name": "nul\0"}, "#/name"),
    ("/volumes", VOLUME, {"status": "AVAILABLE"}, "#/status"),
    ("/vms/{vm}/volumes", ATTACHMENT, {"volume_id": "data"}, "#/volume_id"),
    ("/vms/{vm}/volumes", ATTACHMENT, {"volume_id": None}, "#/volume_id"),
    ("/vms/{vm}/volumes", ATTACHMENT, {"device": "/dev/vdb"}, "#/device"),
    *(
        ("/vms/{vm}/volumes", ATTACHMENT, {"delete_on_termination": goes}, "#/delete_on_termination")
        for goes in (1, "true", None)
    ),
    ("/vms/{vm}/interfaces", {"network_id": NETWORK}, {"network_id": "private"}, "#/network_id"),
    ("/vms/{vm}/interfaces", {"network_id": NETWORK}, {"ip_address": "10.0.0.9"}, "#/ip_address"),
    ("/vms/{vm}/snapshots", {"name": "x"}, {"name": "x" * 256}, "#/name"),
    ("/vms/{vm}/snapshots", {"name": "x"}, {"name": 7}, "#/name"),
    ("/vms/{vm}/snapshots", {"name": "x"}, {"size_gb": 1}, "#/size_gb"),
    ("/vms/{vm}/snapshots/{snapshot}/restore", {}, {"force": True}, "#/force"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
async def test_a_body_that_does_not_fit_is_pointed_at(ada: Person, engine: AsyncEngine, number: int) -> None:
    path, body, change, pointer = WRONG[number]
    where = path.format_map(await everything(ada, engine))
    before = await state(engine)
    answer = await ada.http.post(where, json=body | change)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.text
    assert pointers(answer.json()) == {pointer}
    assert await state(engine) == before


@pytest.mark.parametrize("path", ["/volumes", "/vms/{vm}/volumes", "/vms/{vm}/interfaces", "/vms/{vm}/snapshots"])
async def test_what_is_made_needs_a_body(ada: Person, engine: AsyncEngine, path: str) -> None:
    where = path.format_map(await everything(ada, engine))
    answers = [await ada.http.post(where), await ada.http.post(where, json={}), await ada.http.post(where, json=[])]
    assert [answer.status_code for answer in answers] == [422] * 3
    assert await count(engine, Operation) == 0


async def add_all(ada: Person, engine: AsyncEngine, kind: str) -> tuple[str, list[str]]:
    """Volumes of hers, or snapshots of a VM of hers, one in each status; where they are listed; ids, newest first."""
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
async def test_a_list_is_newest_first_without_what_is_deleted(ada: Person, engine: AsyncEngine, kind: str) -> None:
    path, ids = await add_all(ada, engine, kind)
    deleted = (await ada.http.get(path, params={"status": "DELETED"})).json()
    assert [one["status"] for one in deleted["items"]] == ["DELETED"]
    wanted = [id for id in ids if id != deleted["items"][0]["id"]]
    whole = (await ada.http.get(path)).json()
    assert [one["id"] for one in whole["items"]] == wanted
    found: list[str] = []
    parameters = {"page_size": "2"}
    while page := (await ada.http.get(path, params=parameters)).json():
        assert page["total"] == len(wanted)
        found += [one["id"] for one in page["items"]]
        if not page["next_cursor"]:
            break
        parameters["cursor"] = page["next_cursor"]
    assert found == wanted
    assert [one["id"] for one in (await ada.http.get(path, params={"page": 2, "page_size": 2})).json()["items"]] == (
        wanted[2:4]
    )


@each_list
async def test_a_list_is_filtered_by_status(ada: Person, engine: AsyncEngine, kind: str) -> None:
    path, _ = await add_all(ada, engine, kind)

    async def names(*given: str) -> set[str]:
        answer = await ada.http.get(path, params={"status": list(given)})
        return {one["name"] for one in answer.json()["items"]}

    assert await names("ERROR") == {"ERROR"}
    assert await names("ERROR,CREATING", "DELETED") == {"ERROR", "CREATING", "DELETED"}
    for status in ("error", "ACTIVE", "ATTACHED", "ERROR,", ""):
        refused = await ada.http.get(path, params={"status": status})
        assert (refused.status_code, pointers(refused.json())) == (422, {"status"})


async def test_volumes_are_filtered_by_a_part_of_the_name_taken_literally(ada: Person, engine: AsyncEngine) -> None:
    for name in ("Data-1", "data_2", "100%"):
        await volume_of(ada, engine, name=name)

    async def names(name: str) -> list[str]:
        return [one["name"] for one in (await ada.http.get("/volumes", params={"name": name})).json()["items"]]

    assert await names("DATA") == ["data_2", "Data-1"]
    assert await names("_") == ["data_2"]
    assert await names("%") == ["100%"]
    assert len(await names("")) == 3
    assert (await ada.http.get("/volumes", params={"name": "nul\0"})).status_code == 422


async def test_operations_of_all_of_them_are_listed_with_their_vm(ada: Person, engine: AsyncEngine) -> None:
    ids = await everything(ada, engine)
    for method, path, body in (filled(call, ids) for call in CALLS):
        if method == "DELETE":
            assert (await ada.http.request(method, path, json=body)).status_code == 204
    about_vm = (await ada.http.get(f"/vms/{ids['vm']}/operations")).json()["items"]
    assert {one["action"]: one["resource_type"] for one in about_vm} == {
        "delete-snapshot": "snapshot",
        "detach-volume": "volume",
        "detach-interface": "interface",
    }
    assert {one["vm_id"] for one in about_vm} == {ids["vm"]}
    (deleted,) = (await ada.http.get("/operations", params={"action": "delete-volume"})).json()["items"]
    assert (deleted["resource_type"], deleted["resource_id"], deleted["vm_id"]) == ("volume", ids["loose"], None)
