"""The ends of operations on real PostgreSQL: recorded once, by the holder of the VM, as the table says."""

from dataclasses import replace

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Operation
from domain.progress import step_records
from domain.rules.errors import IllegalStepError, SupersededError
from domain.rules.messages import FailOperationInput, OperationInput
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.rules.table import TABLE, Residue
from tests.domain.specified import AS_BEFORE, SPECIFIED, specified_failure
from tests.support.rows import add_held_vm, add_operation, add_user, add_vm, claim, message, read_operation, read_vm

WITH_STEPS = [action for action, rule in TABLE.items() if rule.steps]
FAULT = {"code": "earlier", "message": "What went wrong before."}
ENDINGS = ["finish", "fail"]
each_ending = pytest.mark.parametrize("ending", ENDINGS)


async def end(
    engine: AsyncEngine,
    input: OperationInput,
    ending: str = "finish",
    *,
    residue: Residue = Residue.UNKNOWN,
    canceled: bool = False,
) -> None:
    """Record the end of an operation: `finish` or `fail`."""
    async with engine.begin() as tx:
        if ending == "finish":
            await step_records.finish(tx, input)
        else:
            failure = FailOperationInput.of(input, "no_luck", "It went wrong.", residue, canceled=canceled)
            await step_records.fail(tx, failure)


async def test_finish_puts_the_vm_into_the_specified_status(engine: AsyncEngine) -> None:
    for action in WITH_STEPS:
        input = await add_held_vm(engine, action, step=TABLE[action].steps[-1])
        previous = (await read_operation(engine, input.operation_id)).previous_status
        await end(engine, input)
        vm, operation = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
        ends = SPECIFIED[action].ends
        assert (vm.status, vm.task_state, vm.fault) == (previous if ends == AS_BEFORE else ends, None, None)
        assert (operation.status, operation.progress, operation.error) == (OperationStatus.SUCCEEDED, 100, None)
        assert operation.finished_at


@pytest.mark.parametrize("residue", Residue)
async def test_fail_puts_the_vm_into_the_specified_status(engine: AsyncEngine, residue: Residue) -> None:
    error = {"code": "no_luck", "message": "It went wrong."}
    for action in WITH_STEPS:
        input = await add_held_vm(engine, action)
        previous = (await read_operation(engine, input.operation_id)).previous_status
        assert previous
        await end(engine, input, "fail", residue=residue)
        vm, operation = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
        expected = specified_failure(action, previous, residue)
        assert (vm.status, vm.task_state) == (expected, None)
        assert vm.fault == (error if expected == Status.ERROR else None)
        assert (operation.status, operation.error) == (OperationStatus.FAILED, error)
        assert operation.finished_at
        assert operation.next_retry_at is None


@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
@pytest.mark.parametrize("action", [Action.RESTORE, Action.REBOOT_HARD, Action.RESIZE, Action.REVERT_RESIZE])
async def test_an_operation_that_ends_before_its_first_step_leaves_the_vm_as_it_was(
    engine: AsyncEngine, action: Action, previous: Status
) -> None:
    input = await add_held_vm(engine, action, previous=previous, status=OperationStatus.QUEUED, started_at=None)
    await end(engine, input, "fail", canceled=True)
    vm = await read_vm(engine, input.vm)
    expected = Status.VERIFY_RESIZE if action is Action.REVERT_RESIZE else previous
    assert (vm.status, vm.task_state, vm.fault) == (expected, None, None)


async def test_a_reboot_that_has_not_begun_keeps_the_fault_of_the_vm(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.ERROR, fault=FAULT)
        reboot = message(await claim(tx, vm.id, Action.REBOOT_HARD))
    assert (await read_vm(engine, vm.id)).fault is None
    await end(engine, reboot, "fail", canceled=True)
    after = await read_vm(engine, vm.id)
    assert (after.status, after.fault) == (Status.ERROR, FAULT)


async def test_a_canceled_operation_ends_as_canceled(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.START)
    await end(engine, input, "fail", canceled=True)
    assert (await read_operation(engine, input.operation_id)).status is OperationStatus.CANCELED
    assert (await read_vm(engine, input.vm)).status is Status.SHUTOFF


@each_ending
async def test_an_end_is_recorded_once(engine: AsyncEngine, ending: str) -> None:
    input = await add_held_vm(engine, Action.STOP)
    await end(engine, input, ending)
    first = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
    await end(engine, input, ending)
    assert (await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)) == first


@pytest.mark.parametrize(("first", "second"), [("finish", "fail"), ("fail", "finish")])
async def test_an_end_is_never_changed(engine: AsyncEngine, first: str, second: str) -> None:
    input = await add_held_vm(engine, Action.STOP)
    await end(engine, input, first)
    await _refuses_and_changes_nothing(engine, input, second)


@each_ending
async def test_the_end_of_an_old_operation_does_not_touch_the_next_one(engine: AsyncEngine, ending: str) -> None:
    input = await add_held_vm(engine, Action.STOP)
    await end(engine, input, ending)
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.START if ending == "finish" else Action.STOP)
    held = await read_vm(engine, input.vm)
    await end(engine, input, ending)
    assert await read_vm(engine, input.vm) == held


@each_ending
async def test_no_end_is_recorded_after_a_delete_has_superseded_the_operation(engine: AsyncEngine, ending: str) -> None:
    input = await add_held_vm(engine, Action.STOP)
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.DELETE)
    await _refuses_and_changes_nothing(engine, input, ending)


async def test_only_the_open_operation_that_holds_a_row_writes_what_the_cloud_has_chosen(engine: AsyncEngine) -> None:
    held, ended = await add_held_vm(engine, Action.STOP), await add_held_vm(engine, Action.STOP)
    await end(engine, ended, "fail")
    others = replace(held, operation_id=ended.operation_id)
    for input in (replace(held, epoch=1), ended, others):
        with pytest.raises(SupersededError):
            async with engine.begin() as tx:
                await step_records.note_created(tx, input, VM, input.vm, cloud_id="a")
    async with engine.begin() as tx:
        await step_records.note_created(tx, held, VM, held.vm, cloud_id="a")
    assert [(await read_vm(engine, input.vm)).cloud_id for input in (held, ended)] == ["a", None]


@each_ending
async def test_only_the_current_epoch_may_record_an_end(engine: AsyncEngine, ending: str) -> None:
    input = await add_held_vm(engine, Action.STOP)
    async with engine.begin() as tx:
        await tx.execute(update(Operation).where(Operation.id == input.operation_id).values(epoch=1))
    await _refuses_and_changes_nothing(engine, input, ending)
    await end(engine, OperationInput(input.operation_id, input.vm_id, input.action, epoch=1), ending)


@each_ending
async def test_an_operation_that_does_not_hold_its_vm_may_not_record_an_end(engine: AsyncEngine, ending: str) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), task_state=TaskState.POWERING_OFF)
        operation = await add_operation(tx, vm, Action.STOP, holds=False)
    await _refuses_and_changes_nothing(engine, message(operation), ending)


async def test_finish_before_the_last_step_is_illegal(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.CREATE, step=TaskState.NETWORKING)
    await _refuses_and_changes_nothing(engine, input, "finish", IllegalStepError)


async def test_only_a_create_that_succeeds_launches_the_vm(engine: AsyncEngine) -> None:
    built = await add_held_vm(engine, Action.CREATE, step=TaskState.SPAWNING)
    failed = await add_held_vm(engine, Action.CREATE, step=TaskState.SPAWNING)
    await end(engine, built)
    await end(engine, failed, "fail")
    assert (await read_vm(engine, built.vm)).launched_at
    assert (await read_vm(engine, failed.vm)).launched_at is None


async def test_launched_at_is_set_once(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.STOP)
    before = await read_vm(engine, input.vm)
    await end(engine, input)
    assert (await read_vm(engine, input.vm)).launched_at == before.launched_at


async def _faulty_vm_claimed(engine: AsyncEngine, action: Action) -> OperationInput:
    """Accept the action on a VM in ERROR that has a fault."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.ERROR, fault=FAULT)
        return message(await claim(tx, vm.id, action))


async def test_a_failed_stop_keeps_the_previous_fault(engine: AsyncEngine) -> None:
    input = await _faulty_vm_claimed(engine, Action.STOP)
    await end(engine, input, "fail")
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.fault) == (Status.ERROR, FAULT)


async def test_a_successful_stop_clears_the_fault(engine: AsyncEngine) -> None:
    input = await _faulty_vm_claimed(engine, Action.STOP)
    assert (await read_vm(engine, input.vm)).fault == FAULT
    await end(engine, input)
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.fault) == (Status.SHUTOFF, None)


@pytest.mark.parametrize("action", [Action.REBOOT_HARD, Action.DELETE])
async def test_leaving_error_clears_the_fault_at_once(engine: AsyncEngine, action: Action) -> None:
    input = await _faulty_vm_claimed(engine, action)
    assert (await read_vm(engine, input.vm)).fault is None


async def test_a_failure_that_keeps_a_healthy_status_sets_no_fault(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.STOP, previous=Status.ACTIVE)
    await end(engine, input, "fail")
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.fault) == (Status.ACTIVE, None)
    assert (await read_operation(engine, input.operation_id)).error


async def _refuses_and_changes_nothing(
    engine: AsyncEngine, input: OperationInput, ending: str, error: type[Exception] = SupersededError
) -> None:
    before: tuple[VM, Operation] = (
        await read_vm(engine, input.vm),
        await read_operation(engine, input.operation_id),
    )
    with pytest.raises(error):
        await end(engine, input, ending)
    assert (await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)) == before
