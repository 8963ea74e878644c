"""Resize, confirm and revert: the answers, the recorded operations, and concurrent requests."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Operation
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.api.conftest import Person, operations_of, person, pointers, running
from tests.api.vm_resources import vm_of
from tests.conftest import make_settings
from tests.support.rows import FLAVOR_IDS, add_operation, add_vm, read_operation, read_vm

SMALL, MEDIUM = FLAVOR_IDS["m1.small"], FLAVOR_IDS["m1.medium"]
DECISIONS = {"confirm-resize": TaskState.RESIZE_CONFIRMING, "revert-resize": TaskState.RESIZE_REVERTING}


async def resized(ada: Person, engine: AsyncEngine, previous: Status = Status.ACTIVE) -> tuple[VM, Operation]:
    """A VM of the user in VERIFY_RESIZE, and its resize."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.VERIFY_RESIZE, flavor_id=MEDIUM)
        succeeded = OperationStatus.SUCCEEDED
        resize = await add_operation(tx, vm, Action.RESIZE, status=succeeded, previous_status=previous)
        await tx.execute(update(VM).values(confirm_by=func.now()))
    return await read_vm(engine, vm.id), resize


def resize_request(vm: VM, flavor: object = MEDIUM) -> tuple[str, dict[str, str]]:
    """The path and body of a resize."""
    return f"/vms/{vm.id}/actions/resize", {"flavor_id": str(flavor)}


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.SHUTOFF])
async def test_a_resize_claims_the_vm_and_records_both_flavors(
    ada: Person, engine: AsyncEngine, status: Status
) -> None:
    vm = await vm_of(ada, engine, status=status)
    path, body = resize_request(vm)
    answer = await ada.http.post(path, json=body)
    shown = answer.json()
    assert answer.status_code == 202
    assert (shown["status"], shown["task_state"], shown["flavor_id"]) == ("RESIZING", "resize_prep", str(SMALL))
    assert (shown["allowed_actions"], shown["confirm_by"]) == (["delete"], None)
    [operation] = await operations_of(engine, vm.id)
    assert (operation.action, operation.previous_status) == (Action.RESIZE, status)
    assert operation.workflow_id == f"resize-{vm.id}-{operation.id}"
    assert operation.input == {
        "flavor_id": str(MEDIUM),
        "flavor": "m1.medium",
        "previous_flavor_id": str(SMALL),
        "previous_flavor": "m1.small",
        "confirm_window": 0,
    }


async def test_a_resize_to_a_smaller_flavor_is_accepted(ada: Person, engine: AsyncEngine) -> None:
    path, body = resize_request(await vm_of(ada, engine), FLAVOR_IDS["m1.tiny"])
    assert (await ada.http.post(path, json=body)).status_code == 202


async def test_a_resize_records_the_confirm_window_of_the_current_settings(
    engine: AsyncEngine, database_url: str
) -> None:
    settings = make_settings(database_url, temporal_address="127.0.0.1:1", resize_confirm_window=86_400)
    async with running(settings) as app:
        ada = await person(app, engine, settings, "ada")
        path, body = resize_request(vm := await vm_of(ada, engine))
        await ada.http.post(path, json=body)
    [operation] = await operations_of(engine, vm.id)
    assert operation.input["confirm_window"] == 86_400


@pytest.mark.parametrize(("flavor", "code"), [(SMALL, "same_flavor"), (uuid4(), "unknown_reference")])
async def test_an_unknown_or_unchanged_flavor_is_refused_and_changes_nothing(
    ada: Person, engine: AsyncEngine, flavor: UUID, code: str
) -> None:
    vm = await vm_of(ada, engine)
    path, body = resize_request(vm, flavor)
    answer = await ada.http.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert pointers(answer.json()) == {"#/flavor_id"}
    assert await read_vm(engine, vm.id) == vm
    assert await operations_of(engine, vm.id) == []


@pytest.mark.parametrize("body", [None, {}, {"flavor_id": "large"}, {"flavor_id": str(MEDIUM), "confirm": True}])
async def test_an_invalid_body_is_refused(ada: Person, engine: AsyncEngine, body: object) -> None:
    vm = await vm_of(ada, engine)
    assert (await ada.http.post(f"/vms/{vm.id}/actions/resize", json=body)).status_code == 422
    assert await operations_of(engine, vm.id) == []


@pytest.mark.parametrize(
    "state",
    [
        {"status": Status.VERIFY_RESIZE},
        {"status": Status.ERROR},
        {"status": Status.RESIZING, "task_state": TaskState.RESIZE_MIGRATING},
        {"status": Status.ACTIVE, "task_state": TaskState.POWERING_OFF},
    ],
)
async def test_the_state_of_the_vm_is_checked_before_the_flavor(
    ada: Person, engine: AsyncEngine, state: dict[str, Any]
) -> None:
    """A client that repeats a resize, because it saw no answer, learns that the VM is being resized."""
    path, body = resize_request(await vm_of(ada, engine, **state), SMALL)
    answer = await ada.http.post(path, json=body)
    assert (answer.status_code, answer.json()["current_status"]) == (409, state["status"])


@pytest.mark.parametrize("word", DECISIONS)
@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
async def test_a_decision_is_an_operation_for_the_workflow_of_the_resize(
    ada: Person, engine: AsyncEngine, word: str, previous: Status
) -> None:
    vm, resize = await resized(ada, engine, previous)
    shown = (await ada.http.get(f"/vms/{vm.id}")).json()
    assert shown["allowed_actions"] == ["confirm-resize", "revert-resize", "delete"]
    assert shown["confirm_by"]
    answer = await ada.http.post(f"/vms/{vm.id}/actions/{word}")
    shown = answer.json()
    assert answer.status_code == 202
    assert (shown["status"], shown["task_state"]) == ("VERIFY_RESIZE", DECISIONS[word])
    assert (shown["confirm_by"], shown["flavor_id"]) == (None, str(MEDIUM))
    assert answer.headers["Operation-Location"] == f"/api/v1/operations/{shown['operation_id']}"
    decision = await read_operation(engine, UUID(shown["operation_id"]))
    assert (decision.action.word, decision.status) == (word, OperationStatus.QUEUED)
    assert (decision.workflow_id, decision.previous_status) == (resize.workflow_id, previous)
    flavor = "previous_flavor" if word == "revert-resize" else "flavor"
    assert decision.input == {"flavor_id": resize.input[f"{flavor}_id"], "flavor": resize.input[flavor]}
    assert await read_operation(engine, resize.id) == resize


@pytest.mark.parametrize("word", DECISIONS)
@pytest.mark.parametrize(
    "state", [{"status": Status.ACTIVE}, {"status": Status.RESIZING, "task_state": TaskState.RESIZE_FINISH}]
)
async def test_a_decision_is_refused_unless_the_vm_is_in_verify_resize(
    ada: Person, engine: AsyncEngine, word: str, state: dict[str, Any]
) -> None:
    vm = await vm_of(ada, engine, **state)
    answer = await ada.http.post(f"/vms/{vm.id}/actions/{word}", json={})
    assert (answer.status_code, answer.json()["current_status"]) == (409, state["status"])
    assert await read_vm(engine, vm.id) == vm


async def test_only_one_of_twenty_concurrent_decisions_is_accepted(ada: Person, engine: AsyncEngine) -> None:
    vm, _ = await resized(ada, engine)
    words = [*DECISIONS] * 10
    answers = await asyncio.gather(*(ada.http.post(f"/vms/{vm.id}/actions/{word}") for word in words))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 19
    [winner] = [word for word, answer in zip(words, answers, strict=True) if answer.status_code == 202]
    assert (await read_vm(engine, vm.id)).task_state == DECISIONS[winner]
    assert len(await operations_of(engine, vm.id)) == 2


async def test_a_delete_supersedes_a_decision(ada: Person, engine: AsyncEngine) -> None:
    vm, _ = await resized(ada, engine)
    decision = (await ada.http.post(f"/vms/{vm.id}/actions/confirm-resize")).json()
    assert (await ada.http.delete(f"/vms/{vm.id}")).status_code == 204
    assert (await read_operation(engine, UUID(decision["operation_id"]))).status is OperationStatus.SUPERSEDED
    assert (await read_vm(engine, vm.id)).status is Status.DELETING


async def test_a_vm_in_verify_resize_can_be_deleted(ada: Person, engine: AsyncEngine) -> None:
    vm, resize = await resized(ada, engine)
    await ada.http.delete(f"/vms/{vm.id}")
    deleting = await read_vm(engine, vm.id)
    assert (deleting.status, deleting.confirm_by) == (Status.DELETING, None)
    assert (await read_operation(engine, resize.id)).status is OperationStatus.SUCCEEDED


@pytest.mark.parametrize("word", ["resize", *DECISIONS])
async def test_a_repeated_request_with_its_key_records_one_operation(
    ada: Person, engine: AsyncEngine, word: str
) -> None:
    vm = await vm_of(ada, engine) if word == "resize" else (await resized(ada, engine))[0]
    before = len(await operations_of(engine, vm.id))
    body = {"flavor_id": str(MEDIUM)} if word == "resize" else None
    key = {"Idempotency-Key": "once"}
    answers = [await ada.http.post(f"/vms/{vm.id}/actions/{word}", json=body, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].content == answers[1].content
    assert len(await operations_of(engine, vm.id)) == before + 1


@pytest.mark.parametrize("word", ["resize", *DECISIONS])
async def test_another_users_vm_is_not_found(ada: Person, bob: Person, engine: AsyncEngine, word: str) -> None:
    vm, _ = await resized(ada, engine)
    body = {"flavor_id": str(SMALL)} if word == "resize" else None
    assert (await bob.http.post(f"/vms/{vm.id}/actions/{word}", json=body)).status_code == 404
    assert await read_vm(engine, vm.id) == vm
