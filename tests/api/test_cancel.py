"""POST /operations/{id}/cancel: accepted from the owner before the point of no return, refused after it."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.commands.acceptance import Requester
from domain.commands.cancel import cancel_operation
from domain.data import queries
from domain.data.models import Operation
from domain.progress import step_records, workflow_input
from domain.rules.errors import CanceledError
from domain.rules.messages import FailOperationInput
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus
from domain.rules.table import TABLE
from tests.api.conftest import Person
from tests.support.rows import add_operation, add_snapshot, add_user, add_vm, add_volume, read_operation

UNDOABLE = {"create", "resize", "snapshot", "attach-volume", "attach-interface", "create-volume"}
QUEUED, RUNNING = OperationStatus.QUEUED, OperationStatus.RUNNING


async def operation_of(ada: Person, engine: AsyncEngine, action: Action, **values: Any) -> Operation:
    """An operation on a VM of the user."""
    async with engine.begin() as tx:
        return await add_operation(tx, await add_vm(tx, ada.user), action, **values)


@pytest.mark.parametrize("begun", [False, True])
async def test_an_operation_can_be_canceled_until_its_point_of_no_return(
    ada: Person, engine: AsyncEngine, *, begun: bool
) -> None:
    started = {"status": RUNNING, "started_at": func.now()} if begun else {"status": QUEUED}
    for action in TABLE:
        operation = await operation_of(ada, engine, action, **started)
        answer = await ada.http.post(f"/operations/{operation.id}/cancel")
        after = await read_operation(engine, operation.id)
        if action in UNDOABLE or (action is not Action.DELETE and not begun):
            assert answer.status_code == 202, (action, answer.text)
            assert answer.json()["cancel_requested_by"] == after.cancel_requested_by == "ada", action
            assert answer.headers["Operation-Location"] == f"/api/v1/operations/{operation.id}"
            assert int(answer.headers["Retry-After"]) > 0, action
        else:
            assert (answer.status_code, answer.json()["code"]) == (409, "too_late"), action
            assert action.word in answer.json()["detail"]
            assert (after.cancel_requested_by, after.cancel_requested_at) == (None, None), action


@pytest.mark.parametrize("status", [status for status in OperationStatus if status not in {QUEUED, RUNNING}])
async def test_an_operation_that_has_ended_cannot_be_canceled(
    ada: Person, engine: AsyncEngine, status: OperationStatus
) -> None:
    operation = await operation_of(ada, engine, Action.CREATE, status=status)
    answer = await ada.http.post(f"/operations/{operation.id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "too_late")
    assert status in answer.json()["detail"]


async def test_a_second_cancel_changes_nothing(ada: Person, engine: AsyncEngine) -> None:
    operation = await operation_of(ada, engine, Action.CREATE)
    first = await ada.http.post(f"/operations/{operation.id}/cancel", headers={"Idempotency-Key": "once"})
    replayed = await ada.http.post(f"/operations/{operation.id}/cancel", headers={"Idempotency-Key": "once"})
    second = await ada.http.post(f"/operations/{operation.id}/cancel")
    assert replayed.headers["Idempotency-Replayed"] == "true"
    assert first.json()["cancel_requested_at"] == second.json()["cancel_requested_at"]


@pytest.mark.parametrize(("seconds", "unchanged"), [(-60, True), (30, False)], ids=["overdue", "due later"])
async def test_a_cancel_makes_a_delivery_due_now_unless_it_is_overdue_already(
    engine: AsyncEngine, seconds: int, *, unchanged: bool
) -> None:
    """A delivery that is overdue keeps its turn: a later time would move it behind other operations."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        due = queries.from_now(seconds)
        before = await add_operation(tx, await add_vm(tx, user), Action.CREATE, deliver_after=due)
        await cancel_operation(tx, Requester(user.id, user.username, "test-request"), before.id)
        after = await queries.fetch_one(tx, select(Operation).where(Operation.id == before.id))
        assert after is not None
        assert (after.deliver_after == before.deliver_after) is unchanged
        assert after.deliver_after <= before.deliver_after


async def test_an_unknown_operation_or_one_of_another_user_cannot_be_canceled(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    operation = await operation_of(ada, engine, Action.CREATE)
    assert (await bob.http.post(f"/operations/{operation.id}/cancel")).status_code == 404
    assert (await ada.http.post(f"/operations/{uuid4()}/cancel")).status_code == 404
    assert (await read_operation(engine, operation.id)).cancel_requested_by is None


@pytest.mark.parametrize("kind", ["volumes", "snapshots"])
@pytest.mark.parametrize("status", ["AVAILABLE", "ERROR"])
async def test_a_canceled_delete_leaves_the_status_from_before(
    ada: Person, engine: AsyncEngine, kind: str, status: str
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        snapshot = await add_snapshot(tx, vm, status=SnapshotStatus(status))
        volume = await add_volume(tx, ada.user, status=VolumeStatus(status))
    path = f"/vms/{vm.id}/snapshots/{snapshot.id}" if kind == "snapshots" else f"/volumes/{volume.id}"
    delete = await ada.http.delete(path)
    id = UUID(delete.headers["Operation-Location"].rpartition("/")[2])
    assert (await ada.http.post(f"/operations/{id}/cancel")).status_code == 202
    input = workflow_input.input_of(await read_operation(engine, id), None)
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(input, "canceled", "Canceled.", canceled=True, begun=False))
    assert (await ada.http.get(path)).json()["status"] == status


@pytest.mark.parametrize("action", [Action.STOP, Action.CREATE_VOLUME])
async def test_a_canceled_operation_begins_no_further_step(ada: Person, engine: AsyncEngine, action: Action) -> None:
    """The fence refuses the step, even if Temporal learns of the cancel much later."""
    operation = await operation_of(ada, engine, action, status=QUEUED)
    assert (await ada.http.post(f"/operations/{operation.id}/cancel")).status_code == 202
    input = workflow_input.input_of(await read_operation(engine, operation.id), "web-1")
    with pytest.raises(CanceledError, match="ada"):
        async with engine.begin() as tx:
            await step_records.enter(tx, input, 1)
    assert (await read_operation(engine, operation.id)).status is QUEUED
