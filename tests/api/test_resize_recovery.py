"""Workflow recovery of resizes: decisions whose signal may be lost, and confirms that are overdue."""

import logging
from datetime import timedelta
from typing import Any, cast

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus

from api.background import workflow_recovery
from api.background.dispatcher import Dispatcher
from api.background.workflow_recovery import WorkflowRecovery
from domain.commands import resize_decisions
from domain.commands.resize_decisions import CONFIRM_WINDOW_ACTOR
from domain.data import database
from domain.data.models import VM, Operation
from domain.data.queries import from_now
from domain.progress import workflow_input
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.api.dispatching import FakeTemporal, make_due, queue_operations
from tests.conftest import make_settings
from tests.support.rows import add_operation, add_user, add_vm, claim, read_operation, read_vm

QUEUED, RUNNING = OperationStatus.QUEUED, OperationStatus.RUNNING
OPEN = WorkflowExecutionStatus.RUNNING


@pytest.fixture
def client() -> FakeTemporal:
    """A Temporal client that knows no workflow yet."""
    return FakeTemporal()


@pytest.fixture
def recovery(engine: AsyncEngine, client: FakeTemporal) -> WorkflowRecovery:
    """A workflow recovery that checks only when the test says so."""
    fake = cast("Client", client)
    return WorkflowRecovery(engine, fake, Dispatcher(engine, fake, "queue"))


async def add_decision(engine: AsyncEngine, **values: Any) -> tuple[Operation, Operation]:
    """A resize that waits, and a confirm whose signal was sent to it; the check of the confirm is due."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        resize = await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
        confirm = await claim(tx, vm.id, Action.CONFIRM_RESIZE)
        due = {"deliveries": 1, "deliver_after": Operation.created_at}
        await tx.execute(update(Operation).where(Operation.id == confirm.id).values(due | values))
    return resize, await read_operation(engine, confirm.id)


@pytest.mark.parametrize("workflow_status", [OPEN, None, WorkflowExecutionStatus.TERMINATED])
async def test_a_decision_without_a_receipt_is_delivered_again_whatever_its_workflow_does(
    engine: AsyncEngine,
    recovery: WorkflowRecovery,
    client: FakeTemporal,
    workflow_status: WorkflowExecutionStatus | None,
) -> None:
    resize, confirm = await add_decision(engine)
    client.statuses[resize.workflow_id] = workflow_status
    await recovery.check()
    after = await read_operation(engine, confirm.id)
    assert (after.status, after.epoch, after.deliveries) == (QUEUED, 0, 0)
    assert after.workflow_id == resize.workflow_id


async def test_a_running_decision_is_signaled_again_because_its_resize_may_have_forgotten_it(
    engine: AsyncEngine, recovery: WorkflowRecovery, client: FakeTemporal
) -> None:
    resize, confirm = await add_decision(engine, status=RUNNING)
    client.statuses[resize.workflow_id] = OPEN
    await recovery.check()
    vm = await read_vm(engine, resize.resource_id)
    assert client.signals == [(resize.workflow_id, "confirm", workflow_input.input_of(confirm, vm.name))]
    await make_due(engine)
    await recovery.check()
    assert len(client.signals) == 1, "the same run of the workflow has it already"
    client.run_id = "run-after-a-reset"
    await make_due(engine)
    await recovery.check()
    assert len(client.signals) == 2
    after = await read_operation(engine, confirm.id)
    assert (after.status, after.epoch, after.workflow_id) == (RUNNING, 0, resize.workflow_id)


async def test_a_running_decision_is_signaled_again_after_pauses_that_double(
    engine: AsyncEngine, recovery: WorkflowRecovery, client: FakeTemporal
) -> None:
    """A Temporal that was restored from a backup has forgotten the signal, and its run has the same id as before."""
    resize, confirm = await add_decision(engine, status=RUNNING)
    client.statuses[resize.workflow_id] = OPEN
    for created, signaled, count in [(40, 40, 1), (70, 29, 1), (70, 40, 2), (1000, 490, 2), (1000, 510, 3)]:
        async with engine.begin() as tx:
            times = {"created_at": from_now(-created), "delivered_at": from_now(-signaled)}
            await tx.execute(update(Operation).where(Operation.id == confirm.id).values(times))
        await make_due(engine)
        await recovery.check()
        assert len(client.signals) == count
        after = await read_operation(engine, confirm.id)
        assert after.deliveries == 1 + count


async def test_a_running_decision_gets_its_own_workflow_if_its_resize_was_terminated(
    engine: AsyncEngine, recovery: WorkflowRecovery, client: FakeTemporal
) -> None:
    resize, confirm = await add_decision(engine, status=RUNNING)
    client.statuses[resize.workflow_id] = WorkflowExecutionStatus.TERMINATED
    await recovery.check()
    after = await read_operation(engine, confirm.id)
    assert after.workflow_id == f"confirm-resize-{confirm.vm_id}-{confirm.id}-1"
    assert after.interruption == "workflow_terminated"


@pytest.mark.parametrize(("late_by", "is_confirmed"), [(60.0, True), (5.0, False), (-60.0, False)])
async def test_an_overdue_resize_is_confirmed(
    engine: AsyncEngine, recovery: WorkflowRecovery, late_by: float, *, is_confirmed: bool
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
        await tx.execute(update(VM).values(confirm_by=from_now(-late_by)))
    await recovery.check()
    await recovery.check()
    after = await read_vm(engine, vm.id)
    assert after.task_state is (TaskState.RESIZE_CONFIRMING if is_confirmed else None)
    if is_confirmed:
        confirm = await read_operation(engine, after.operation_id)
        assert (confirm.action, confirm.actor) == (Action.CONFIRM_RESIZE, CONFIRM_WINDOW_ACTOR)


async def redelivered(engine: AsyncEngine, recovery: WorkflowRecovery, decision: Operation, **since: float) -> bool:
    """Whether a check puts a delivered decision back into the outbox; the keywords set its times, in seconds ago."""
    times = {name: from_now(-seconds) for name, seconds in since.items()}
    async with engine.begin() as tx:
        delivered = {"deliveries": 1, "deliver_after": Operation.created_at, **times}
        await tx.execute(update(Operation).where(Operation.id == decision.id).values(delivered))
    await recovery.check()
    return (await read_operation(engine, decision.id)).deliveries == 0


async def test_a_decision_without_a_receipt_is_delivered_again_in_another_run_or_after_pauses_that_double(
    engine: AsyncEngine, recovery: WorkflowRecovery, client: FakeTemporal
) -> None:
    resize, confirm = await add_decision(engine)
    client.statuses[resize.workflow_id] = OPEN
    assert await redelivered(engine, recovery, confirm, created_at=1, delivered_at=0)
    assert not await redelivered(engine, recovery, confirm, created_at=30, delivered_at=29)
    assert await redelivered(engine, recovery, confirm, created_at=62, delivered_at=31)
    assert not await redelivered(engine, recovery, confirm, created_at=10_000, delivered_at=4_990)
    assert await redelivered(engine, recovery, confirm, created_at=10_000, delivered_at=5_010)
    client.run_id = "run-after-a-reset"
    assert await redelivered(engine, recovery, confirm, created_at=10_000, delivered_at=10)
    client.statuses[resize.workflow_id] = WorkflowExecutionStatus.TERMINATED
    assert await redelivered(engine, recovery, confirm, created_at=10_000, delivered_at=10)


async def overdue_vms(engine: AsyncEngine, count: int) -> list[VM]:
    """VMs whose resize should have confirmed itself a minute ago or longer, the longest first."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vms = [await add_vm(tx, user, status=Status.VERIFY_RESIZE) for _ in range(count)]
        for number, vm in enumerate(vms):
            await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
            since = {"confirm_by": from_now(number - count - 60)}
            await tx.execute(update(VM).where(VM.id == vm.id).values(since))
    return vms


async def test_an_overdue_confirm_that_raises_does_not_stop_the_others(
    engine: AsyncEngine, recovery: WorkflowRecovery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vms = await overdue_vms(engine, 4)
    broken = {vm.id for vm in vms[:2]}
    original = resize_decisions.confirm_by_window

    async def confirm(tx: AsyncConnection, vm_id: Any, resize_id: Any) -> Operation | None:
        if vm_id in broken:
            raise LookupError("no resize")
        return await original(tx, vm_id, resize_id)

    monkeypatch.setattr(resize_decisions, "confirm_by_window", confirm)
    with caplog.at_level(logging.WARNING):
        await recovery.check()
    states = [(await read_vm(engine, vm.id)).task_state for vm in vms]
    assert states == [None, None, TaskState.RESIZE_CONFIRMING, TaskState.RESIZE_CONFIRMING]
    assert all(any(str(id) in message for message in caplog.messages) for id in broken)


async def test_confirms_that_always_raise_do_not_fill_every_batch(
    engine: AsyncEngine, recovery: WorkflowRecovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow_recovery, "BATCH", 2)
    *broken, healthy = await overdue_vms(engine, 4)
    async with engine.begin() as tx:
        gone = Operation.vm_id.in_([vm.id for vm in broken])
        await tx.execute(update(Operation).where(gone).values(input={}))
    for _ in range(60):
        await recovery.check()
        if (await read_vm(engine, healthy.id)).task_state:
            break
    assert (await read_vm(engine, healthy.id)).task_state is TaskState.RESIZE_CONFIRMING


async def test_fifty_checks_at_once_need_one_connection(
    database_url: str, engine: AsyncEngine, client: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside them, requests and the other background tasks have all others of the pool."""
    monkeypatch.setattr(database, "POOL_TIMEOUT", 0.2)
    small = database.create_engine(make_settings(database_url, db_pool_size=5, db_max_overflow=0))
    fake = cast("Client", client)
    recovery = WorkflowRecovery(small, fake, Dispatcher(small, fake, "queue"))
    await queue_operations(engine, workflow_recovery.BATCH)
    async with engine.begin() as tx:
        delivered = {"deliveries": 1, "deliver_after": func.now() - timedelta(seconds=1)}
        await tx.execute(update(Operation).values(delivered))
        await tx.execute(update(VM).values(status=Status.BUILDING, task_state=TaskState.SCHEDULING))
    async with small.connect(), small.connect(), small.connect(), small.connect():
        await recovery.check()  # all workflows are lost, so each check writes
    await small.dispose()
    async with engine.connect() as connection:
        restarted = select(func.count()).select_from(Operation).where(Operation.epoch == 1)
        assert await connection.scalar(restarted) == workflow_recovery.BATCH
