"""The flavor's disk must hold the image: for a create, a resize and a restore."""

from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Flavor, Image, Operation, Snapshot
from domain.rules.disks import check_fits
from domain.rules.errors import FlavorTooSmallError
from domain.rules.resources import Kind
from domain.rules.states import Action, OperationStatus, Status
from tests.api.conftest import Person, count
from tests.api.vm_resources import vm_of
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS, add_operation, add_snapshot, read_vm

TINY, SMALL = FLAVOR_IDS["m1.tiny"], FLAVOR_IDS["m1.small"]  # disks of 1 and 20 GiB
CIRROS, UBUNTU = IMAGE_IDS["cirros-0.6.3"], IMAGE_IDS["ubuntu-24.04"]  # images of 1 and 4 GiB


def check_too_small(answer: httpx.Response, pointer: str | None) -> None:
    """The answer says that the flavor is too small, at this field of the body if there is one."""
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "flavor_too_small")
    found = [(error["pointer"], error["code"]) for error in problem.get("errors", [])]
    assert found == ([(pointer, "flavor_too_small")] if pointer else [])
    assert "1 GiB" in problem["detail"]
    assert "4 GiB" in problem["detail"]


def new(flavor: UUID, image: UUID | None) -> dict[str, Any]:
    """The body of a create."""
    return {"name": "web", "flavor_id": str(flavor)} | ({"image_id": str(image)} if image else {})


async def test_an_image_larger_than_the_flavors_disk_is_refused(ada: Person, engine: AsyncEngine) -> None:
    check_too_small(await ada.http.post("/vms", json=new(TINY, UBUNTU)), "#/flavor_id")
    assert (await count(engine, VM), await count(engine, Operation)) == (0, 0)


@pytest.mark.parametrize(("flavor", "image"), [(TINY, CIRROS), (TINY, None), (SMALL, UBUNTU)])
async def test_an_image_as_large_as_the_disk_or_smaller_is_accepted(
    ada: Person, flavor: UUID, image: UUID | None
) -> None:
    assert (await ada.http.post("/vms", json=new(flavor, image))).status_code == 202


async def test_the_default_image_must_fit_too(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(Image).where(Image.is_default).values(is_default=False))
        await tx.execute(update(Image).where(Image.id == UBUNTU).values(is_default=True))
    check_too_small(await ada.http.post("/vms", json=new(TINY, None)), "#/flavor_id")


async def test_a_resize_below_the_image_is_refused_and_changes_nothing(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine, image_id=UBUNTU)
    answer = await ada.http.post(f"/vms/{vm.id}/actions/resize", json={"flavor_id": str(TINY)})
    check_too_small(answer, "#/flavor_id")
    assert await read_vm(engine, vm.id) == vm
    assert await count(engine, Operation) == 0


async def test_a_resize_below_the_snapshot_of_the_last_restore_is_refused(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine, image_id=CIRROS)
    small = {"flavor_id": str(TINY)}
    done, failed = OperationStatus.SUCCEEDED, OperationStatus.FAILED
    for size_gb, status in ((1, done), (4, done), (1, failed)):
        async with engine.begin() as tx:
            snapshot = await add_snapshot(tx, vm, size_gb=size_gb)
            about: dict[str, Any] = {"resource_type": Kind.SNAPSHOT, "resource_id": snapshot.id}
            await add_operation(tx, vm, Action.RESTORE, status=status, **about)
    check_too_small(await ada.http.post(f"/vms/{vm.id}/actions/resize", json=small), "#/flavor_id")
    async with engine.begin() as tx:
        await tx.execute(update(Snapshot).values(size_gb=1))
    assert (await ada.http.post(f"/vms/{vm.id}/actions/resize", json=small)).status_code == 202


async def test_a_refusal_by_the_state_comes_before_one_by_the_disk(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine, image_id=UBUNTU, status=Status.ERROR)
    answer = await ada.http.post(f"/vms/{vm.id}/actions/resize", json={"flavor_id": str(TINY)})
    assert (answer.status_code, answer.json()["code"]) == (409, "invalid_transition")


@pytest.mark.parametrize("values", [{"image_id": UBUNTU, "size_gb": 1}, {"image_id": CIRROS, "size_gb": 4}])
async def test_a_restore_that_its_flavor_cannot_hold_is_refused_and_changes_nothing(
    ada: Person, engine: AsyncEngine, values: dict[str, Any]
) -> None:
    """By the image or by the disk in the snapshot: the flavor comes back too, and the body names none."""
    vm = await vm_of(ada, engine)
    async with engine.begin() as tx:
        snapshot = await add_snapshot(tx, vm, flavor_id=TINY, **values)
    check_too_small(await ada.http.post(f"/vms/{vm.id}/snapshots/{snapshot.id}/restore"), None)
    assert await read_vm(engine, vm.id) == vm
    assert (await ada.http.get(f"/vms/{vm.id}/snapshots/{snapshot.id}")).json()["status"] == "AVAILABLE"


@pytest.mark.parametrize("action", ["stop", "reboot"])
async def test_a_vm_that_breaks_the_rule_already_keeps_working(ada: Person, engine: AsyncEngine, action: str) -> None:
    vm = await vm_of(ada, engine, flavor_id=TINY, image_id=UBUNTU)
    assert (await ada.http.post(f"/vms/{vm.id}/actions/{action}")).status_code == 202
    assert (await ada.http.delete(f"/vms/{vm.id}")).status_code == 204


async def test_a_resize_back_to_a_flavor_that_is_too_small_can_be_reverted(ada: Person, engine: AsyncEngine) -> None:
    """The VM was built before the rule: a revert restores what it had."""
    vm = await vm_of(ada, engine, status=Status.VERIFY_RESIZE, flavor_id=SMALL, image_id=UBUNTU)
    input = {"flavor_id": str(SMALL), "flavor": "m1.small", "previous_flavor_id": str(TINY)}
    async with engine.begin() as tx:
        input |= {"previous_flavor": "m1.tiny"}
        await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED, input=input)
    assert (await ada.http.post(f"/vms/{vm.id}/actions/revert-resize")).status_code == 202


async def test_every_flavor_of_the_catalogue_holds_the_default_image(engine: AsyncEngine) -> None:
    """A create without an image is never refused for its size."""
    async with engine.connect() as connection:
        flavors = (await connection.execute(Flavor.__table__.select())).all()
        [image] = (await connection.execute(Image.__table__.select().where(Image.is_default))).all()
    for flavor in flavors:
        check_fits(flavor.name, flavor.disk_gb, image.name, image.size_gb)


@pytest.mark.parametrize(("disk", "content", "fits"), [(1, 1, True), (1, 2, False), (20, 4, True), (0, 1, False)])
def test_what_fits(disk: int, content: int, *, fits: bool) -> None:
    if fits:
        check_fits("m1.any", disk, "image any", content)
    else:
        with pytest.raises(FlavorTooSmallError, match=f"disk of {disk} GiB, but image any needs {content} GiB"):
            check_fits("m1.any", disk, "image any", content)
