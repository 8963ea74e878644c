"""VMs that are built from a snapshot or boot from a volume."""

from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Attachment, Image, Operation, Volume
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Status
from tests.api.conftest import FLAVOR, Person, count, operations_of
from tests.api.vm_resources import (
    attached_to,
    check_refused_and_unchanged,
    operation_of,
    rows_of,
    snapshot_of,
    unknown_id,
    vm_of,
    volume_of,
)
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS

CIRROS, UBUNTU = IMAGE_IDS["cirros-0.6.3"], IMAGE_IDS["ubuntu-24.04"]  # images of 1 and 4 GiB
TINY = FLAVOR_IDS["m1.tiny"]  # a disk of 1 GiB


async def create(person: Person, **fields: Any) -> httpx.Response:
    """Answer to a create."""
    return await person.http.post("/vms", json={"name": "web", "flavor_id": FLAVOR} | fields)


def check_problem(answer: httpx.Response, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    """The answer is this problem."""
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert [error["pointer"] for error in problem.get("errors", [])] == ([pointer] if pointer else [])
    return problem


async def test_a_vm_is_built_from_a_snapshot(ada: Person, engine: AsyncEngine) -> None:
    snapshot = await snapshot_of(await vm_of(ada, engine, image_id=UBUNTU), engine)
    answer = await create(ada, snapshot_id=str(snapshot.id))
    vm = answer.json()
    assert answer.status_code == 202, answer.text
    assert (vm["snapshot_id"], vm["boot_volume_id"], vm["image_id"]) == (str(snapshot.id), None, str(UBUNTU))
    (operation,) = await operations_of(engine, vm["id"])
    assert operation.input["snapshot_id"] == str(snapshot.id)


async def test_an_image_that_is_no_longer_offered_does_not_keep_a_snapshot_of_it_from_being_used(
    ada: Person, engine: AsyncEngine
) -> None:
    snapshot = await snapshot_of(await vm_of(ada, engine), engine)
    async with engine.begin() as tx:
        await tx.execute(update(Image).values(is_available=False, is_default=False))
    assert (await create(ada, snapshot_id=str(snapshot.id))).status_code == 202


async def test_the_flavors_disk_must_hold_the_snapshot(ada: Person, engine: AsyncEngine) -> None:
    snapshot = await snapshot_of(await vm_of(ada, engine), engine)
    answer = await create(ada, snapshot_id=str(snapshot.id), flavor_id=str(TINY))
    problem = check_problem(answer, 422, "flavor_too_small", "#/flavor_id")
    assert "snapshot before needs 20 GiB" in problem["detail"]
    built = await vm_of(ada, engine, snapshot_id=snapshot.id)
    resize = await ada.http.post(f"/vms/{built.id}/actions/resize", json={"flavor_id": str(TINY)})
    check_problem(resize, 422, "flavor_too_small", "#/flavor_id")


@pytest.mark.parametrize("status", sorted(set(SnapshotStatus) - {SnapshotStatus.AVAILABLE}))
async def test_only_an_available_snapshot_can_be_built_from(
    ada: Person, engine: AsyncEngine, status: SnapshotStatus
) -> None:
    snapshot = await snapshot_of(await vm_of(ada, engine), engine, status)
    problem = check_problem(await create(ada, snapshot_id=str(snapshot.id)), 409, "invalid_transition", "#/snapshot_id")
    assert problem["current_status"] == status
    assert problem["detail"].startswith(f"Cannot create a VM from a snapshot in status {status}; ")
    assert await count(engine, VM) == 1


async def bootable(ada: Person, engine: AsyncEngine, **values: Any) -> Volume:
    """A volume of the user from which VMs can boot."""
    return await volume_of(ada, engine, **{"image_id": UBUNTU} | values)


@pytest.mark.parametrize("goes_with_vm", [True, False])
@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "one"}], ids=["no key", "key"])
async def test_a_vm_boots_from_a_volume(
    ada: Person, engine: AsyncEngine, key: dict[str, str], *, goes_with_vm: bool
) -> None:
    volume = await bootable(ada, engine)
    wanted = {"volume_id": str(volume.id), "delete_on_termination": goes_with_vm}
    body = {"name": "web", "flavor_id": str(TINY), "boot_volume": wanted}
    answer = await ada.http.post("/vms", json=body, headers=key)
    vm = answer.json()
    assert answer.status_code == 202, answer.text
    assert (vm["snapshot_id"], vm["boot_volume_id"], vm["image_id"]) == (None, str(volume.id), str(UBUNTU))
    shown = (await ada.http.get(f"/volumes/{volume.id}")).json()
    assert (shown["status"], shown["vm_id"], shown["device"]) == ("ATTACHING", vm["id"], "/dev/vda")
    (attachment,) = await rows_of(engine, Attachment)
    assert (attachment.status, attachment.delete_on_termination) == ("ATTACHING", goes_with_vm)
    assert str(attachment.operation_id) == shown["operation_id"] == vm["operation_id"]
    assert (await operation_of(ada, engine, answer)).input["boot_volume_id"] == str(volume.id)


@pytest.mark.parametrize("status", sorted(set(VolumeStatus) - {VolumeStatus.AVAILABLE}))
async def test_only_an_available_volume_can_be_booted_from(
    ada: Person, engine: AsyncEngine, status: VolumeStatus
) -> None:
    volume = await bootable(ada, engine, status=status)
    answer = await create(ada, boot_volume={"volume_id": str(volume.id)})
    problem = check_problem(answer, 409, "invalid_transition", "#/boot_volume/volume_id")
    assert problem["current_status"] == status
    assert "Cannot create a VM from a volume" in problem["detail"]
    assert (await rows_of(engine, Volume), await count(engine, VM)) == ([volume], 0)


async def test_a_volume_without_an_image_cannot_be_booted_from(ada: Person, engine: AsyncEngine) -> None:
    volume = await volume_of(ada, engine)
    answer = await create(ada, boot_volume={"volume_id": str(volume.id)})
    check_problem(answer, 422, "not_bootable", "#/boot_volume/volume_id")
    assert (await rows_of(engine, Volume), await count(engine, Operation)) == ([volume], 0)


async def test_a_snapshot_or_volume_of_somebody_else_is_unknown(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    snapshot, volume = await snapshot_of(await vm_of(ada, engine), engine), await bootable(ada, engine)
    for id in (snapshot.id, unknown_id()):
        check_problem(await create(bob, snapshot_id=str(id)), 422, "unknown_reference", "#/snapshot_id")
    for id in (volume.id, unknown_id()):
        answer = await create(bob, boot_volume={"volume_id": str(id)})
        check_problem(answer, 422, "unknown_reference", "#/boot_volume/volume_id")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        (("image_id", "snapshot_id"), "#/snapshot_id"),
        (("image_id", "boot_volume"), "#/boot_volume"),
        (("snapshot_id", "boot_volume"), "#/boot_volume"),
    ],
)
async def test_a_vm_boots_from_one_thing(ada: Person, fields: tuple[str, str], pointer: str) -> None:
    values = {"image_id": str(CIRROS), "snapshot_id": unknown_id(), "boot_volume": {"volume_id": unknown_id()}}
    answer = await create(ada, **{field: values[field] for field in fields})
    problem = check_problem(answer, 422, "validation_failed", pointer)
    assert problem["errors"][0]["code"] == "conflicting_fields"
    assert fields[0] in problem["errors"][0]["detail"]


async def test_the_volume_that_a_vm_boots_from_cannot_be_detached(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    volume, _ = await attached_to(vm, ada, engine)
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(boot_volume_id=volume.id))
    answer = await ada.http.delete(f"/vms/{vm.id}/volumes/{volume.id}")
    check_problem(answer, 409, "root_volume")
    assert await count(engine, Operation) == 0


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.SHUTOFF])
async def test_no_snapshot_is_taken_of_a_vm_that_boots_from_a_volume(
    ada: Person, engine: AsyncEngine, status: Status
) -> None:
    vm = await vm_of(ada, engine, status=status, boot_volume_id=(await bootable(ada, engine)).id)
    answer = await ada.http.post(f"/vms/{vm.id}/snapshots", json={"name": "before"})
    await check_refused_and_unchanged(engine, vm, answer, "volume_backed")


async def test_a_vm_that_boots_from_a_volume_can_get_any_flavor(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine, image_id=UBUNTU, boot_volume_id=(await bootable(ada, engine)).id)
    answer = await ada.http.post(f"/vms/{vm.id}/actions/resize", json={"flavor_id": str(TINY)})
    assert answer.status_code == 202, answer.text


async def test_a_volume_is_created_from_an_image(ada: Person, engine: AsyncEngine) -> None:
    body = {"name": "root", "size_gb": 4, "image_id": str(UBUNTU)}
    answer = await ada.http.post("/volumes", json=body)
    volume = answer.json()
    assert answer.status_code == 202, answer.text
    assert (volume["image_id"], volume["bootable"]) == (str(UBUNTU), True)
    assert (await operation_of(ada, engine, answer)).input == body
    empty = (await ada.http.post("/volumes", json={"name": "data", "size_gb": 1})).json()
    assert (empty["image_id"], empty["bootable"]) == (None, False)


async def test_a_volume_must_hold_its_image(ada: Person, engine: AsyncEngine) -> None:
    body = {"name": "root", "size_gb": 3, "image_id": str(UBUNTU)}
    problem = check_problem(await ada.http.post("/volumes", json=body), 422, "volume_too_small", "#/size_gb")
    assert "needs 4 GiB" in problem["detail"]
    assert await count(engine, Volume) == 0


async def test_a_volume_of_an_unknown_image_is_refused(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(Image).where(Image.id == UBUNTU).values(is_available=False))
    for id in (unknown_id(), str(UBUNTU)):
        answer = await ada.http.post("/volumes", json={"name": "root", "size_gb": 9, "image_id": id})
        check_problem(answer, 422, "unknown_reference", "#/image_id")
