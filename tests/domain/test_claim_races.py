"""Races on real PostgreSQL: every outcome is one that the table allows, and nothing deadlocks."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.progress import outbox, step_records
from domain.rules.errors import InvalidTransitionError, SupersededError
from domain.rules.messages import FailOperationInput
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.support.rows import add_held_vm, add_user, add_vm, claim, read_operation, read_vm

ROUNDS = 50
REFUSALS = (SupersededError, InvalidTransitionError, IntegrityError)

Runner = Callable[[AsyncConnection], Awaitable[object]]
P = ParamSpec("P")


def calling(
    function: Callable[Concatenate[AsyncConnection, P], Awaitable[object]], *args: P.args, **kwargs: P.kwargs
) -> Runner:
    """A runner: it calls the function in the transaction that it is given."""
    return lambda tx: function(tx, *args, **kwargs)


async def race(engine: AsyncEngine, *runners: Runner) -> list[bool]:
    """Run each concurrently in a transaction of its own, in random order; return which of them were not refused."""

    async def run(runner: Runner) -> bool:
        try:
            async with engine.begin() as tx:
                await runner(tx)
        except REFUSALS:
            return False
        return True

    order = random.sample(range(len(runners)), len(runners))
    async with asyncio.timeout(20):
        results = await asyncio.gather(*(run(runners[n]) for n in order))
    return [results[order.index(n)] for n in range(len(runners))]


async def test_a_delete_races_with_the_end_of_a_stop(engine: AsyncEngine) -> None:
    outcomes = set()
    for _ in range(ROUNDS):
        outcomes.add(await _race_delete_with_stop(engine))
    assert outcomes <= {OperationStatus.SUCCEEDED, OperationStatus.SUPERSEDED}


async def _race_delete_with_stop(engine: AsyncEngine) -> OperationStatus:
    input = await add_held_vm(engine, Action.STOP)
    deleted, finished, _ = await race(
        engine,
        calling(claim, input.vm, Action.DELETE),
        calling(step_records.finish, input),
        calling(step_records.enter_step, input, TaskState.POWERING_OFF, 2),
    )
    vm, stop = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
    assert deleted, "a delete is never refused"
    assert (vm.status, vm.task_state) == (Status.DELETING, TaskState.DELETING)
    assert vm.operation_id != stop.id
    assert stop.status is (OperationStatus.SUCCEEDED if finished else OperationStatus.SUPERSEDED)
    return stop.status


async def test_a_delete_races_with_a_build_that_continues_or_fails(engine: AsyncEngine) -> None:
    for _ in range(ROUNDS):
        input = await add_held_vm(engine, Action.CREATE, status=OperationStatus.QUEUED)
        failure = FailOperationInput(input, "no_valid_host", "No host.")
        deleted, _, failed = await race(
            engine,
            calling(claim, input.vm, Action.DELETE),
            calling(step_records.enter_step, input, TaskState.NETWORKING, 1),
            calling(step_records.fail, failure),
        )
        vm, create = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
        assert deleted
        assert (vm.status, vm.task_state, vm.fault) == (Status.DELETING, TaskState.DELETING, None)
        assert create.status is (OperationStatus.FAILED if failed else OperationStatus.SUPERSEDED)


async def test_only_one_of_many_concurrent_claims_wins(engine: AsyncEngine) -> None:
    for _ in range(ROUNDS // 5):
        async with engine.begin() as tx:
            vm = await add_vm(tx, await add_user(tx))
        actions = [Action.STOP, Action.REBOOT_SOFT, Action.REBOOT_HARD, Action.STOP, Action.RESIZE]
        accepted = await race(engine, *(calling(claim, vm.id, action) for action in actions))
        assert accepted.count(True) == 1
        holder = await read_operation(engine, (await read_vm(engine, vm.id)).operation_id)
        assert holder.action is actions[accepted.index(True)]


async def test_only_one_of_many_concurrent_deletes_claims_the_vm(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.STOP)
    accepted = await race(engine, *(calling(claim, input.vm, Action.DELETE) for _ in range(10)))
    assert accepted.count(True) == 1


async def test_a_success_may_be_recorded_several_times_concurrently(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.STOP)
    assert all(await race(engine, *([calling(step_records.finish, input)] * 5)))
    assert (await read_vm(engine, input.vm)).status is Status.SHUTOFF


async def test_only_one_of_concurrent_success_and_failure_is_recorded(engine: AsyncEngine) -> None:
    for _ in range(ROUNDS // 2):
        input = await add_held_vm(engine, Action.STOP, previous=Status.ACTIVE)
        failure = FailOperationInput(input, "no_luck", "It went wrong.")
        finished, failed = await race(
            engine,
            calling(step_records.finish, input),
            calling(step_records.fail, failure),
        )
        vm, operation = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
        expected = (Status.SHUTOFF, "SUCCEEDED") if finished else (Status.ACTIVE, "FAILED")
        assert finished is not failed
        assert (vm.status, operation.status) == expected


async def test_batches_of_deliveries_do_not_deadlock_with_deletes(engine: AsyncEngine) -> None:
    """A batch may lock several operations of one VM while a delete of the VM supersedes, and so locks, all of them."""
    vm_ids, ids = await _attaching(engine)
    deletes = [calling(claim, vm_id, Action.DELETE) for vm_id in vm_ids]
    deliveries = [calling(outbox.note_delivered, random.sample(ids, len(ids)), 0.0) for _ in range(20)]
    assert all(await race(engine, *deliveries, *deletes))
    assert {(await read_vm(engine, vm_id)).status for vm_id in vm_ids} == {Status.DELETING}


async def test_dispatchers_whose_leases_have_expired_do_not_deadlock(engine: AsyncEngine) -> None:
    _, ids = await _attaching(engine)
    delivered = [calling(outbox.note_delivered, random.sample(ids, 20), 0.0) for _ in range(15)]
    undelivered = [calling(outbox.note_undelivered, random.sample(ids, 20), 0.0) for _ in range(10)]
    leases = [calling(outbox.lease_operations, 16, 0.0) for _ in range(10)]
    assert all(await race(engine, *delivered, *undelivered, *leases))


async def _attaching(engine: AsyncEngine) -> tuple[list[UUID], list[UUID]]:
    """Ten VMs, each with three volumes being attached; return the ids of the VMs and of the operations."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vms = [await add_vm(tx, user) for _ in range(10)]
        operations = [await claim(tx, vm.id, Action.ATTACH_VOLUME) for _ in range(3) for vm in vms]
    return [vm.id for vm in vms], [operation.id for operation in operations]
