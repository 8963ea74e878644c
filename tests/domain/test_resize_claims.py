"""Resizes on real PostgreSQL: what a decision inherits, and how long there is a time to confirm by."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select
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
on_or_off = pytest.mark.parametrize("was", [Status.ACTIVE, Status.SHUTOFF])


async def moving(engine: AsyncEngine, window: int = WINDOW, was: Status = Status.ACTIVE) -> OperationInput:
    """A resize in its last step."""
    asked = INPUTS[Action.RESIZE] | {"confirm_window": window}
    return await add_held_vm(engine, Action.RESIZE, step=TaskState.RESIZE_FINISH, previous=was, input=asked)


async def waiting(engine: AsyncEngine, window: int = WINDOW, was: Status = Status.ACTIVE) -> Operation:
    """A resize that waits for a decision."""
    input = await moving(engine, window, was)
    async with engine.begin() as tx:
        await step_records.finish(tx, input)
    return await read_operation(engine, input.operation_id)


async def decided(engine: AsyncEngine, resize: Operation, action: Action) -> Operation:
    """The operation that decides, accepted."""
    async with engine.begin() as tx:
        return await claim(tx, resize.resource_id, action)


async def shown(engine: AsyncEngine, vm_id: UUID) -> tuple[Any, ...]:
    """What a resize and its decision change."""
    vm = await read_vm(engine, vm_id)
    return vm.status, vm.task_state, vm.flavor_id, vm.confirm_by


@on_or_off
@each_decision
async def test_a_decision_goes_to_the_resize_with_its_previous_status_and_the_flavor_that_is_kept(
    engine: AsyncEngine, action: Action, was: Status
) -> None:
    resize = await waiting(engine, was=was)
    decision = await decided(engine, resize, action)
    assert (decision.workflow_id, decision.previous_status) == (resize.workflow_id, was)
    assert decision.input == {"flavor_id": str(KEPT[action][0]), "flavor": KEPT[action][1]}
    assert (decision.status, decision.started_at) == (OperationStatus.QUEUED, None)
    assert (await read_vm(engine, resize.resource_id)).operation_id == decision.id
    assert await read_operation(engine, resize.id) == resize


async def test_what_decides_nothing_has_a_workflow_status_and_input_of_its_own(engine: AsyncEngine) -> None:
    for action in [one for one, rule in TABLE.items() if rule.sources and one not in KEPT]:
        was = min(TABLE[action].sources)
        async with engine.begin() as tx:
            vm = await add_vm(tx, await add_user(tx), status=was)
            operation = await claim(tx, vm.id, action)
        assert operation.workflow_id == messages.own_workflow_id(action, vm.id, operation.id)
        held = was if TABLE[action].steps else None
        assert (operation.previous_status, operation.input) == (held, INPUTS.get(action, {}))


async def test_a_delete_of_a_resize_that_waits_has_a_workflow_of_its_own(engine: AsyncEngine) -> None:
    resize = await waiting(engine)
    delete = await decided(engine, resize, Action.DELETE)
    assert delete.workflow_id == messages.own_workflow_id(Action.DELETE, resize.resource_id, delete.id)
    assert (delete.previous_status, delete.input) == (Status.VERIFY_RESIZE, {})


async def test_an_accepted_operation_is_delivered_now_or_when_it_was_told_to(engine: AsyncEngine) -> None:
    resize = await waiting(engine)
    at_once = await decided(engine, await waiting(engine), Action.CONFIRM_RESIZE)
    assert at_once.deliver_after <= at_once.created_at
    async with engine.begin() as tx:
        later = await resize_decisions.confirm_by_window(tx, resize.resource_id, resize.id, deliver_in=30.0)
    assert later
    assert timedelta(seconds=25) < later.deliver_after - later.created_at <= timedelta(seconds=30)
    async with engine.begin() as tx:
        assert [one.id for one in await outbox.lease_operations(tx, 10, 10.0)] == [at_once.id]


@pytest.mark.parametrize("window", [0, 1, WINDOW, 31_536_000])
async def test_the_time_to_confirm_by_comes_with_the_end_of_the_resize_and_by_the_databases_clock(
    engine: AsyncEngine, window: int
) -> None:
    input = await moving(engine, window)
    assert await shown(engine, input.vm) == (Status.RESIZING, TaskState.RESIZE_FINISH, SMALL, None)
    async with engine.begin() as tx:
        await step_records.finish(tx, input)
        now: datetime = (await tx.execute(select(func.now()))).scalar_one()
    confirm_by = now + timedelta(seconds=window) if window else None
    assert await shown(engine, input.vm) == (Status.VERIFY_RESIZE, None, MEDIUM, confirm_by)


async def test_an_end_that_is_recorded_again_does_not_extend_the_time(engine: AsyncEngine) -> None:
    resize = await waiting(engine)
    before = await shown(engine, resize.resource_id)
    async with engine.begin() as tx:
        await step_records.finish(tx, message(resize))
    assert await shown(engine, resize.resource_id) == before


@pytest.mark.parametrize(("intact", "left"), [(True, Status.SHUTOFF), (False, Status.ERROR)])
async def test_a_resize_that_fails_keeps_its_flavor_and_waits_for_nobody(
    engine: AsyncEngine, *, intact: bool, left: Status
) -> None:
    input = await moving(engine, was=Status.SHUTOFF)
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(input, "no_luck", "It went wrong.", intact=intact))
    assert await shown(engine, input.vm) == (left, None, SMALL, None)


@each_decision
async def test_whoever_decides_takes_the_time_to_confirm_by_away(engine: AsyncEngine, action: Action) -> None:
    resize = await waiting(engine)
    await decided(engine, resize, action)
    assert await shown(engine, resize.resource_id) == (Status.VERIFY_RESIZE, TABLE[action].steps[0], MEDIUM, None)


async def test_a_delete_takes_the_time_to_confirm_by_away(engine: AsyncEngine) -> None:
    resize = await waiting(engine)
    await decided(engine, resize, Action.DELETE)
    assert await shown(engine, resize.resource_id) == (Status.DELETING, TaskState.DELETING, MEDIUM, None)


@on_or_off
@each_decision
async def test_a_decision_ends_where_the_resize_began_with_the_flavor_that_is_kept(
    engine: AsyncEngine, action: Action, was: Status
) -> None:
    decision = await decided(engine, await waiting(engine, was=was), action)
    async with engine.begin() as tx:
        await step_records.enter_step(tx, message(decision), TABLE[action].steps[0], 1)
        await step_records.finish(tx, message(decision))
    assert await shown(engine, decision.resource_id) == (was, None, KEPT[action][0], None)


@each_decision
async def test_a_decision_that_fails_leaves_an_error_and_no_time_to_confirm_by(
    engine: AsyncEngine, action: Action
) -> None:
    decision = await decided(engine, await waiting(engine), action)
    async with engine.begin() as tx:
        await step_records.enter_step(tx, message(decision), TABLE[action].steps[0], attempt=1)
        await step_records.fail(tx, FailOperationInput(message(decision), "no_luck", "It went wrong."))
    vm = await read_vm(engine, decision.resource_id)
    assert (vm.status, vm.task_state, vm.confirm_by) == (Status.ERROR, None, None)


async def test_the_resize_that_waited_records_nothing_more_once_it_is_decided(engine: AsyncEngine) -> None:
    resize = await waiting(engine)
    await decided(engine, resize, Action.CONFIRM_RESIZE)
    held = await read_vm(engine, resize.resource_id)
    async with engine.begin() as tx:
        await step_records.finish(tx, message(resize))
        await step_records.drop_confirm_window(tx, message(resize))
        assert await step_records.read_confirm_window(tx, message(resize)) is None
    assert await read_vm(engine, resize.resource_id) == held
