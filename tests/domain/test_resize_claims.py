"""Resizes on real PostgreSQL: what a decision takes over from its resize, and when `confirm_by` is set and cleared."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.commands import resize_decisions
from domain.data.models import Operation
from domain.progress import outbox, step_records
from domain.rules import messages
from domain.rules.messages import FailOperationInput, OperationInput
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.rules.table import TABLE
from tests.support.rows import (
    FLAVOR_IDS,
    INPUTS,
    add_held_vm,
    add_operation,
    add_user,
    add_vm,
    claim,
    message,
    read_operation,
    read_vm,
)

SMALL, MEDIUM = FLAVOR_IDS["m1.small"], FLAVOR_IDS["m1.medium"]
KEPT = {Action.CONFIRM_RESIZE: (MEDIUM, "m1.medium"), Action.REVERT_RESIZE: (SMALL, "m1.small")}
WINDOW = 3600
each_decision = pytest.mark.parametrize("action", KEPT)
active_or_shutoff = pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])


async def moving(engine: AsyncEngine, window: int = WINDOW, previous: Status = Status.ACTIVE) -> OperationInput:
    """A resize in its last step."""
    resize = INPUTS[Action.RESIZE] | {"confirm_window": window}
    return await add_held_vm(engine, Action.RESIZE, step=TaskState.RESIZE_FINISH, previous=previous, input=resize)


async def undecided(engine: AsyncEngine, window: int = WINDOW, previous: Status = Status.ACTIVE) -> Operation:
    """A resize that has succeeded and waits for a decision."""
    input = await moving(engine, window, previous)
    async with engine.begin() as tx:
        await step_records.finish(tx, input)
    return await read_operation(engine, input.operation_id)


async def decide(engine: AsyncEngine, resize: Operation, action: Action) -> Operation:
    """Accept the action on the VM of the resize; return the new operation."""
    async with engine.begin() as tx:
        return await claim(tx, resize.resource_id, action)


async def shown(engine: AsyncEngine, vm_id: UUID) -> tuple[Any, ...]:
    """The columns of the VM that a resize and its decision change."""
    vm = await read_vm(engine, vm_id)
    return vm.status, vm.task_state, vm.flavor_id, vm.confirm_by


@active_or_shutoff
@each_decision
async def test_a_decision_takes_over_workflow_and_previous_status_and_records_the_flavor(
    engine: AsyncEngine, action: Action, previous: Status
) -> None:
    resize = await undecided(engine, previous=previous)
    decision = await decide(engine, resize, action)
    assert (decision.workflow_id, decision.previous_status) == (resize.workflow_id, previous)
    assert decision.input == {"flavor_id": str(KEPT[action][0]), "flavor": KEPT[action][1]}
    assert (decision.status, decision.started_at) == (OperationStatus.QUEUED, None)
    assert (await read_vm(engine, resize.resource_id)).operation_id == decision.id
    assert await read_operation(engine, resize.id) == resize


async def test_every_other_action_has_its_own_workflow_previous_status_and_input(engine: AsyncEngine) -> None:
    for action in [action for action, rule in TABLE.items() if rule.sources and action not in KEPT]:
        status = min(TABLE[action].sources)
        async with engine.begin() as tx:
            vm = await add_vm(tx, await add_user(tx), status=status)
            operation = await claim(tx, vm.id, action)
        assert operation.workflow_id == messages.own_workflow_id(action, vm.id, operation.id)
        previous_status = status if TABLE[action].steps else None
        assert (operation.previous_status, operation.input) == (previous_status, INPUTS.get(action, {}))


async def test_a_delete_during_verify_resize_has_its_own_workflow(engine: AsyncEngine) -> None:
    resize = await undecided(engine)
    delete = await decide(engine, resize, Action.DELETE)
    assert delete.workflow_id == messages.own_workflow_id(Action.DELETE, resize.resource_id, delete.id)
    assert (delete.previous_status, delete.input) == (Status.VERIFY_RESIZE, {})


async def test_a_decision_is_delivered_at_once_or_after_the_given_delay(engine: AsyncEngine) -> None:
    resize = await undecided(engine)
    immediate = await decide(engine, await undecided(engine), Action.CONFIRM_RESIZE)
    assert immediate.deliver_after <= immediate.created_at
    user = uuid4()
    async with engine.begin() as tx:
        await tx.execute(update(Operation).where(Operation.id == resize.id).values(requested_by=user))
        delayed = await resize_decisions.confirm_by_window(tx, resize.resource_id, resize.id, deliver_in=30.0)
    assert delayed
    assert delayed.requested_by == user, "it waits for the turn of the user who asked for the resize"
    assert timedelta(seconds=25) < delayed.deliver_after - delayed.created_at <= timedelta(seconds=30)
    async with engine.begin() as tx:
        assert [operation.id for operation in await outbox.lease_operations(tx, 10, 10.0)] == [immediate.id]


@pytest.mark.parametrize("window", [0, 1, WINDOW, 31_536_000])
async def test_the_end_of_a_resize_sets_confirm_by_from_the_clock_of_the_database(
    engine: AsyncEngine, window: int
) -> None:
    input = await moving(engine, window)
    assert await shown(engine, input.vm) == (Status.RESIZING, TaskState.RESIZE_FINISH, SMALL, None)
    async with engine.begin() as tx:
        await step_records.finish(tx, input)
        now: datetime = (await tx.execute(select(func.now()))).scalar_one()
    confirm_by = now + timedelta(seconds=window) if window else None
    assert await shown(engine, input.vm) == (Status.VERIFY_RESIZE, None, MEDIUM, confirm_by)


async def test_recording_the_end_twice_does_not_extend_confirm_by(engine: AsyncEngine) -> None:
    resize = await undecided(engine)
    before = await shown(engine, resize.resource_id)
    async with engine.begin() as tx:
        await step_records.finish(tx, message(resize))
    assert await shown(engine, resize.resource_id) == before


@pytest.mark.parametrize(("intact", "status"), [(True, Status.SHUTOFF), (False, Status.ERROR)])
async def test_a_failed_resize_keeps_the_flavor_of_the_vm_and_sets_no_confirm_by(
    engine: AsyncEngine, *, intact: bool, status: Status
) -> None:
    input = await moving(engine, previous=Status.SHUTOFF)
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(input, "no_luck", "It went wrong.", intact=intact))
    assert await shown(engine, input.vm) == (status, None, SMALL, None)


@each_decision
async def test_a_decision_clears_confirm_by(engine: AsyncEngine, action: Action) -> None:
    resize = await undecided(engine)
    await decide(engine, resize, action)
    assert await shown(engine, resize.resource_id) == (Status.VERIFY_RESIZE, TABLE[action].steps[0], MEDIUM, None)


async def test_a_delete_clears_confirm_by(engine: AsyncEngine) -> None:
    resize = await undecided(engine)
    await decide(engine, resize, Action.DELETE)
    assert await shown(engine, resize.resource_id) == (Status.DELETING, TaskState.DELETING, MEDIUM, None)


@active_or_shutoff
@each_decision
async def test_a_decision_ends_in_the_status_before_the_resize_with_the_decided_flavor(
    engine: AsyncEngine, action: Action, previous: Status
) -> None:
    decision = await decide(engine, await undecided(engine, previous=previous), action)
    async with engine.begin() as tx:
        await step_records.enter_step(tx, message(decision), TABLE[action].steps[0], 1)
        await step_records.finish(tx, message(decision))
    assert await shown(engine, decision.resource_id) == (previous, None, KEPT[action][0], None)


@each_decision
async def test_a_failed_decision_leaves_the_vm_in_error_without_confirm_by(engine: AsyncEngine, action: Action) -> None:
    decision = await decide(engine, await undecided(engine), action)
    async with engine.begin() as tx:
        await step_records.enter_step(tx, message(decision), TABLE[action].steps[0], attempt=1)
        await step_records.fail(tx, FailOperationInput(message(decision), "no_luck", "It went wrong."))
    vm = await read_vm(engine, decision.resource_id)
    assert (vm.status, vm.task_state, vm.confirm_by) == (Status.ERROR, None, None)


async def test_a_resize_changes_nothing_more_once_it_is_decided(engine: AsyncEngine) -> None:
    resize = await undecided(engine)
    await decide(engine, resize, Action.CONFIRM_RESIZE)
    before = await read_vm(engine, resize.resource_id)
    async with engine.begin() as tx:
        await step_records.finish(tx, message(resize))
        await step_records.drop_confirm_window(tx, message(resize))
        assert await step_records.read_confirm_window(tx, message(resize)) is None
    assert await read_vm(engine, resize.resource_id) == before


@each_decision
async def test_a_decision_is_about_the_latest_resize_that_has_moved_the_server(
    engine: AsyncEngine, action: Action
) -> None:
    """Later resizes that failed, or were cut off before they began, have moved nothing."""
    not_moved: list[dict[str, Any]] = [
        {"status": OperationStatus.FAILED, "started_at": func.now()},
        {"status": OperationStatus.CANCELED, "started_at": func.now()},
        {"status": OperationStatus.SUPERSEDED},
    ]
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        minutes = (vm.created_at + timedelta(minutes=minute) for minute in range(9))
        earlier: dict[str, Any] = {"status": OperationStatus.SUCCEEDED, "created_at": next(minutes)}
        await add_operation(tx, vm, Action.RESIZE, **earlier)
        cut_off: dict[str, Any] = {
            "status": OperationStatus.SUPERSEDED,
            "started_at": func.now(),
            "created_at": next(minutes),
        }
        latest = await add_operation(tx, vm, Action.RESIZE, **cut_off)
        await add_operation(tx, vm, Action.STOP, status=OperationStatus.SUCCEEDED, created_at=next(minutes))
        for values in not_moved:
            await add_operation(tx, vm, Action.RESIZE, created_at=next(minutes), holds=False, **values)
    assert (await decide(engine, latest, action)).workflow_id == latest.workflow_id
