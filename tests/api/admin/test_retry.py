"""POST /admin/operations/{id}/retry: an admin repeats a failed operation for its owner."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Interface, Network, Operation
from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status
from domain.rules.table import TABLE
from tests.api.conftest import Person
from tests.support.rows import (
    FLAVOR_IDS,
    IMAGE_IDS,
    INPUTS,
    NETWORK_IDS,
    add_attachment,
    add_interface,
    add_operation,
    add_snapshot,
    add_vm,
    add_volume,
    read_operation,
)

FAILED = OperationStatus.FAILED


async def failed_operation(ada: Person, engine: AsyncEngine, action: Action, **values: Any) -> Operation:
    """A failed operation of ada, with the VM and the resources that a retry needs."""
    rule = TABLE[action]
    status = next(iter(sorted(rule.sources))) if rule.sources else Status.ACTIVE
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=status)
        if action in {Action.CONFIRM_RESIZE, Action.REVERT_RESIZE}:
            await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
        resource_id = vm.id
        input: dict[str, Any] = {}
        match action:
            case Action.ATTACH_VOLUME | Action.DELETE_VOLUME | Action.EXTEND_VOLUME:
                resource_id = (await add_volume(tx, ada.user)).id
                input = INPUTS[action] | {"delete_on_termination": True}
            case Action.DETACH_VOLUME:
                volume = await add_volume(tx, ada.user, status=VolumeStatus.IN_USE)
                await add_attachment(tx, vm, volume)
                resource_id = volume.id
            case Action.DETACH_INTERFACE:
                resource_id = (await add_interface(tx, vm, status=AttachmentStatus.ATTACHED)).id
            case Action.RESTORE | Action.DELETE_SNAPSHOT:
                resource_id = (await add_snapshot(tx, vm)).id
        values = {"resource_id": resource_id} | ({"input": input} if input else {}) | values
        return await add_operation(tx, vm, action, status=FAILED, **values)


@pytest.mark.parametrize("action", [action for action in TABLE if action not in {Action.CREATE, Action.CREATE_VOLUME}])
async def test_a_retry_is_a_new_operation_of_the_same_owner(
    ada: Person, root: Person, engine: AsyncEngine, action: Action
) -> None:
    failed = await failed_operation(ada, engine, action)
    answer = await root.http.post(f"/admin/operations/{failed.id}/retry")
    assert answer.status_code == 202, answer.text
    new = await read_operation(engine, UUID(answer.headers["Operation-Location"].rpartition("/")[2]))
    assert (new.action, new.retry_of, new.actor, new.owner_id) == (action, failed.id, "root", ada.user.id)
    assert new.status is OperationStatus.QUEUED
    shown = (await ada.http.get(f"/operations/{new.id}")).json()
    assert answer.json() == shown
    assert shown["retry_of"] == str(failed.id)


@pytest.mark.parametrize(
    ("action", "status"),
    [
        (Action.CREATE, FAILED),
        (Action.CREATE_VOLUME, FAILED),
        (Action.STOP, OperationStatus.SUCCEEDED),
        (Action.STOP, OperationStatus.RUNNING),
        (Action.STOP, OperationStatus.SUPERSEDED),
    ],
)
async def test_creates_and_operations_that_have_not_failed_cannot_be_retried(
    ada: Person, root: Person, engine: AsyncEngine, action: Action, status: OperationStatus
) -> None:
    async with engine.begin() as tx:
        operation = await add_operation(tx, await add_vm(tx, ada.user), action, status=status)
    refusal = await root.http.post(f"/admin/operations/{operation.id}/retry")
    assert (refusal.status_code, refusal.json()["code"]) == (409, "not_retryable")


@pytest.mark.parametrize(
    "action",
    [
        *(Action.DELETE, Action.DELETE_SNAPSHOT, Action.DELETE_VOLUME),
        *(Action.DETACH_VOLUME, Action.DETACH_INTERFACE),
    ],
)
async def test_a_retry_is_refused_while_the_owners_own_second_request_is_open(
    ada: Person, root: Person, engine: AsyncEngine, action: Action
) -> None:
    """The refusal names the owner's operation, which does not become a retry."""
    failed = await failed_operation(ada, engine, action)
    paths = {
        Action.DELETE: f"/vms/{failed.vm_id}",
        Action.DELETE_SNAPSHOT: f"/vms/{failed.vm_id}/snapshots/{failed.resource_id}",
        Action.DELETE_VOLUME: f"/volumes/{failed.resource_id}",
        Action.DETACH_INTERFACE: f"/vms/{failed.vm_id}/interfaces/{failed.resource_id}",
        Action.DETACH_VOLUME: f"/vms/{failed.vm_id}/volumes/{failed.resource_id}",
    }
    second = await ada.http.delete(paths[action])
    refusal = await root.http.post(f"/admin/operations/{failed.id}/retry")
    assert (refusal.status_code, refusal.json()["code"]) == (409, "not_retryable")
    id = second.headers["Operation-Location"].rpartition("/")[2]
    assert id in refusal.json()["detail"]
    assert (await read_operation(engine, UUID(id))).retry_of is None


async def test_the_lifecycle_table_decides_about_a_retry_too(ada: Person, root: Person, engine: AsyncEngine) -> None:
    operation = await failed_operation(ada, engine, Action.STOP)
    assert (await ada.http.post(f"/vms/{operation.vm_id}/actions/stop")).status_code == 202
    refusal = await root.http.post(f"/admin/operations/{operation.id}/retry")
    assert (refusal.status_code, refusal.json()["code"]) == (409, "invalid_transition")


async def retry(root: Person, id: UUID) -> tuple[int, str | None]:
    """Request a retry; returns the status and the code of the refusal or the id of the new operation."""
    answer = await root.http.post(f"/admin/operations/{id}/retry")
    return answer.status_code, answer.json().get("code") or answer.json()["id"]


async def end(engine: AsyncEngine, id: UUID, status: OperationStatus) -> None:
    """Let the operation end."""
    async with engine.begin() as tx:
        ended = {"status": status, "finished_at": func.now()}
        await tx.execute(update(Operation).where(Operation.id == id).values(ended))


@pytest.mark.parametrize("action", [Action.ATTACH_INTERFACE, Action.SNAPSHOT, Action.DELETE_VOLUME])
async def test_an_operation_is_not_retried_twice_while_the_retry_is_open_or_has_succeeded(
    ada: Person, root: Person, engine: AsyncEngine, action: Action
) -> None:
    failed = await failed_operation(ada, engine, action)
    status, first = await retry(root, failed.id)
    assert status == 202
    assert await retry(root, failed.id) == (409, "not_retryable")
    await end(engine, UUID(first), OperationStatus.SUCCEEDED)
    refusal = await root.http.post(f"/admin/operations/{failed.id}/retry")
    assert (refusal.status_code, refusal.json()["code"]) == (409, "not_retryable")
    assert str(first) in refusal.json()["detail"]


async def test_a_retry_that_failed_too_may_be_repeated_by_either_name_but_once(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    failed = await failed_operation(ada, engine, Action.ATTACH_INTERFACE)
    _, first = await retry(root, failed.id)
    await end(engine, UUID(first), FAILED)
    status, second = await retry(root, UUID(first))
    assert status == 202
    assert await retry(root, failed.id) == (409, "not_retryable"), "the retry of its retry is open"
    await end(engine, UUID(second), OperationStatus.CANCELED)
    status, third = await retry(root, failed.id)
    assert status == 202
    await end(engine, UUID(third), OperationStatus.SUCCEEDED)
    for id in (failed.id, UUID(first), UUID(second)):
        assert await retry(root, id) == (409, "not_retryable")


async def test_the_retry_of_an_attach_asks_for_the_same_address(ada: Person, root: Person, engine: AsyncEngine) -> None:
    wanted = {"network": "edge", "ip_address": "10.2.0.9", "wanted_address": "10.2.0.9"}
    failed = await failed_operation(ada, engine, Action.ATTACH_INTERFACE, input=wanted)
    status, second = await retry(root, failed.id)
    assert status == 202
    assert (await read_operation(engine, UUID(second))).input["ip_address"] == "10.2.0.9"
    await end(engine, UUID(second), FAILED)
    assert await retry(root, UUID(second)) == (409, "address_in_use"), "the interface of the first retry is still there"


async def test_only_one_of_many_concurrent_retries_is_accepted(ada: Person, root: Person, engine: AsyncEngine) -> None:
    failed = await failed_operation(ada, engine, Action.ATTACH_INTERFACE)
    answers = await asyncio.gather(*(retry(root, failed.id) for _ in range(8)))
    assert sorted(status for status, _ in answers) == [202, *[409] * 7]
    async with engine.connect() as connection:
        interfaces = select(func.count()).select_from(Interface).where(Interface.vm_id == failed.vm_id)
        assert await connection.scalar(interfaces) == 1


@pytest.mark.parametrize("action", [Action.STOP, Action.DELETE_VOLUME, Action.DELETE])
async def test_a_retry_of_what_housekeeping_deletes_at_that_moment_is_refused(
    ada: Person, root: Person, engine: AsyncEngine, action: Action
) -> None:
    failed = await failed_operation(ada, engine, action)
    async with engine.begin() as housekeeping:
        await housekeeping.execute(delete(Operation).where(Operation.id == failed.id))
        retrying = asyncio.create_task(retry(root, failed.id))
        await asyncio.sleep(0.2)
    assert await retrying == (404, "not_found")


@pytest.mark.parametrize(
    ("action", "input"),
    [
        (Action.REBOOT_HARD, INPUTS[Action.REBOOT_HARD]),
        (Action.RESIZE, INPUTS[Action.RESIZE] | {"confirm_window": 7200}),
        (Action.SNAPSHOT, {"name": "nightly"}),
        (Action.RESTORE, INPUTS[Action.RESTORE]),
        (Action.ATTACH_VOLUME, INPUTS[Action.ATTACH_VOLUME] | {"delete_on_termination": True}),
    ],
    ids=["reboot", "resize", "snapshot", "restore", "attach-volume"],
)
async def test_a_retry_has_the_parameters_of_the_failed_operation(
    ada: Person, root: Person, engine: AsyncEngine, action: Action, input: dict[str, Any]
) -> None:
    failed = await failed_operation(ada, engine, action, input=input)
    answer = await root.http.post(f"/admin/operations/{failed.id}/retry")
    assert answer.status_code == 202, answer.text
    assert (await read_operation(engine, UUID(answer.json()["id"]))).input == input


async def test_a_retry_of_a_resize_below_the_image_is_refused(ada: Person, root: Person, engine: AsyncEngine) -> None:
    """The request is older than the rule."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, image_id=IMAGE_IDS["ubuntu-24.04"])
        too_small = {"flavor_id": str(FLAVOR_IDS["m1.tiny"]), "flavor": "m1.tiny"}
        operation = await add_operation(tx, vm, Action.RESIZE, status=FAILED, input=INPUTS[Action.RESIZE] | too_small)
    assert await retry(root, operation.id) == (422, "flavor_too_small")


async def test_a_retried_attach_finds_its_network_by_the_id_although_another_one_has_the_name(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(Network).where(Network.name == "edge").values(name="private"))
    id = str(NETWORK_IDS["edge"])
    failed = await failed_operation(
        ada, engine, Action.ATTACH_INTERFACE, input={"network": "private", "network_id": id}
    )
    status, _ = await retry(root, failed.id)
    (interface,) = (await ada.http.get(f"/vms/{failed.vm_id}/interfaces")).json()["items"]
    assert (status, interface["network_id"]) == (202, id)


async def test_a_retry_of_an_attach_to_a_network_that_the_cloud_no_longer_has_is_refused(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    failed = await failed_operation(ada, engine, Action.ATTACH_INTERFACE)
    async with engine.begin() as tx:
        await tx.execute(update(Network).where(Network.name == "private").values(is_available=False))
    assert await retry(root, failed.id) == (422, "unknown_reference")


async def test_a_retry_of_an_attach_to_a_network_that_was_renamed_is_refused(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    """An operation of an earlier version has the network's name only."""
    failed = await failed_operation(
        ada, engine, Action.ATTACH_INTERFACE, input=INPUTS[Action.ATTACH_INTERFACE] | {"network": "long-gone"}
    )
    assert await retry(root, failed.id) == (422, "unknown_reference")


async def test_a_retried_attach_leaves_the_choice_of_the_device_to_the_cloud_again(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    failed = await failed_operation(ada, engine, Action.ATTACH_VOLUME, input={"name": "data"})
    status, _ = await retry(root, failed.id)
    attachment = (await ada.http.get(f"/vms/{failed.vm_id}/volumes/{failed.resource_id}")).json()
    assert (status, attachment["device"]) == (202, None)


async def test_a_repeated_snapshot_has_the_labels_of_the_failed_one(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        snapshot = await add_snapshot(tx, vm, status=SnapshotStatus.ERROR, labels={"env": "prod"})
        about: dict[str, Any] = {"resource_type": "snapshot", "resource_id": snapshot.id, "input": {"name": "nightly"}}
        failed = await add_operation(tx, vm, Action.SNAPSHOT, status=FAILED, **about)
    answer = await root.http.post(f"/admin/operations/{failed.id}/retry")
    taken = (await ada.http.get(f"/snapshots/{answer.json()['resource_id']}")).json()
    assert (taken["name"], taken["labels"], taken["status"]) == ("nightly", {"env": "prod"}, "CREATING")
