"""Claims and the fence on real PostgreSQL: which operation may claim a VM, and which may still act on it."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.commands import acceptance
from domain.data.models import VM, Operation
from domain.progress import step_records
from domain.rules import lifecycle
from domain.rules.errors import IllegalStepError, InvalidTransitionError, SupersededError
from domain.rules.messages import OperationInput
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.rules.table import TABLE
from tests.support.rows import add_held_vm, add_operation, add_user, add_vm, claim, message, read_operation, read_vm


async def enter(engine: AsyncEngine, input: OperationInput, step: TaskState, attempt: int = 1) -> None:
    """Enter a step in a transaction of its own."""
    async with engine.begin() as tx:
        await step_records.enter_step(tx, input, step, attempt)


async def _set(engine: AsyncEngine, input: OperationInput, **values: Any) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(Operation).where(Operation.id == input.operation_id).values(**values))


async def test_a_claim_changes_the_vm(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
    async with engine.begin() as tx:
        operation = await claim(tx, vm.id, Action.REBOOT_SOFT)
    claimed = await read_vm(engine, vm.id)
    assert (claimed.status, claimed.task_state) == (Status.REBOOTING, TaskState.REBOOTING)
    assert claimed.operation_id == operation.id
    assert claimed.updated_at > vm.updated_at


async def test_a_refused_claim_changes_nothing(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), task_state=TaskState.POWERING_OFF)
    async with engine.begin() as tx:
        with pytest.raises(InvalidTransitionError) as refusal:
            await acceptance.claim_vm(tx, vm, Action.REBOOT_SOFT, uuid4())
    assert refusal.value.allowed_actions == ["delete"]
    assert await read_vm(engine, vm.id) == vm


async def test_only_a_delete_may_claim_a_vm_that_was_never_launched(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.ERROR, launched=False)
        for action in TABLE.keys() - {Action.DELETE}:
            with pytest.raises(InvalidTransitionError):
                await acceptance.claim_vm(tx, vm, action, uuid4())
        assert (await acceptance.claim_vm(tx, vm, Action.DELETE, uuid4())).status is Status.DELETING


async def test_a_delete_supersedes_only_the_open_operations_of_its_vm(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, neighbour = await add_vm(tx, user), await add_vm(tx, user)
        queued = await add_operation(tx, vm, Action.ATTACH_VOLUME, status=OperationStatus.QUEUED, holds=False)
        running = await add_operation(tx, vm, Action.STOP, next_retry_at=datetime.now(UTC))
        ended = await add_operation(tx, vm, Action.START, status=OperationStatus.FAILED, holds=False)
        of_neighbour = await add_operation(tx, neighbour, Action.STOP)
        delete = await claim(tx, vm.id, Action.DELETE)
    for operation in (queued, running):
        now = await read_operation(engine, operation.id)
        assert (now.status, now.next_retry_at) == (OperationStatus.SUPERSEDED, None)
        assert now.error
        assert now.error["code"] == "superseded"
        assert now.finished_at
    assert await read_operation(engine, ended.id) == ended
    assert await read_operation(engine, of_neighbour.id) == of_neighbour
    assert (await read_operation(engine, delete.id)).status is OperationStatus.QUEUED


async def test_only_a_delete_supersedes_open_operations(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        attaching = await add_operation(tx, vm, Action.ATTACH_VOLUME, holds=False)
        await claim(tx, vm.id, Action.STOP)
    assert await read_operation(engine, attaching.id) == attaching


async def test_steps_are_entered_in_order_and_each_may_be_entered_twice(engine: AsyncEngine) -> None:
    for action, rule in TABLE.items():
        if not rule.steps:
            continue
        input = await add_held_vm(engine, action, status=OperationStatus.QUEUED)
        for step, attempt in product(rule.steps, (1, 2)):
            await enter(engine, input, step, attempt)
            operation = await read_operation(engine, input.operation_id)
            assert (operation.status, operation.step, operation.attempt) == (OperationStatus.RUNNING, step, attempt)
            assert operation.progress == lifecycle.progress(action, step)
            assert (await read_vm(engine, input.vm)).task_state is step


async def test_the_first_step_sets_started_at_and_later_steps_keep_it(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.CREATE, status=OperationStatus.QUEUED, started_at=None)
    assert (await read_operation(engine, input.operation_id)).started_at is None
    await enter(engine, input, TaskState.SCHEDULING)
    started_at = (await read_operation(engine, input.operation_id)).started_at
    assert started_at
    await enter(engine, input, TaskState.NETWORKING)
    assert (await read_operation(engine, input.operation_id)).started_at == started_at


async def test_a_retry_of_a_step_keeps_the_last_error_and_the_next_step_clears_it(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    async with engine.begin() as tx:
        await step_records.note_failed_attempt(tx, input, 3, "No answer.", 8.0)
    shown = []
    for step, attempt in ((TaskState.SCHEDULING, 4), (TaskState.NETWORKING, 1)):
        await enter(engine, input, step, attempt)
        operation = await read_operation(engine, input.operation_id)
        shown.append((operation.attempt, operation.last_error, operation.next_retry_at))
    assert shown == [(4, "No answer.", None), (1, None, None)]


async def test_a_step_cannot_be_skipped_or_entered_after_a_later_one(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    await _check_fenced(engine, input, TaskState.SPAWNING)
    await enter(engine, input, TaskState.NETWORKING)
    await enter(engine, input, TaskState.SPAWNING)
    await _check_fenced(engine, input, TaskState.NETWORKING)


async def test_a_step_of_another_action_is_illegal(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.STOP)
    await _check_fenced(engine, input, TaskState.POWERING_ON, IllegalStepError)


@pytest.mark.parametrize("epoch", [0, 2])
async def test_a_workflow_of_another_epoch_is_fenced(engine: AsyncEngine, epoch: int) -> None:
    input = await add_held_vm(engine, Action.STOP, epoch=1)
    other_epoch = OperationInput(input.operation_id, input.vm_id, input.action, epoch=epoch)
    await _check_fenced(engine, other_epoch, TaskState.POWERING_OFF)
    await _check_not_held(engine, other_epoch)
    await enter(engine, input, TaskState.POWERING_OFF)


async def test_an_operation_that_no_longer_holds_its_vm_is_fenced(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), task_state=TaskState.POWERING_OFF)
        earlier = await add_operation(tx, vm, Action.STOP)
        await add_operation(tx, vm, Action.STOP)
    await _check_fenced(engine, message(earlier), TaskState.POWERING_OFF)


@pytest.mark.parametrize("status", sorted(set(OperationStatus) - {OperationStatus.QUEUED, OperationStatus.RUNNING}))
async def test_an_operation_that_has_ended_is_fenced(engine: AsyncEngine, status: OperationStatus) -> None:
    input = await add_held_vm(engine, Action.STOP, status=status)
    await _check_fenced(engine, input, TaskState.POWERING_OFF)
    await _check_not_held(engine, input)


async def test_a_delete_fences_the_operation_that_was_running(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.STOP)
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.DELETE)
    await _check_fenced(engine, input, TaskState.POWERING_OFF)
    await _check_not_held(engine, input)


async def test_an_unknown_operation_is_fenced(engine: AsyncEngine) -> None:
    unknown = OperationInput(uuid4(), uuid4(), Action.STOP)
    with pytest.raises(SupersededError):
        await enter(engine, unknown, TaskState.POWERING_OFF)
    await _check_not_held(engine, unknown)


async def test_check_holds_returns_the_vm_and_the_operation_and_locks_the_vm(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.STOP)
    async with engine.begin() as tx:
        vm, operation = await step_records.check_holds(tx, input)
        assert vm
        assert (vm.id, operation.id) == (input.vm_id, input.operation_id)
        async with engine.begin() as other:
            unlocked = select(VM.id).where(VM.id == input.vm_id).with_for_update(skip_locked=True)
            assert (await other.execute(unlocked)).all() == []


async def test_a_failed_attempt_is_recorded_with_the_time_of_the_next_one(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.STOP)
    async with engine.begin() as tx:
        await step_records.note_failed_attempt(tx, input, 3, "No answer.", 8.0)
        now: datetime = (await tx.execute(select(func.now()))).scalar_one()
    operation = await read_operation(engine, input.operation_id)
    assert (operation.attempt, operation.last_error) == (3, "No answer.")
    assert operation.next_retry_at == now + timedelta(seconds=8)


@pytest.mark.parametrize(
    "stale", [{"status": OperationStatus.SUPERSEDED, "finished_at": datetime.now(UTC)}, {"epoch": 1}]
)
async def test_a_failed_attempt_of_an_ended_operation_or_another_epoch_is_not_recorded(
    engine: AsyncEngine, stale: dict[str, Any]
) -> None:
    input = await add_held_vm(engine, Action.STOP)
    await _set(engine, input, **stale)
    before = await read_operation(engine, input.operation_id)
    async with engine.begin() as tx:
        await step_records.note_failed_attempt(tx, input, 3, "No answer.", 8.0)
    assert await read_operation(engine, input.operation_id) == before


async def _check_fenced(
    engine: AsyncEngine, input: OperationInput, step: TaskState, error: type[Exception] = SupersededError
) -> None:
    """Check that the step cannot be entered and that nothing has changed."""
    before = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
    with pytest.raises(error):
        await enter(engine, input, step)
    assert (await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)) == before


async def _check_not_held(engine: AsyncEngine, input: OperationInput) -> None:
    """Check that the operation may not act on its VM any more."""
    async with engine.begin() as tx:
        with pytest.raises(SupersededError):
            await step_records.check_holds(tx, input)
