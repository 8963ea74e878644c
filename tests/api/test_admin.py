"""Admins see what needs attention, retry what failed on its owner's behalf, and reset states; nobody else does."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import queries
from domain.data.models import VM, Finding, Operation
from domain.rules.resources import AttachmentStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.rules.table import TABLE
from domain.settings import Settings
from tests.api.conftest import Person, operations_of, person, running
from tests.support.rows import (
    INPUTS,
    add_attachment,
    add_interface,
    add_operation,
    add_snapshot,
    add_vm,
    add_volume,
    read_operation,
    read_vm,
)

FAILED = OperationStatus.FAILED


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application, whose admin is root, however they write that."""
    async with running(settings.model_copy(update={"admin_username": "Root"})) as app:
        yield app


@pytest.fixture
async def root(app: FastAPI, engine: AsyncEngine, settings: Settings) -> Person:
    """The admin."""
    return await person(app, engine, settings, "root")


REQUESTS = [
    ("GET", "/admin/attention", None),
    ("POST", f"/admin/operations/{uuid4()}/retry", None),
    ("POST", f"/admin/vms/{uuid4()}/reset-state", {"status": "ACTIVE"}),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS, ids=["attention", "retry", "reset"])
async def test_nobody_else_is_an_admin(ada: Person, root: Person, method: str, path: str, body: Any) -> None:
    refusal = await ada.http.request(method, path, json=body)
    assert (refusal.status_code, refusal.json()["code"]) == (403, "admin_only")
    assert (await root.http.request(method, path, json=body)).status_code in {200, 404}


async def test_without_an_admin_by_name_there_is_none(engine: AsyncEngine, settings: Settings) -> None:
    async with running(settings) as app:
        anybody = await person(app, engine, settings, "ada")
        assert (await anybody.http.get("/admin/attention")).status_code == 403


async def test_where_all_is_well_nothing_needs_attention(ada: Person, root: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        await add_operation(tx, vm, Action.STOP, status=FAILED)
        await add_operation(tx, vm, Action.STOP, attempt=2)
    assert (await root.http.get("/admin/attention")).json()["items"] == []


async def test_what_needs_attention_is_listed_oldest_first_with_whose_it_is(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    fault = {"code": "server_gone", "message": "Gone."}
    async with engine.begin() as tx:
        broken = await add_vm(tx, ada.user, status=Status.ERROR, fault=fault)
        held = await add_operation(tx, broken, Action.STOP, status=FAILED)
        volume = await add_volume(tx, ada.user, status=VolumeStatus.ERROR)
        vm = await add_vm(tx, ada.user)
        retrying = await add_operation(tx, vm, Action.STOP, attempt=9, last_error="no answer", holds=False)
        old: dict[str, Any] = {"status": OperationStatus.QUEUED, "created_at": queries.from_now(-90), "holds": False}
        delivered = old | {"deliveries": 1, "delivered_at": queries.from_now(-80)}
        waiting = await add_operation(tx, vm, Action.ATTACH_VOLUME, **delivered)
        await add_operation(tx, vm, Action.ATTACH_VOLUME, **old)  # in the outbox, which may be long
        slow = await add_operation(tx, vm, Action.STOP, holds=False, created_at=queries.from_now(-3700))
        ended: dict[str, Any] = {"status": FAILED, "interruption": "workflow_terminated", "holds": False}
        interrupted = await add_operation(tx, vm, Action.START, **ended)
        await add_operation(tx, vm, Action.STOP, **ended)
        await add_operation(tx, vm, Action.STOP, status=FAILED, holds=False, created_at=queries.from_now(1))
        await add_operation(tx, await add_vm(tx, ada.user, status=Status.DELETED), Action.START, **ended)
        retried = await add_operation(tx, vm, Action.SNAPSHOT, **ended)
        await add_operation(
            tx, vm, Action.SNAPSHOT, status=FAILED, holds=False, retry_of=retried.id, resource_id=uuid4()
        )
        gone = await add_volume(tx, ada.user, status=VolumeStatus.DELETED)
        about_it: dict[str, Any] = {"resource_id": gone.id, "vm_id": None, "previous_status": None}
        await add_operation(tx, vm, Action.CREATE_VOLUME, **ended | about_it)
        seen = {"status": "ACTIVE", "server": "VERIFY_RESIZE"}
        found = {"kind": "server_status", "resource_type": "vm", "resource_id": vm.id, "seen": seen}
        await queries.insert_row(tx, Finding, **found)
        await queries.insert_row(tx, Finding, **found | {"resolved_at": func.now(), "resolution": "over"})
    page = (await root.http.get("/admin/attention")).json()
    items = {item["kind"]: item for item in page["items"]}
    assert page["total"] == len(items) == 7
    assert [item["kind"] for item in page["items"]][:2] == ["operation_slow", "operation_not_begun"]
    assert items["vm_in_error"]["detail"] == fault
    assert items["vm_in_error"]["temporal_url"].endswith(f"/workflows/{held.workflow_id}")
    assert items["volume_in_error"]["resource_id"] == str(volume.id)
    assert items["server_status"]["detail"] == seen
    assert items["operation_retrying"]["detail"]["last_error"] == "no answer"
    by_kind = {kind: item["operation_id"] for kind, item in items.items()}
    assert by_kind["operation_retrying"] == str(retrying.id)
    assert by_kind["operation_slow"] == str(slow.id)
    assert by_kind["operation_not_begun"] == str(waiting.id)
    assert by_kind["operation_interrupted"] == str(interrupted.id)
    assert {item["owner"] for kind, item in items.items() if kind != "server_status"} == {"ada"}
    pages = [(await root.http.get("/admin/attention", params={"page_size": 4})).json()]
    pages.append((await root.http.get("/admin/attention", params={"cursor": pages[0]["next_cursor"]})).json())
    assert [item for one in pages for item in one["items"]] == page["items"]


async def failed(ada: Person, engine: AsyncEngine, action: Action) -> Operation:
    """An operation of ada's that failed, and what it takes to ask for it again."""
    rule = TABLE[action]
    status = next(iter(sorted(rule.sources))) if rule.sources else Status.ACTIVE
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=status)
        if action in {Action.CONFIRM_RESIZE, Action.REVERT_RESIZE}:
            await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
        resource_id = vm.id
        input: dict[str, Any] = {}
        match action:
            case Action.ATTACH_VOLUME | Action.DELETE_VOLUME:
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
        about: dict[str, Any] = {"resource_id": resource_id} | ({"input": input} if input else {})
        return await add_operation(tx, vm, action, status=FAILED, **about)


@pytest.mark.parametrize("action", [one for one in TABLE if one not in {Action.CREATE, Action.CREATE_VOLUME}])
async def test_what_failed_is_asked_again_on_its_owners_behalf(
    ada: Person, root: Person, engine: AsyncEngine, action: Action
) -> None:
    before = await failed(ada, engine, action)
    answer = await root.http.post(f"/admin/operations/{before.id}/retry")
    assert answer.status_code == 202, answer.text
    new = await read_operation(engine, UUID(answer.headers["Operation-Location"].rpartition("/")[2]))
    assert (new.action, new.retry_of, new.actor, new.owner_id) == (action, before.id, "root", ada.user.id)
    assert new.status is OperationStatus.QUEUED
    shown = (await ada.http.get(f"/operations/{new.id}")).json()
    assert answer.json() == shown
    assert shown["retry_of"] == str(before.id)


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
async def test_what_is_not_retried(
    ada: Person, root: Person, engine: AsyncEngine, action: Action, status: OperationStatus
) -> None:
    async with engine.begin() as tx:
        operation = await add_operation(tx, await add_vm(tx, ada.user), action, status=status)
    refusal = await root.http.post(f"/admin/operations/{operation.id}/retry")
    assert (refusal.status_code, refusal.json()["code"]) == (409, "not_retryable")


@pytest.mark.parametrize("action", [Action.DELETE, Action.DELETE_VOLUME, Action.DETACH_VOLUME])
async def test_what_somebody_has_asked_again_is_not_retried_and_keeps_its_trail(
    ada: Person, root: Person, engine: AsyncEngine, action: Action
) -> None:
    before = await failed(ada, engine, action)
    paths = {
        Action.DELETE: f"/vms/{before.vm_id}",
        Action.DELETE_VOLUME: f"/volumes/{before.resource_id}",
        Action.DETACH_VOLUME: f"/vms/{before.vm_id}/volumes/{before.resource_id}",
    }
    again = await ada.http.delete(paths[action])
    refusal = await root.http.post(f"/admin/operations/{before.id}/retry")
    assert (refusal.status_code, refusal.json()["code"]) == (409, "not_retryable")
    id = again.headers["Operation-Location"].rpartition("/")[2]
    assert id in refusal.json()["detail"]
    assert (await read_operation(engine, UUID(id))).retry_of is None


async def test_the_table_decides_about_a_retry_too(ada: Person, root: Person, engine: AsyncEngine) -> None:
    operation = await failed(ada, engine, Action.STOP)
    assert (await root.http.post(f"/admin/operations/{operation.id}/retry")).status_code == 202
    refusal = await root.http.post(f"/admin/operations/{operation.id}/retry")
    assert (refusal.status_code, refusal.json()["code"]) == (409, "invalid_transition")


@pytest.mark.parametrize("status", ["ACTIVE", "SHUTOFF", "ERROR"])
async def test_a_state_is_reset_whatever_holds_the_vm_and_that_is_on_the_trail(
    ada: Person, root: Person, engine: AsyncEngine, status: str
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.REBOOTING, task_state=TaskState.REBOOTING)
        holder = await add_operation(tx, vm, Action.REBOOT_SOFT, next_retry_at=func.now())
    answer = await root.http.post(f"/admin/vms/{vm.id}/reset-state", json={"status": status})
    assert answer.status_code == 202, answer.text
    after = await read_vm(engine, vm.id)
    assert (after.status, after.task_state) == (status, None)
    assert (after.fault or {}).get("code") == ("state_reset" if status == "ERROR" else None)
    assert (await read_operation(engine, holder.id)).status is OperationStatus.SUPERSEDED
    listed = (await ada.http.get("/operations", params={"vm_id": str(vm.id), "action": "reset-state"})).json()["items"]
    assert [(one["actor"], one["status"], one["progress"]) for one in listed] == [("root", "SUCCEEDED", 100)]
    assert listed[0]["temporal_url"] is None  # nothing carried it out
    assert (await ada.http.post(f"/vms/{vm.id}/actions/reboot", json={"type": "HARD"})).status_code == 202


async def test_a_build_whose_vm_is_reset_keeps_its_address_as_its_port_may_be_there(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.BUILDING, task_state=TaskState.SPAWNING, launched=False)
        build = await add_operation(tx, vm, Action.CREATE)
        interface = await add_interface(tx, vm, status=AttachmentStatus.ATTACHING, operation_id=build.id)
    assert (await root.http.post(f"/admin/vms/{vm.id}/reset-state", json={"status": "ERROR"})).status_code == 202
    (kept,) = (await ada.http.get(f"/vms/{vm.id}/interfaces")).json()["items"]
    assert (kept["id"], kept["status"]) == (str(interface.id), "ATTACHED")
    assert (await ada.http.delete(f"/vms/{vm.id}")).status_code == 204


async def test_a_vm_can_be_put_back_to_where_its_resize_waits(ada: Person, root: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.ERROR)
        await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
    assert (
        await root.http.post(f"/admin/vms/{vm.id}/reset-state", json={"status": "VERIFY_RESIZE"})
    ).status_code == 202
    assert (await ada.http.post(f"/vms/{vm.id}/actions/confirm-resize")).status_code == 202
    assert [one.action for one in await operations_of(engine, vm.id)][-1] is Action.CONFIRM_RESIZE


@pytest.mark.parametrize("was", [Status.RESIZING, Status.ERROR])
async def test_a_resize_that_a_reset_cut_off_can_be_decided_where_the_cloud_has_done_it(
    ada: Person, root: Person, engine: AsyncEngine, was: Status
) -> None:
    to = INPUTS[Action.RESIZE]["flavor_id"]
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.RESIZING, task_state=TaskState.RESIZE_MIGRATING)
        await add_operation(tx, vm, Action.RESIZE, previous_status=Status.ACTIVE, started_at=func.now())
    assert str(vm.flavor_id) != to
    path = f"/admin/vms/{vm.id}/reset-state"
    if was is Status.ERROR:
        assert (await root.http.post(path, json={"status": "ERROR"})).status_code == 202
    assert (await root.http.post(path, json={"status": "VERIFY_RESIZE"})).json()["flavor_id"] == to
    assert (await ada.http.post(f"/vms/{vm.id}/actions/revert-resize")).status_code == 202
    revert = (await operations_of(engine, vm.id))[-1]
    assert (revert.previous_status, revert.input["flavor_id"]) == (Status.ACTIVE, str(vm.flavor_id))


async def test_a_resize_that_was_decided_is_not_to_be_decided_again(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
        later = queries.from_now(1)
        await add_operation(tx, vm, Action.CONFIRM_RESIZE, status=OperationStatus.SUCCEEDED, created_at=later)
    refusal = await root.http.post(f"/admin/vms/{vm.id}/reset-state", json={"status": "VERIFY_RESIZE"})
    assert (refusal.status_code, refusal.json()["code"]) == (409, "invalid_transition")
    assert "reset to VERIFY_RESIZE" in refusal.json()["detail"]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"status": Status.DELETED}, "ERROR"),
        ({"status": Status.ERROR, "launched": False}, "ACTIVE"),
        ({"status": Status.ERROR}, "VERIFY_RESIZE"),
    ],
)
async def test_no_state_is_shown_that_cannot_be(
    ada: Person, root: Person, engine: AsyncEngine, values: dict[str, Any], status: str
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, **values)
        await add_operation(tx, vm, Action.STOP, status=FAILED)
    refusal = await root.http.post(f"/admin/vms/{vm.id}/reset-state", json={"status": status})
    assert (refusal.status_code, refusal.json()["code"]) == (409, "invalid_transition")
    async with engine.connect() as connection:
        assert await connection.scalar(select(VM.status)) is values["status"]
