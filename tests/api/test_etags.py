"""ETags: `If-None-Match` saves an answer, `If-Match` guards a change."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Operation
from domain.data.queries import update_vm
from domain.rules.states import Action, OperationStatus, Status
from tests.api.conftest import FLAVOR, Person, count
from tests.api.vm_resources import NO_ID
from tests.support.rows import FLAVOR_IDS, NETWORK_IDS, add_attachment, add_operation, add_snapshot, add_vm, add_volume
from tests.support.waiting import wait_until_blocked


async def paths_of(engine: AsyncEngine, owner: Person) -> dict[str, str]:
    """One resource of each kind, by its path."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, owner.user)
        volume, snapshot = await add_volume(tx, owner.user), await add_snapshot(tx, vm)
        operation = await add_operation(tx, vm, Action.STOP, status=OperationStatus.SUCCEEDED)
    return {
        "vm": f"/vms/{vm.id}",
        "volume": f"/volumes/{volume.id}",
        "snapshot": f"/vms/{vm.id}/snapshots/{snapshot.id}",
        "operation": f"/operations/{operation.id}",
    }


@pytest.mark.parametrize("kind", ["vm", "volume", "snapshot", "operation"])
async def test_who_has_an_answer_already_does_not_get_it_again(ada: Person, engine: AsyncEngine, kind: str) -> None:
    path = (await paths_of(engine, ada))[kind]
    first = await ada.http.get(path)
    tag = first.headers["ETag"]
    assert (await ada.http.get(path)).headers["ETag"] == tag
    for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await ada.http.get(path, headers={"If-None-Match": condition})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert (await ada.http.get(path, headers={"If-None-Match": '"other"'})).json() == first.json()


async def test_the_tag_of_a_vm_changes_exactly_when_its_answer_does(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        volume = await add_volume(tx, ada.user)
        operation = await add_operation(tx, vm, Action.STOP, status=OperationStatus.SUCCEEDED)
    path, seen = f"/vms/{vm.id}", list[tuple[Any, str]]()

    async def look() -> None:
        answer = await ada.http.get(path)
        seen.append((answer.json(), answer.headers["ETag"]))

    await look()
    async with engine.begin() as tx:
        await tx.execute(update(Operation).where(Operation.id == operation.id).values(attempt=3))
    await look()
    assert seen[0] == seen[1]
    async with engine.begin() as tx:
        await update_vm(tx, vm.id, {"status": Status.SHUTOFF})
    await look()
    async with engine.begin() as tx:
        await add_attachment(tx, vm, volume)
    await look()
    assert len({tag for _, tag in seen}) == 3


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "", None),
        ("POST", "/actions/start", None),
        ("POST", "/actions/stop", None),
        ("POST", "/actions/reboot", None),
        ("POST", "/actions/resize", {"flavor_id": str(FLAVOR_IDS["m1.large"])}),
        ("POST", "/actions/confirm-resize", None),
        ("POST", "/actions/revert-resize", None),
        ("POST", "/volumes", {"volume_id": NO_ID}),
        ("DELETE", f"/volumes/{NO_ID}", None),
        ("POST", "/interfaces", {"network_id": str(NETWORK_IDS["private"])}),
        ("DELETE", f"/interfaces/{NO_ID}", None),
        ("POST", "/snapshots", {"name": "before"}),
        ("POST", f"/snapshots/{NO_ID}/restore", None),
    ],
)
async def test_a_change_of_a_vm_that_has_changed_is_not_made(
    ada: Person, engine: AsyncEngine, method: str, path: str, body: Any
) -> None:
    vm = (await paths_of(engine, ada))["vm"]
    tag = (await ada.http.get(vm)).headers["ETag"]
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(name="web-2"))
    before = await count(engine, Operation)
    refused = await ada.http.request(method, f"{vm}{path}", json=body, headers={"If-Match": tag})
    assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")
    assert await count(engine, Operation) == before


async def test_a_change_of_a_vm_that_has_not_changed_is_made(ada: Person, engine: AsyncEngine) -> None:
    vm = (await paths_of(engine, ada))["vm"]
    tag = (await ada.http.get(vm)).headers["ETag"]
    key = {"If-Match": tag, "Idempotency-Key": "stop"}
    accepted = await ada.http.post(f"{vm}/actions/stop", headers=key)
    assert accepted.status_code == 202
    again = await ada.http.post(f"{vm}/actions/stop", headers=key)  # the first answer, although the VM has changed
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert (await ada.http.delete(vm, headers={"If-Match": "*"})).status_code == 204


@pytest.mark.parametrize("kind", ["volume", "snapshot"])
async def test_deletes_of_volumes_and_snapshots_are_guarded_too(ada: Person, engine: AsyncEngine, kind: str) -> None:
    path = (await paths_of(engine, ada))[kind]
    assert (await ada.http.delete(path, headers={"If-Match": '"other"'})).status_code == 412
    tag = (await ada.http.get(path)).headers["ETag"]
    assert (await ada.http.delete(path, headers={"If-Match": tag})).status_code == 204


async def test_a_cancel_of_an_operation_is_guarded_too(ada: Person) -> None:
    path = f"/operations/{(await ada.create())['operation_id']}"
    assert (await ada.http.post(f"{path}/cancel", headers={"If-Match": '"other"'})).status_code == 412
    tag = (await ada.http.get(path)).headers["ETag"]
    assert (await ada.http.post(f"{path}/cancel", headers={"If-Match": tag})).status_code == 202
    assert (await ada.http.post(f"{path}/cancel", headers={"If-Match": tag})).status_code == 412


async def test_an_attach_that_comes_between_is_noticed_by_a_guarded_snapshot(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm, volume = await add_vm(tx, ada.user), await add_volume(tx, ada.user)
    guard = {"If-Match": (await ada.http.get(f"/vms/{vm.id}")).headers["ETag"]}
    attach = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(volume.id)}, headers=guard)
    assert attach.status_code == 202
    refused = await ada.http.post(f"/vms/{vm.id}/snapshots", json={"name": "before"}, headers=guard)
    assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")


async def test_a_guard_says_nothing_of_what_others_have(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    for path in (await paths_of(engine, bob)).values():
        if not path.startswith("/operations"):
            assert (await ada.http.delete(path, headers={"If-Match": '"other"'})).status_code == 404


async def test_of_two_guarded_changes_at_once_one_is_made(ada: Person, engine: AsyncEngine) -> None:
    vm = await ada.create()
    async with engine.begin() as tx:
        await update_vm(tx, vm["id"], {"status": Status.ACTIVE, "task_state": None, "launched_at": VM.created_at})
    tag = (await ada.http.get(f"/vms/{vm['id']}")).headers["ETag"]
    async with engine.begin() as tx:
        await update_vm(tx, vm["id"], {"status": Status.ACTIVE})
        stop = asyncio.create_task(ada.http.post(f"/vms/{vm['id']}/actions/stop", headers={"If-Match": tag}))
        await wait_until_blocked(engine, 1)
        await tx.execute(update(VM).values(name="web-2"))
    assert (await stop).status_code == 412


async def test_a_refusal_names_the_operation_that_holds_the_vm(ada: Person, engine: AsyncEngine) -> None:
    vm = await ada.create()
    refused = await ada.http.post(f"/vms/{vm['id']}/actions/stop")
    assert refused.status_code == 409
    assert refused.json()["operation_id"] == vm["operation_id"]
    assert refused.headers["Retry-After"] == "1"
    async with engine.begin() as tx:
        await update_vm(tx, vm["id"], {"status": Status.ACTIVE, "task_state": None, "launched_at": VM.created_at})
    refused = await ada.http.post(f"/vms/{vm['id']}/actions/start")
    assert refused.status_code == 409
    assert "operation_id" not in refused.json()
    assert "Retry-After" not in refused.headers
    volume = (await ada.http.post("/volumes", json={"name": "data", "size_gb": 1})).json()
    refused = await ada.http.delete(f"/volumes/{volume['id']}")
    assert (refused.status_code, refused.json()["operation_id"]) == (409, volume["operation_id"])


async def test_a_refusal_names_the_attach_that_a_resize_waits_for(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm, volume = await add_vm(tx, ada.user), await add_volume(tx, ada.user)
    attach = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(volume.id)})
    body = {"flavor_id": str(FLAVOR_IDS["m1.large"])}
    refused = await ada.http.post(f"/vms/{vm.id}/actions/resize", json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "attachment_in_progress")
    assert refused.json()["operation_id"] == attach.json()["operation_id"]


async def test_a_vm_says_where_it_is_what_it_has_and_how_large_it_is(ada: Person) -> None:
    vm = await ada.create()
    [address] = vm["addresses"]
    assert set(address) == {"network_id", "network", "ip_address", "mac_address"}
    assert (await ada.http.get(f"/networks/{address['network_id']}")).json()["name"] == address["network"]
    assert vm["flavor"]["id"] == FLAVOR
    assert vm["flavor"]["name"] == "m1.small"
    assert (vm["volumes"], vm["previous_flavor_id"]) == ([], None)
    listed = (await ada.http.get("/vms")).json()["items"]
    assert listed == [(await ada.http.get(f"/vms/{vm['id']}")).json()]


async def test_a_vm_in_verify_resize_says_which_flavor_a_revert_brings_back(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
    body = {"flavor_id": str(FLAVOR_IDS["m1.large"])}
    resize = (await ada.http.post(f"/vms/{vm.id}/actions/resize", json=body)).json()
    operation = (await ada.http.get(f"/operations/{resize['operation_id']}")).json()
    names = {"flavor": "m1.large", "previous_flavor": resize["flavor"]["name"]}
    ids = {"flavor_id": body["flavor_id"], "previous_flavor_id": resize["flavor_id"]}
    assert operation["parameters"] == names | ids
    async with engine.begin() as tx:
        done = {"status": OperationStatus.SUCCEEDED, "finished_at": Operation.created_at}
        await tx.execute(update(Operation).where(Operation.action == Action.RESIZE).values(done))
        values = {"status": Status.VERIFY_RESIZE, "task_state": None, "flavor_id": FLAVOR_IDS["m1.large"]}
        await update_vm(tx, vm.id, values)
    shown = (await ada.http.get(f"/vms/{vm.id}")).json()
    assert shown["previous_flavor_id"] == resize["flavor_id"]


async def test_an_operation_says_what_was_requested_and_nothing_internal(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
    reboot = (await ada.http.post(f"/vms/{vm.id}/actions/reboot", json={"type": "HARD"})).json()
    operation = (await ada.http.get(f"/operations/{reboot['operation_id']}")).json()
    assert (operation["action"], operation["parameters"]) == ("reboot", {"type": "HARD"})
    [listed] = (await ada.http.get("/operations?action=reboot")).json()["items"]
    assert listed == operation


async def test_an_open_operation_says_when_to_ask_again_and_an_ended_one_does_not(
    ada: Person, engine: AsyncEngine
) -> None:
    vm = await ada.create()
    path = f"/operations/{vm['operation_id']}"
    assert (await ada.http.get(path)).headers["Retry-After"] == "1"
    async with engine.begin() as tx:
        await tx.execute(update(Operation).values(created_at=Operation.created_at - timedelta(seconds=80)))
    assert (await ada.http.get(path)).headers["Retry-After"] in {"10", "11"}
    async with engine.begin() as tx:
        ended = {"status": OperationStatus.SUCCEEDED, "finished_at": Operation.created_at}
        await tx.execute(update(Operation).values(ended))
    assert "Retry-After" not in (await ada.http.get(path)).headers
