"""The outbox on real PostgreSQL: leases for deliveries and for checks, and what is noted about them."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Operation
from domain.progress import outbox, workflow_input
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.support.rows import add_operation, add_user, add_vm, read_operation, read_vm

QUEUED = OperationStatus.QUEUED


async def queue(engine: AsyncEngine, count: int, **values: Any) -> list[UUID]:
    """Queue operations of a new user, the oldest first; returns their ids."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user)
        by: dict[str, Any] = {"actor": user.username, "requested_by": user.id}
        model = await add_operation(tx, vm, Action.STOP, status=QUEUED, **by | values)
        row = {name: getattr(model, name) for name in Operation.__table__.columns.keys() if name != "id"}  # noqa: SIM118
        rows = [row | {"deliver_after": model.deliver_after + timedelta(milliseconds=n)} for n in range(1, count)]
        ids = [model.id]
        if rows:
            added = insert(Operation).returning(Operation.id, sort_by_parameter_order=True)
            ids += (await tx.scalars(added, rows)).all()
        await tx.execute(update(Operation).values(deliver_after=Operation.deliver_after - timedelta(seconds=60)))
    return ids


async def lease(engine: AsyncEngine, limit: int = 100, seconds: float = 10.0) -> Sequence[UUID]:
    """Lease operations in a separate transaction; returns their ids."""
    async with engine.begin() as tx:
        return [operation.id for operation in await outbox.lease_operations(tx, limit, seconds)]


async def lease_all(engine: AsyncEngine) -> Sequence[Operation]:
    """Lease operations in a separate transaction; returns their rows."""
    async with engine.begin() as tx:
        return await outbox.lease_operations(tx, 100, 10.0)


async def database_now(engine: AsyncEngine) -> datetime:
    """The time of the database, which decides about leases."""
    async with engine.connect() as connection:
        now: datetime = (await connection.execute(select(func.now()))).scalar_one()
        return now


async def test_the_oldest_operations_come_first_up_to_the_limit(engine: AsyncEngine) -> None:
    ids = await queue(engine, 5)
    assert set(await lease(engine, limit=2)) == set(ids[:2])
    assert set(await lease(engine, limit=2)) == set(ids[2:4])
    assert set(await lease(engine, limit=2)) == set(ids[4:])
    assert await lease(engine) == []


async def test_a_lease_returns_the_whole_row(engine: AsyncEngine) -> None:
    (id,) = await queue(engine, 1)
    async with engine.begin() as tx:
        (leased,) = await outbox.lease_operations(tx, 1, 10.0)
    assert leased == await read_operation(engine, id)
    assert leased.action is Action.STOP
    assert leased.deliver_after - await database_now(engine) > timedelta(seconds=5)


async def test_an_operation_whose_lease_ran_out_is_leased_again(engine: AsyncEngine) -> None:
    ids = await queue(engine, 3)
    assert await lease(engine, seconds=0.0)
    assert set(await lease(engine, seconds=60.0)) == set(ids)
    assert await lease(engine) == []


async def test_a_rollback_undoes_a_lease(engine: AsyncEngine) -> None:
    ids = await queue(engine, 3)
    async with engine.connect() as connection:
        assert len(await outbox.lease_operations(connection, 10, 60.0)) == 3
        await connection.rollback()
    assert set(await lease(engine)) == set(ids)


async def test_a_lease_skips_what_another_transaction_is_leasing(engine: AsyncEngine) -> None:
    ids = await queue(engine, 4)
    async with engine.begin() as first, engine.begin() as second:
        mine = [operation.id for operation in await outbox.lease_operations(first, 2, 10.0)]
        async with asyncio.timeout(5):
            others = [operation.id for operation in await outbox.lease_operations(second, 10, 10.0)]
    assert set(mine) == set(ids[:2])
    assert set(others) == set(ids[2:])


async def test_twenty_concurrent_leases_share_fifty_operations(engine: AsyncEngine) -> None:
    ids = await queue(engine, 50)
    shares = await asyncio.gather(*(lease(engine, limit=3) for _ in range(20)))
    shares.append(await lease(engine))  # a lease skips rows that another one has locked at that moment
    leased = [id for share in shares for id in share]
    assert len(leased) == len(set(leased)) == 50
    assert set(leased) == set(ids)


async def test_only_queued_operations_are_leased(engine: AsyncEngine) -> None:
    (id,) = await queue(engine, 1)
    for status in set(OperationStatus) - {QUEUED}:
        finished_at = None if status is OperationStatus.RUNNING else func.now()
        async with engine.begin() as tx:
            changed = update(Operation).where(Operation.id == id)
            await tx.execute(changed.values(status=status, finished_at=finished_at))
        assert await lease(engine) == []


async def test_an_undelivered_operation_is_due_again_after_its_pause(engine: AsyncEngine) -> None:
    ids = await queue(engine, 3)
    await lease(engine, seconds=60.0)
    async with engine.begin() as tx:
        await outbox.note_undelivered(tx, ids[:2], 0.0)
        await outbox.note_undelivered(tx, ids[2:], 30.0)
    assert set(await lease(engine)) == set(ids[:2])
    later = await read_operation(engine, ids[2])
    assert later.deliver_after - await database_now(engine) > timedelta(seconds=20)
    assert later.deliveries == 0


async def test_a_delivered_operation_is_checked_later_and_again_after_each_pause(engine: AsyncEngine) -> None:
    delivered, _ = await queue(engine, 2)
    async with engine.begin() as tx:
        assert await outbox.lease_checks(tx, 10, 30.0) == []
        await outbox.note_delivered(tx, [delivered], 5.0)
        assert await outbox.lease_checks(tx, 10, 30.0) == []
        await tx.execute(update(Operation).values(deliver_after=func.now()))
    for _ in range(3):
        async with engine.begin() as tx:
            assert [operation.id for operation in await outbox.lease_checks(tx, 10, 0.0)] == [delivered]


async def test_a_running_operation_is_checked_even_if_no_delivery_was_noted(engine: AsyncEngine) -> None:
    (id,) = await queue(engine, 1)
    async with engine.begin() as tx:
        await tx.execute(update(Operation).values(status=OperationStatus.RUNNING, started_at=func.now()))
        assert [operation.id for operation in await outbox.lease_checks(tx, 10, 30.0)] == [id]
        ended = {"status": OperationStatus.SUCCEEDED, "finished_at": func.now(), "deliver_after": func.now()}
        await tx.execute(update(Operation).values(ended))
        assert await outbox.lease_checks(tx, 10, 30.0) == []


async def test_an_operation_without_a_workflow_is_restarted_from_its_first_step(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.BUILDING, task_state=TaskState.SPAWNING, launched=False)
        lost = await add_operation(tx, vm, Action.CREATE, deliveries=1, started_at=func.now())
    async with engine.begin() as tx:
        assert await outbox.restart(tx, lost)
    async with engine.begin() as tx:
        assert not await outbox.restart(tx, lost), "it was restarted before, so this epoch is over"
    (again,) = await lease_all(engine)
    assert (again.status, again.epoch, again.deliveries, again.interruption) == (QUEUED, 1, 0, None)
    assert again.workflow_id == f"{lost.workflow_id}-1"
    assert again.started_at == lost.started_at
    assert (await read_vm(engine, vm.id)).task_state is TaskState.SCHEDULING


async def test_the_workflow_of_a_restart_is_named_after_the_vm_or_after_the_resource_of_no_vm(
    engine: AsyncEngine,
) -> None:
    volume_id = uuid4()
    row: dict[str, Any] = {"resource_id": volume_id, "previous_status": None, "holds": False, "deliveries": 1}
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        create = await add_operation(tx, vm, Action.CREATE_VOLUME, **row | {"vm_id": None})
        attach = await add_operation(tx, vm, Action.ATTACH_VOLUME, **row)
        assert await outbox.restart(tx, create)
        assert await outbox.restart(tx, attach)
    created, attached = [await read_operation(engine, lost.id) for lost in (create, attach)]
    assert (created.status, created.epoch, attached.epoch) == (QUEUED, 1, 1)
    assert created.workflow_id == f"create-volume-{volume_id}-{create.id}-1"
    assert attached.workflow_id == f"attach-volume-{vm.id}-{attach.id}-1"


async def test_a_restart_leaves_a_vm_alone_that_another_operation_holds(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), task_state=TaskState.POWERING_OFF)
        await add_operation(tx, vm, Action.STOP)
        lost = await add_operation(tx, vm, Action.REBOOT_HARD, deliveries=1, holds=False)
        assert await outbox.restart(tx, lost)
    assert (await read_vm(engine, vm.id)).task_state is TaskState.POWERING_OFF


async def test_an_interrupted_operation_keeps_its_step_and_the_reason(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.BUILDING, task_state=TaskState.SPAWNING, launched=False)
        ended = await add_operation(tx, vm, Action.CREATE, deliveries=1)
    async with engine.begin() as tx:
        assert await outbox.restart(tx, ended, "workflow_terminated")
    (again,) = await lease_all(engine)
    assert workflow_input.input_of(again, vm.name).interruption == again.interruption == "workflow_terminated"
    assert (await read_vm(engine, vm.id)).task_state is TaskState.SPAWNING


async def test_notes_skip_what_another_transaction_has_locked(engine: AsyncEngine) -> None:
    """Waiting could deadlock: two processes may note several operations each."""
    locked, free = await queue(engine, 2)
    async with engine.begin() as other, engine.begin() as tx:
        await other.execute(select(Operation.id).where(Operation.id == locked).with_for_update())
        async with asyncio.timeout(5):
            await outbox.note_undelivered(tx, [locked, free], 30.0)
            await outbox.note_delivered(tx, [locked, free], 30.0)
    assert [(await read_operation(engine, id)).deliveries for id in (locked, free)] == [0, 1]


async def test_each_operation_counts_its_own_deliveries(engine: AsyncEngine) -> None:
    again, fresh, other = await queue(engine, 3)
    async with engine.begin() as tx:
        await outbox.note_delivered(tx, [again], 5.0)
        await outbox.note_delivered(tx, [again, fresh], 5.0)
    deliveries = [(await read_operation(engine, id)).deliveries for id in (again, fresh, other)]
    assert deliveries == [2, 1, 0]
    assert await lease(engine) == [other]


async def test_only_the_operation_itself_is_delivered_again_and_only_until_it_begins(engine: AsyncEngine) -> None:
    again, other, begun = await queue(engine, 3)
    async with engine.begin() as tx:
        await outbox.note_delivered(tx, [again, other, begun], 30.0)
        await tx.execute(update(Operation).where(Operation.id == begun).values(status=OperationStatus.RUNNING))
    async with engine.begin() as tx:
        for id in (again, begun):
            await outbox.deliver_again(tx, await read_operation(engine, id))
    assert await lease(engine) == [again]
    assert [(await read_operation(engine, id)).deliveries for id in (other, begun)] == [1, 1]
