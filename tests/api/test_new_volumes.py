"""Volumes of a new VM: claimed with the create, attached while the VM is built."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Attachment, Operation, Volume
from domain.rules.resources import VolumeStatus
from tests.api.conftest import Person, count, pointers
from tests.api.test_boot_sources import bootable
from tests.api.vm_resources import NO_ID, operation_of, rows_of, volume_of
from tests.support.rows import IMAGE_IDS

UBUNTU = str(IMAGE_IDS["ubuntu-24.04"])
NEW = {"name": "db-1", "flavor": "m1.small"}


def of(*volumes: Volume, **options: Any) -> dict[str, Any]:
    """The body of a new VM with these volumes."""
    return NEW | {"volumes": [{"volume_id": str(volume.id)} | options for volume in volumes]}


async def create(ada: Person, *volumes: Volume, **options: Any) -> httpx.Response:
    return await ada.http.post("/vms", json=of(*volumes, **options))


async def attached(ada: Person, vm_id: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await ada.http.get(f"/vms/{vm_id}/volumes")).json()["items"]
    return items


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "the key"}], ids=["plain", "with key"])
async def test_the_create_claims_and_attaches_the_volumes(
    ada: Person, engine: AsyncEngine, headers: dict[str, str]
) -> None:
    volumes = [await volume_of(ada, engine) for _ in range(3)]
    answer = await ada.http.post("/vms", json=of(*volumes, delete_on_termination=True), headers=headers)
    assert answer.status_code == 202, answer.text
    vm = answer.json()
    shown = await attached(ada, vm["id"])
    assert [(each["volume_id"], each["device"]) for each in shown] == [
        (str(volume.id), device) for volume, device in zip(volumes, ("/dev/vdb", "/dev/vdc", "/dev/vdd"), strict=True)
    ]
    assert {(each["status"], each["delete_on_termination"]) for each in shown} == {("ATTACHING", True)}
    operation = await operation_of(ada, engine, answer)
    assert operation.input["volume_ids"] == [str(volume.id) for volume in volumes]
    for row in await rows_of(engine, Volume):
        assert (row.status, row.operation_id) == (VolumeStatus.ATTACHING, operation.id)
        assert row.updated_at > row.created_at
    assert await count(engine, Operation) == 1
    if headers:
        again = await ada.http.post("/vms", json=of(*volumes, delete_on_termination=True), headers=headers)
        assert (again.content, again.headers["Idempotency-Replayed"]) == (answer.content, "true")


async def test_a_vm_that_boots_from_a_volume_may_have_others(ada: Person, engine: AsyncEngine) -> None:
    root, data = await bootable(ada, engine), await volume_of(ada, engine)
    answer = await ada.http.post("/vms", json=of(data) | {"boot_volume": {"volume_id": str(root.id)}})
    vm = answer.json()
    assert (answer.status_code, vm["boot_volume_id"], vm["image_id"]) == (202, str(root.id), UBUNTU)
    shown = {each["volume_id"]: each["device"] for each in await attached(ada, vm["id"])}
    assert shown == {str(root.id): "/dev/vda", str(data.id): "/dev/vdb"}


@pytest.mark.parametrize("status", sorted(set(VolumeStatus) - {VolumeStatus.AVAILABLE}))
async def test_only_an_available_volume_can_be_attached_to_a_new_vm(
    ada: Person, engine: AsyncEngine, status: VolumeStatus
) -> None:
    free, taken = await volume_of(ada, engine), await volume_of(ada, engine, status=status)
    before = await rows_of(engine, Volume)
    problem = (await create(ada, free, taken)).json()
    assert (problem["status"], problem["code"], problem["current_status"]) == (409, "invalid_transition", status)
    assert pointers(problem) == {"#/volumes/1/volume_id"}
    assert (await rows_of(engine, Volume), await count(engine, VM), await count(engine, Attachment)) == (before, 0, 0)


async def test_a_volume_of_another_user_does_not_exist(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    mine, other = await volume_of(ada, engine), await volume_of(bob, engine)
    problem = (await create(ada, mine, other)).json()
    assert (problem["status"], problem["code"]) == (422, "unknown_reference")
    assert pointers(problem) == {"#/volumes/1/volume_id"}
    assert problem["errors"][0]["detail"] == f"There is no such id: {other.id}."


async def test_a_volume_is_named_once(ada: Person, engine: AsyncEngine) -> None:
    root = await bootable(ada, engine)
    twice = await create(ada, root, root)
    assert (twice.status_code, pointers(twice.json())) == (422, {"#/volumes/1/volume_id"})
    boots_too = await ada.http.post("/vms", json=of(root) | {"boot_volume": {"volume_id": str(root.id)}})
    assert (boots_too.json()["code"], pointers(boots_too.json())) == ("validation_failed", {"#/volumes/0/volume_id"})
    batch = await ada.http.post("/vms/batch", json={"vms": [of(root), NEW, of(root)]})
    assert (batch.status_code, pointers(batch.json())) == (422, {"#/vms/2/volumes/0/volume_id"})
    assert {error["code"] for error in batch.json()["errors"]} == {"repeated_items"}
    assert await count(engine, VM) == 0


@pytest.mark.parametrize(
    ("volumes", "pointer", "code"),
    [
        ([{"volume_id": NO_ID}] * 26, "#/volumes", "too_long"),
        ([{}], "#/volumes/0/volume_id", "required"),
        ([{"volume_id": "x"}], "#/volumes/0/volume_id", "wrong_format"),
        ([{"volume_id": NO_ID, "device": "/dev/vdb"}], "#/volumes/0/device", "unknown_field"),
        ({}, "#/volumes", "wrong_type"),
        (None, "#/volumes", "wrong_type"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_an_invalid_volume_is_pointed_at(ada: Person, volumes: Any, pointer: str, code: str) -> None:
    problem = (await ada.http.post("/vms", json=NEW | {"volumes": volumes})).json()
    assert (problem["status"], problem["code"]) == (422, "validation_failed")
    assert {(error["pointer"], error["code"]) for error in problem["errors"]} == {(pointer, code)}


async def test_the_most_volumes_have_all_the_devices(ada: Person, engine: AsyncEngine) -> None:
    volumes = [await volume_of(ada, engine) for _ in range(25)]
    answer = await create(ada, *volumes)
    assert answer.status_code == 202, answer.text
    rows = await rows_of(engine, Attachment)
    assert {row.device for row in rows} == {f"/dev/vd{letter}" for letter in "bcdefghijklmnopqrstuvwxyz"}


async def test_of_concurrent_creates_for_one_volume_one_succeeds(ada: Person, engine: AsyncEngine) -> None:
    """Some name two volumes in one order and some in the other, and they never wait for each other for ever."""
    first, second = await volume_of(ada, engine), await volume_of(ada, engine)
    bodies = [of(first, second), of(second, first)] * 4
    single = [ada.http.post("/vms", json=body) for body in bodies]
    many = [ada.http.post("/vms/batch", json={"vms": [of(first), of(second)]}) for _ in range(4)]
    answers = await asyncio.gather(*single, *many)
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 11
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"invalid_transition"}
    assert await count(engine, Attachment) == 2


async def test_a_batch_attaches_to_each_vm_its_own_volumes(ada: Person, engine: AsyncEngine) -> None:
    volumes = [await volume_of(ada, engine) for _ in range(3)]
    answer = await ada.http.post("/vms/batch", json={"vms": [of(volumes[0], volumes[1]), NEW, of(volumes[2])]})
    assert answer.status_code == 202, answer.text
    vms = answer.json()["items"]
    shown = [{each["volume_id"] for each in await attached(ada, vm["id"])} for vm in vms]
    assert shown == [{str(volumes[0].id), str(volumes[1].id)}, set(), {str(volumes[2].id)}]
    held = {row.id: str(row.operation_id) for row in await rows_of(engine, Volume)}
    assert [held[volume.id] for volume in volumes] == [vms[0]["operation_id"]] * 2 + [vms[2]["operation_id"]]
