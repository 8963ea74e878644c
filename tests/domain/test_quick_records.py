"""Records in one statement: they say what `step_records` says, or leave everything as it is."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Concatenate, cast
from uuid import uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.resources import Port
from domain.data.models import VM, Operation
from domain.progress import outbox, quick_records, step_records
from domain.progress.quick_records import FINISHED_QUICKLY
from domain.rules.errors import SupersededError
from domain.rules.messages import OperationInput
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.rules.table import TABLE
from tests.activities.operations import add_pending_interface
from tests.domain.test_claim_races import P, Runner, calling, race
from tests.support.rows import add_held_vm, claim, read_operation, read_vm

ROUNDS = 30
TIMES = {"updated_at", "created_at", "started_at", "finished_at", "launched_at", "changed", "deliver_after"}
IDS = {"id", "owner_id", "vm_id", "resource_id", "operation_id", "workflow_id", "name", "actor", "request_id"}
PORT = Port("cloud-9", uuid4(), uuid4(), "10.9.0.9", "fa:16:3e:00:00:09")
quickly_finished = pytest.mark.parametrize("action", sorted(FINISHED_QUICKLY))


async def add_vm_at_its_last_step(engine: AsyncEngine, action: Action) -> OperationInput:
    """Add a VM whose operation can be finished; return the input of its workflow."""
    previous = max(TABLE[action].sources, default=Status.BUILDING)
    input = await add_held_vm(engine, action, step=TABLE[action].steps[-1], previous=previous)
    return replace(input, previous_status=previous)


async def state_of(engine: AsyncEngine, input: OperationInput) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the VM and the operation say, but for ids and times: of these only whether there is one."""
    rows = (await read_vm(engine, input.vm), await read_operation(engine, input.operation_id))
    vm, operation = (
        {
            name: value is not None if name in TIMES else value
            for name, value in cast("Any", row)._asdict().items()
            if name not in IDS
        }
        for row in rows
    )
    return vm, operation


def alone(
    engine: AsyncEngine,
    function: Callable[Concatenate[AsyncEngine, P], Awaitable[object]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Runner:
    """A runner: it calls the function outside of the transaction that it is given."""
    return lambda _: function(engine, *args, **kwargs)


@pytest.mark.parametrize("action", [action for action, rule in TABLE.items() if len(rule.steps) > 0])
async def test_a_step_is_entered_as_in_a_transaction(engine: AsyncEngine, action: Action) -> None:
    step = TABLE[action].steps[min(1, len(TABLE[action].steps) - 1)]
    quick, slow = [await add_held_vm(engine, action, status=OperationStatus.QUEUED) for _ in range(2)]
    found = await quick_records.enter_step(engine, quick, step)
    async with engine.begin() as tx:
        expected = await step_records.enter_step(tx, slow, step, 1)
    assert found is not None
    assert all(set(cast("Any", row)._fields) <= vars(its).keys() for its, row in zip(found, expected, strict=True))
    assert (found[0].task_state, found[1].id) == (step, quick.operation_id)
    assert await state_of(engine, quick) == await state_of(engine, slow)


@quickly_finished
async def test_a_success_is_recorded_as_in_a_transaction(engine: AsyncEngine, action: Action) -> None:
    quick, slow = [await add_vm_at_its_last_step(engine, action) for _ in range(2)]
    if action is Action.CREATE:
        for input in (quick, slow):
            await add_pending_interface(engine, input)
    assert await quick_records.finish(engine, quick)
    async with engine.begin() as tx:
        await step_records.finish(tx, slow)
    assert await state_of(engine, quick) == await state_of(engine, slow)


async def test_a_success_keeps_the_zone_that_was_asked_for(engine: AsyncEngine) -> None:
    input = await add_vm_at_its_last_step(engine, Action.CREATE)
    assert await quick_records.finish(engine, input, "zone-1")
    assert (await read_vm(engine, input.vm)).availability_zone == "zone-1"


@pytest.mark.parametrize(
    "values",
    [{"cancel_requested_by": "ada"}, {"epoch": 7}, {"status": "CANCELED", "finished_at": Operation.created_at}],
)
async def test_a_fence_that_does_not_hold_leaves_everything_as_it_is(
    engine: AsyncEngine, values: dict[str, Any]
) -> None:
    input = await add_vm_at_its_last_step(engine, Action.CREATE)
    async with engine.begin() as tx:
        await tx.execute(update(Operation).where(Operation.id == input.operation_id).values(values))
    before = await state_of(engine, input)
    assert await quick_records.enter_step(engine, input, TaskState.SPAWNING) is None
    is_late_cancel = "cancel_requested_by" in values
    assert is_late_cancel or not await quick_records.finish(engine, input)
    assert await state_of(engine, input) == before


async def test_an_operation_that_no_longer_holds_the_vm_records_nothing(engine: AsyncEngine) -> None:
    input = await add_vm_at_its_last_step(engine, Action.CREATE)
    interface = await add_pending_interface(engine, input)
    async with engine.begin() as tx:
        await tx.execute(update(VM).where(VM.id == input.vm).values(operation_id=uuid4()))
    before = await state_of(engine, input)
    for ports in ({}, {interface: PORT}):
        assert await quick_records.enter_step(engine, input, TaskState.SPAWNING, ports) is None
    assert not await quick_records.finish(engine, input)
    assert await state_of(engine, input) == before


async def test_an_operation_that_has_ended_notes_no_choices(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    interface = await add_pending_interface(engine, input)
    async with engine.begin() as tx:
        ended = {"status": "CANCELED", "finished_at": Operation.created_at}
        await tx.execute(update(Operation).where(Operation.id == input.operation_id).values(ended))
    assert not await quick_records.note_ports(engine, input, {interface: PORT})


async def test_a_step_whose_ports_are_not_all_noted_is_left_to_the_transaction(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.CREATE, status=OperationStatus.QUEUED)
    interface = await add_pending_interface(engine, input)
    ports = {interface: PORT, uuid4(): PORT}
    assert await quick_records.enter_step(engine, input, TaskState.NETWORKING, ports) is None


async def test_an_operation_that_has_not_come_to_its_last_step_is_not_finished(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.CREATE, step=TaskState.NETWORKING)
    input = replace(input, previous_status=Status.BUILDING)
    assert not await quick_records.finish(engine, input)


async def test_a_finish_and_a_step_race_with_a_delete(engine: AsyncEngine) -> None:
    for _ in range(ROUNDS):
        input = await add_vm_at_its_last_step(engine, Action.STOP)
        deleted, _, _ = await race(
            engine,
            calling(claim, input.vm, Action.DELETE),
            alone(engine, quick_records.finish, input),
            alone(engine, quick_records.enter_step, input, TaskState.POWERING_OFF),
        )
        vm, stop = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
        assert deleted, "a delete is never refused"
        assert (vm.status, vm.task_state) == (Status.DELETING, TaskState.DELETING)
        assert stop.status in {OperationStatus.SUCCEEDED, OperationStatus.SUPERSEDED}


async def test_a_finish_races_with_a_new_epoch_and_with_a_failure(engine: AsyncEngine) -> None:
    for _ in range(ROUNDS):
        input = await add_vm_at_its_last_step(engine, Action.STOP)
        row = await read_operation(engine, input.operation_id)
        await race(
            engine,
            alone(engine, quick_records.finish, input),
            calling(step_records.finish, input),
            calling(outbox.restart, row),
        )
        vm, stop = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
        is_open = stop.status in {OperationStatus.RUNNING, OperationStatus.QUEUED}
        assert (vm.task_state is not None) == is_open
        assert stop.epoch == (1 if is_open else 0)


async def test_the_choices_of_the_cloud_are_noted_while_the_operation_holds_the_interfaces(
    engine: AsyncEngine,
) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    ids = [await add_pending_interface(engine, input) for _ in range(2)]
    ports = {
        id: Port(f"cloud-{n}", input.vm, uuid4(), f"10.9.0.{n}", f"fa:16:3e:00:00:0{n}") for n, id in enumerate(ids)
    }
    changed = (await read_vm(engine, input.vm)).updated_at
    assert await quick_records.note_ports(engine, input, ports)
    assert (await read_vm(engine, input.vm)).updated_at > changed
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.DELETE)
    assert not await quick_records.note_ports(engine, input, ports)
    with pytest.raises(SupersededError):
        async with engine.begin() as tx:
            await step_records.enter_step(tx, input, TaskState.NETWORKING, 1)
