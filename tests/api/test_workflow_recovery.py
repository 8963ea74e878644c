"""Workflow recovery: lost, closed and canceled workflows, decisions without a receipt, overdue confirms."""

from typing import Any, cast

import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from api.background.dispatcher import Dispatcher
from api.background.workflow_recovery import WorkflowRecovery
from domain.commands.resize_decisions import CONFIRM_WINDOW_ACTOR
from domain.data.models import VM, Operation
from domain.data.queries import from_now
from domain.progress import workflow_input
from domain.rules.messages import OperationInput
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.api.dispatching import make_due
from tests.support.rows import add_operation, add_user, add_vm, claim, read_operation, read_vm

QUEUED, RUNNING = OperationStatus.QUEUED, OperationStatus.RUNNING
OPEN = WorkflowExecutionStatus.RUNNING
CODES = {
    WorkflowExecutionStatus.TERMINATED: "workflow_terminated",
    WorkflowExecutionStatus.FAILED: "workflow_failed",
    WorkflowExecutionStatus.TIMED_OUT: "workflow_timed_out",
    WorkflowExecutionStatus.CANCELED: "canceled",
}


class FakeTemporal:
    """A Temporal client with workflows of given statuses; a workflow that has none is unknown."""

    def __init__(self) -> None:
        self.statuses: dict[str, WorkflowExecutionStatus | None] = {}
        self.described: list[str] = []
        self.canceled: list[str] = []
        self.signals: list[tuple[str, str, OperationInput]] = []
        self.is_unavailable = False

    def get_workflow_handle(self, workflow_id: str) -> Any:
        """A handle that can be described, canceled and signaled."""
        client = self

        class Handle:
            async def describe(self, **_options: Any) -> Any:
                if client.is_unavailable:
                    raise RPCError("unavailable", RPCStatusCode.UNAVAILABLE, b"")
                client.described.append(workflow_id)
                self.status = client.statuses.get(workflow_id)
                if self.status is None:
                    raise RPCError("not found", RPCStatusCode.NOT_FOUND, b"")
                return self

            async def cancel(self, **_options: Any) -> None:
                client.canceled.append(workflow_id)

            async def signal(self, name: str, input: OperationInput, **_options: Any) -> None:
                client.signals.append((workflow_id, name, input))

        return Handle()


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

    async def end_operation(_id: str) -> WorkflowExecutionStatus:
        async with engine.begin() as tx:
            ended = {"status": OperationStatus.SUCCEEDED, "finished_at": func.now()}
            await tx.execute(update(Operation).values(ended))
        return WorkflowExecutionStatus.COMPLETED

    monkeypatch.setattr(recovery, "_status", end_operation)
    await recovery.check()
    after = await read_operation(engine, operation.id)
    assert (after.status, after.epoch) == (OperationStatus.SUCCEEDED, 0)
    assert client.canceled == []


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
    after = await read_operation(engine, confirm.id)
    assert (after.status, after.epoch, after.workflow_id) == (RUNNING, 0, resize.workflow_id)


async def test_a_running_decision_gets_its_own_workflow_if_its_resize_was_terminated(
    engine: AsyncEngine, recovery: WorkflowRecovery, client: FakeTemporal
) -> None:
    resize, confirm = await add_decision(engine, status=RUNNING)
    client.statuses[resize.workflow_id] = WorkflowExecutionStatus.TERMINATED
    await recovery.check()
    after = await read_operation(engine, confirm.id)
    assert after.workflow_id == f"confirm-resize-{confirm.vm_id}-{confirm.id}-1"
    assert after.interruption == "workflow_terminated"


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
