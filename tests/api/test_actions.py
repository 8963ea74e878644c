"""Start, stop, reboot, delete and change a VM: the answer, the recorded operation, and concurrent requests."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Operation
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.api.conftest import Person, count, operations_of
from tests.api.vm_resources import vm_of
from tests.support.rows import add_operation, add_vm, read_operation, read_vm

ACTIVE, SHUTOFF, ERROR = Status.ACTIVE, Status.SHUTOFF, Status.ERROR
ATTACHMENTS = ["attach-volume", "detach-volume", "attach-interface", "detach-interface"]
ALLOWED_IN_SHUTOFF = ["start", "reboot", "resize", "snapshot", "restore", *ATTACHMENTS, "delete"]
ALLOWED_IN_ACTIVE = ["stop", "reboot", "resize", "snapshot", "restore", *ATTACHMENTS, "delete"]


@pytest.mark.parametrize(
    ("call", "previous_status", "claim"),
    [
        (("start", None), SHUTOFF, (SHUTOFF, TaskState.POWERING_ON, Action.START)),
        (("stop", {}), ACTIVE, (ACTIVE, TaskState.POWERING_OFF, Action.STOP)),
        (("stop", None), ERROR, (ERROR, TaskState.POWERING_OFF, Action.STOP)),
        (("reboot", None), ACTIVE, (Status.REBOOTING, TaskState.REBOOTING, Action.REBOOT_SOFT)),
        (("reboot", {}), ACTIVE, (Status.REBOOTING, TaskState.REBOOTING, Action.REBOOT_SOFT)),
        (("reboot", {"type": "SOFT"}), ACTIVE, (Status.REBOOTING, TaskState.REBOOTING, Action.REBOOT_SOFT)),
        (("reboot", {"type": "HARD"}), SHUTOFF, (Status.REBOOTING, TaskState.REBOOTING_HARD, Action.REBOOT_HARD)),
        (("reboot", {"type": "HARD"}), ERROR, (Status.REBOOTING, TaskState.REBOOTING_HARD, Action.REBOOT_HARD)),
    ],
)
async def test_an_action_claims_the_vm(
    ada: Person,
    engine: AsyncEngine,
    call: tuple[str, dict[str, Any] | None],
    previous_status: Status,
    claim: tuple[Status, TaskState, Action],
) -> None:
    word, body = call
    status, task_state, action = claim
    vm = await vm_of(ada, engine, status=previous_status)
    answer = await ada.http.post(f"/vms/{vm.id}/actions/{word}", json=body)
    shown = answer.json()
    assert answer.status_code == 202
    assert (shown["status"], shown["task_state"], shown["allowed_actions"]) == (status, task_state, ["delete"])
    assert shown["updated_at"] > shown["created_at"]
    assert answer.headers["Operation-Location"] == f"/api/v1/operations/{shown['operation_id']}"
    assert answer.headers["Retry-After"] == "1"
    assert "Location" not in answer.headers
    [operation] = await operations_of(engine, vm.id)
    assert (str(operation.id), operation.action) == (shown["operation_id"], action)
    assert (operation.status, operation.previous_status) == (OperationStatus.QUEUED, previous_status)
    assert operation.input == ({"type": (body or {}).get("type", "SOFT")} if word == "reboot" else {})
    assert operation.workflow_id == f"{word}-{vm.id}-{operation.id}"


@pytest.mark.parametrize(
    ("word", "state", "allowed"),
    [
        ("start", {"status": ACTIVE}, ALLOWED_IN_ACTIVE),
        ("stop", {"status": SHUTOFF}, ALLOWED_IN_SHUTOFF),
        ("reboot", {"status": SHUTOFF}, ALLOWED_IN_SHUTOFF),
        ("reboot", {"status": ERROR}, ["stop", "reboot", "delete"]),
        ("stop", {"status": ERROR, "launched": False}, ["delete"]),
        ("stop", {"status": ACTIVE, "task_state": TaskState.POWERING_OFF}, ["delete"]),
        ("start", {"status": Status.BUILDING, "task_state": TaskState.SPAWNING, "launched": False}, ["delete"]),
        ("start", {"status": Status.DELETING, "task_state": TaskState.DELETING}, []),
        ("start", {"status": Status.DELETED}, []),
    ],
)
async def test_a_refused_action_lists_the_allowed_actions_and_changes_nothing(
    ada: Person, engine: AsyncEngine, word: str, state: dict[str, Any], allowed: list[str]
) -> None:
    vm = await vm_of(ada, engine, **state)
    answer = await ada.http.post(f"/vms/{vm.id}/actions/{word}")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "invalid_transition")
    assert (problem["current_status"], problem["task_state"]) == (vm.status, vm.task_state)
    assert problem["allowed_actions"] == allowed
    assert (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"] == allowed
    assert await read_vm(engine, vm.id) == vm
    assert await operations_of(engine, vm.id) == []


async def test_only_one_of_twenty_concurrent_stops_is_accepted(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    answers = await asyncio.gather(*(ada.http.post(f"/vms/{vm.id}/actions/stop") for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 19
    refused = [answer.json() for answer in answers if answer.status_code == 409]
    assert all(problem["task_state"] == "powering_off" for problem in refused)
    assert len(await operations_of(engine, vm.id)) == 1


async def test_after_concurrent_deletes_and_stops_only_one_delete_is_open(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    stops = [ada.http.post(f"/vms/{vm.id}/actions/stop") for _ in range(5)]
    deletes = [ada.http.delete(f"/vms/{vm.id}") for _ in range(5)]
    answers = await asyncio.gather(*(call for pair in zip(stops, deletes, strict=True) for call in pair))
    assert {answer.status_code for answer in answers[1::2]} == {204}
    assert len({answer.headers["Operation-Location"] for answer in answers[1::2]}) == 1
    operations = await operations_of(engine, vm.id)
    still_open = [operation for operation in operations if operation.status is OperationStatus.QUEUED]
    assert [operation.action for operation in still_open] == [Action.DELETE]
    assert (await read_vm(engine, vm.id)).operation_id == still_open[0].id


@pytest.mark.parametrize(
    "state",
    [
        {"status": Status.BUILDING, "task_state": TaskState.SPAWNING, "launched": False},
        {"status": ACTIVE},
        {"status": SHUTOFF, "task_state": TaskState.POWERING_ON},
        {"status": Status.REBOOTING, "task_state": TaskState.REBOOTING},
        {"status": ERROR, "fault": {"code": "broken", "message": "It broke."}},
        {"status": Status.VERIFY_RESIZE},
    ],
    ids=lambda state: state["status"],
)
async def test_a_vm_in_any_state_can_be_deleted(ada: Person, engine: AsyncEngine, state: dict[str, Any]) -> None:
    vm = await vm_of(ada, engine, **state)
    answer = await ada.http.delete(f"/vms/{vm.id}")
    assert (answer.status_code, answer.content) == (204, b"")
    shown = (await ada.http.get(f"/vms/{vm.id}")).json()
    assert (shown["status"], shown["task_state"], shown["fault"]) == ("DELETING", "deleting", None)
    assert answer.headers["Operation-Location"] == f"/api/v1/operations/{shown['operation_id']}"
    assert "Retry-After" not in answer.headers


async def test_a_delete_supersedes_only_the_open_operations_of_its_vm(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, task_state=TaskState.POWERING_OFF)
        other_vm = await add_vm(tx, ada.user, task_state=TaskState.POWERING_OFF)
        ended = await add_operation(tx, vm, Action.CREATE, status=OperationStatus.SUCCEEDED)
        running = await add_operation(tx, vm, Action.STOP)
        queued = await add_operation(tx, vm, Action.SNAPSHOT, status=OperationStatus.QUEUED, holds=False)
        of_other_vm = await add_operation(tx, other_vm, Action.STOP)
    await ada.http.delete(f"/vms/{vm.id}")
    for id in (running.id, queued.id):
        operation = await read_operation(engine, id)
        assert operation.status is OperationStatus.SUPERSEDED
        assert operation.finished_at
        assert operation.error
        assert operation.error["code"] == "superseded"
    assert await read_operation(engine, ended.id) == ended
    assert await read_operation(engine, of_other_vm.id) == of_other_vm


async def test_a_second_delete_returns_the_same_operation(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    first = await ada.http.delete(f"/vms/{vm.id}")
    second = await ada.http.delete(f"/vms/{vm.id}")
    async with engine.begin() as tx:
        await tx.exec_driver_sql("UPDATE vms SET status = 'DELETED', task_state = NULL")
    after_deletion = await ada.http.delete(f"/vms/{vm.id}")
    answers = (first, second, after_deletion)
    assert {answer.status_code for answer in answers} == {204}
    assert len({answer.headers["Operation-Location"] for answer in answers}) == 1
    assert await count(engine, Operation) == 1


async def test_another_users_vm_looks_as_if_it_did_not_exist(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    path, unknown_path = f"/vms/{vm.id}", f"/vms/{uuid4()}"
    for method, subpath in [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/operations"),
        *(("POST", f"/actions/{word}") for word in ("start", "stop", "reboot")),
    ]:
        body = {"name": "mine"} if method == "PATCH" else None
        answers = [await bob.http.request(method, f"{vm_path}{subpath}", json=body) for vm_path in (path, unknown_path)]
        problems = [answer.json() | {"request_id": "", "instance": ""} for answer in answers]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert problems[0]["detail"].replace(str(vm.id), "") == problems[1]["detail"].replace(unknown_path[5:], "")
    assert await read_vm(engine, vm.id) == vm


async def test_name_and_labels_of_a_busy_vm_can_be_changed(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine, task_state=TaskState.POWERING_OFF, labels={"a": "1"})
    path = f"/vms/{vm.id}"
    named = (await ada.http.patch(path, json={"name": " new "})).json()
    assert (named["name"], named["labels"], named["task_state"]) == ("new", {"a": "1"}, "powering_off")
    assert named["updated_at"] > named["created_at"]
    labelled = (await ada.http.patch(path, json={"labels": {"b": "2"}})).json()
    assert (labelled["name"], labelled["labels"]) == ("new", {"a": "1", "b": "2"})
    assert (await ada.http.patch(path, json={})).json() == labelled
    assert (await ada.http.get(path)).json() == labelled


async def test_a_deleted_vm_can_be_read_but_not_changed(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine, status=Status.DELETED)
    answer = await ada.http.patch(f"/vms/{vm.id}", json={"name": "new"})
    assert (answer.status_code, answer.json()["current_status"]) == (409, "DELETED")
    assert (await ada.http.get(f"/vms/{vm.id}")).json()["name"] == vm.name
    assert UUID((await ada.http.get(f"/vms/{vm.id}")).json()["id"]) == vm.id
