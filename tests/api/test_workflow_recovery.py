"""Workflow recovery: lost, closed and canceled workflows."""

import logging
from typing import Any, cast

import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from api.background.dispatcher import Dispatcher
from api.background.workflow_recovery import WorkflowRecovery
from domain.data.models import Operation
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.api.dispatching import FakeTemporal, make_due
from tests.support.rows import add_operation, add_user, add_vm, read_operation

QUEUED, RUNNING = OperationStatus.QUEUED, OperationStatus.RUNNING
OPEN = WorkflowExecutionStatus.RUNNING
CODES = {
    WorkflowExecutionStatus.TERMINATED: "workflow_terminated",
    WorkflowExecutionStatus.FAILED: "workflow_failed",
    WorkflowExecutionStatus.TIMED_OUT: "workflow_timed_out",
    WorkflowExecutionStatus.CANCELED: "canceled",
}


@pytest.fixture
def client() -> FakeTemporal:
    """A Temporal client that knows no workflow yet."""
    return FakeTemporal()


@pytest.fixture
def recovery(engine: AsyncEngine, client: FakeTemporal) -> WorkflowRecovery:
    """A workflow recovery that checks only when the test says so."""
    fake = cast("Client", client)
    return WorkflowRecovery(engine, fake, Dispatcher(engine, fake, "queue"))


async def add_delivered(engine: AsyncEngine, action: Action = Action.STOP, **values: Any) -> Operation:
    """A delivered operation on a new VM; its check is due."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.ACTIVE, task_state=TaskState.POWERING_OFF)
        return await add_operation(tx, vm, action, **{"deliveries": 1} | values)


@pytest.mark.parametrize("status", [QUEUED, RUNNING])
async def test_an_operation_with_an_open_workflow_is_left_alone(
    engine: AsyncEngine, recovery: WorkflowRecovery, client: FakeTemporal, status: OperationStatus
) -> None:
    operation = await add_delivered(engine, status=status)
    client.statuses[operation.workflow_id] = OPEN
    await recovery.check()
    await recovery.check()
    assert client.described == [operation.workflow_id], "the next check is not due yet"
    after = await read_operation(engine, operation.id)
    assert (after.status, after.epoch, after.workflow_id) == (status, 0, operation.workflow_id)


async def test_ended_and_undelivered_operations_are_not_checked(
    engine: AsyncEngine, recovery: WorkflowRecovery, client: FakeTemporal
) -> None:
    await add_delivered(engine, status=OperationStatus.SUCCEEDED)
    await add_delivered(engine, status=QUEUED, deliveries=0)
    await recovery.check()
    assert client.described == []


@pytest.mark.parametrize("workflow_status", [None, WorkflowExecutionStatus.COMPLETED])
@pytest.mark.parametrize("status", [QUEUED, RUNNING])
async def test_a_lost_workflow_is_replaced(
    engine: AsyncEngine,
    recovery: WorkflowRecovery,
    client: FakeTemporal,
    workflow_status: WorkflowExecutionStatus | None,
    status: OperationStatus,
) -> None:
    operation = await add_delivered(engine, status=status)
    client.statuses[operation.workflow_id] = workflow_status
    await recovery.check()
    after = await read_operation(engine, operation.id)
    assert (after.status, after.epoch, after.deliveries, after.interruption) == (QUEUED, 1, 0, None)


@pytest.mark.parametrize(("workflow_status", "code"), CODES.items())
async def test_a_workflow_that_closed_too_early_is_replaced_by_one_that_undoes_its_work(
    engine: AsyncEngine,
    recovery: WorkflowRecovery,
    client: FakeTemporal,
    workflow_status: WorkflowExecutionStatus,
    code: str,
) -> None:
    operation = await add_delivered(engine)
    client.statuses[operation.workflow_id] = workflow_status
    await recovery.check()
    after = await read_operation(engine, operation.id)
    assert (after.status, after.epoch, after.interruption) == (QUEUED, 1, code)


async def test_an_operation_that_ends_during_its_check_stays_ended(
    engine: AsyncEngine, recovery: WorkflowRecovery, client: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await add_delivered(engine)

    async def end_operation(_id: str) -> tuple[WorkflowExecutionStatus, str]:
        async with engine.begin() as tx:
            ended = {"status": OperationStatus.SUCCEEDED, "finished_at": func.now()}
            await tx.execute(update(Operation).values(ended))
        return WorkflowExecutionStatus.COMPLETED, ""

    monkeypatch.setattr(recovery, "_look", end_operation)
    await recovery.check()
    after = await read_operation(engine, operation.id)
    assert (after.status, after.epoch) == (OperationStatus.SUCCEEDED, 0)
    assert client.canceled == []


async def test_a_requested_cancel_is_sent_to_temporal_in_every_check(
    engine: AsyncEngine, recovery: WorkflowRecovery, client: FakeTemporal
) -> None:
    operation = await add_delivered(engine, cancel_requested_at=func.now(), cancel_requested_by="ada")
    client.statuses[operation.workflow_id] = OPEN
    await recovery.check()
    await make_due(engine)
    await recovery.check()
    assert client.canceled == [operation.workflow_id] * 2


async def test_no_workflow_counts_as_lost_while_temporal_is_unavailable(
    engine: AsyncEngine, recovery: WorkflowRecovery, client: FakeTemporal
) -> None:
    operation = await add_delivered(engine)
    client.is_unavailable = True
    with pytest.raises(RPCError):
        await recovery.check()
    assert (await read_operation(engine, operation.id)).epoch == 0


def test_an_outage_whose_reasons_alternate_is_logged_once_for_each_reason(
    recovery: WorkflowRecovery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api.background.workflow_recovery")
    for outcome in ("refused", "starting up", "refused", "starting up", None, None, "refused"):
        recovery._note(outcome)
    failed = "could not check the workflows of operations: "
    again = "the workflows of operations are checked again"
    assert caplog.messages == [f"{failed}refused", f"{failed}starting up", again, f"{failed}refused"]
