"""Operations that were delivered are looked after: lost, closed and canceled workflows, overdue confirmations."""

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
from tests.support.rows import add_operation, add_user, add_vm, claim, read_operation, read_vm

QUEUED, RUNNING = OperationStatus.QUEUED, OperationStatus.RUNNING
OPEN = WorkflowExecutionStatus.RUNNING
CODES = {
    WorkflowExecutionStatus.TERMINATED: "workflow_terminated",
    WorkflowExecutionStatus.FAILED: "workflow_failed",
    WorkflowExecutionStatus.TIMED_OUT: "workflow_timed_out",
    WorkflowExecutionStatus.CANCELED: "canceled",
}


class Known:
    """A Temporal client that knows workflows by their status; None is one it does not have."""

    def __init__(self) -> None:
        self.status: dict[str, WorkflowExecutionStatus | None] = {}
        self.looked_at: list[str] = []
        self.canceled: list[str] = []
        self.signalled: list[tuple[str, str, OperationInput]] = []
        self.away = False

    def get_workflow_handle(self, workflow_id: str) -> Any:
        """Something that can be described and canceled."""
        client = self

        class Handle:
            async def describe(self, **_options: Any) -> Any:
                if client.away:
                    raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
                client.looked_at.append(workflow_id)
                self.status = client.status.get(workflow_id)
                if self.status is None:
                    raise RPCError("not found", RPCStatusCode.NOT_FOUND, b"")
                return self

            async def cancel(self, **_options: Any) -> None:
                client.canceled.append(workflow_id)

            async def signal(self, name: str, input: OperationInput, **_options: Any) -> None:
                client.signalled.append((workflow_id, name, input))

        return Handle()


@pytest.fixture
def known() -> Known:
    """What Temporal knows."""
    return Known()


@pytest.fixture
def recovery(engine: AsyncEngine, known: Known) -> WorkflowRecovery:
    """A recovery that looks when it is told to."""
    client = cast("Client", known)
    return WorkflowRecovery(engine, client, Dispatcher(engine, client, "queue"))


async def delivered(engine: AsyncEngine, action: Action = Action.STOP, **values: Any) -> Operation:
    """An operation on a VM of its own whose look is due."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.ACTIVE, task_state=TaskState.POWERING_OFF)
        return await add_operation(tx, vm, action, **{"deliveries": 1} | values)


async def make_due(engine: AsyncEngine) -> None:
    """Let it be time for the next look."""
    async with engine.begin() as tx:
        await tx.execute(update(Operation).values(deliver_after=Operation.created_at))


@pytest.mark.parametrize("status", [QUEUED, RUNNING])
async def test_an_operation_whose_workflow_is_open_is_left_alone(
    engine: AsyncEngine, recovery: WorkflowRecovery, known: Known, status: OperationStatus
) -> None:
    operation = await delivered(engine, status=status)
    known.status[operation.workflow_id] = OPEN
    await recovery.look()
    await recovery.look()
    assert known.looked_at == [operation.workflow_id], "the next look is not due yet"
    after = await read_operation(engine, operation.id)
    assert (after.status, after.epoch, after.workflow_id) == (status, 0, operation.workflow_id)


async def test_ended_and_undelivered_operations_are_not_looked_at(
    engine: AsyncEngine, recovery: WorkflowRecovery, known: Known
) -> None:
    await delivered(engine, status=OperationStatus.SUCCEEDED)
    await delivered(engine, status=QUEUED, deliveries=0)
    await recovery.look()
    assert known.looked_at == []


@pytest.mark.parametrize("status", [None, WorkflowExecutionStatus.COMPLETED])
@pytest.mark.parametrize("operation_status", [QUEUED, RUNNING])
async def test_a_lost_workflow_is_replaced(
    engine: AsyncEngine,
    recovery: WorkflowRecovery,
    known: Known,
    status: WorkflowExecutionStatus | None,
    operation_status: OperationStatus,
) -> None:
    operation = await delivered(engine, status=operation_status)
    known.status[operation.workflow_id] = status
    await recovery.look()
    again = await read_operation(engine, operation.id)
    assert (again.status, again.epoch, again.deliveries, again.interruption) == (QUEUED, 1, 0, None)


@pytest.mark.parametrize(("status", "code"), CODES.items())
async def test_a_workflow_that_closed_too_early_is_cleaned_up_after(
    engine: AsyncEngine, recovery: WorkflowRecovery, known: Known, status: WorkflowExecutionStatus, code: str
) -> None:
    operation = await delivered(engine)
    known.status[operation.workflow_id] = status
    await recovery.look()
    again = await read_operation(engine, operation.id)
    assert (again.status, again.epoch, again.interruption) == (QUEUED, 1, code)


async def test_an_operation_that_ended_during_the_look_stays_ended(
    engine: AsyncEngine, recovery: WorkflowRecovery, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await delivered(engine)

    async def ends_meanwhile(_id: str) -> WorkflowExecutionStatus:
        async with engine.begin() as tx:
            ended = {"status": OperationStatus.SUCCEEDED, "finished_at": func.now()}
            await tx.execute(update(Operation).values(ended))
        return WorkflowExecutionStatus.COMPLETED

    monkeypatch.setattr(recovery, "_status", ends_meanwhile)
    await recovery.look()
    after = await read_operation(engine, operation.id)
    assert (after.status, after.epoch) == (OperationStatus.SUCCEEDED, 0)
    assert known.canceled == []


async def decision(engine: AsyncEngine, **values: Any) -> tuple[Operation, Operation]:
    """A resize that waits, and the confirm that was signalled to it; its look is due."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        resize = await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
        confirm = await claim(tx, vm.id, Action.CONFIRM_RESIZE)
        due = {"deliveries": 1, "deliver_after": Operation.created_at}
        await tx.execute(update(Operation).where(Operation.id == confirm.id).values(due | values))
    return resize, await read_operation(engine, confirm.id)


@pytest.mark.parametrize("status", [OPEN, None, WorkflowExecutionStatus.TERMINATED])
async def test_a_signal_without_a_receipt_is_sent_again_to_whatever_is_there(
    engine: AsyncEngine, recovery: WorkflowRecovery, known: Known, status: WorkflowExecutionStatus | None
) -> None:
    resize, confirm = await decision(engine)
    known.status[resize.workflow_id] = status
    await recovery.look()
    again = await read_operation(engine, confirm.id)
    assert (again.status, again.epoch, again.deliveries) == (QUEUED, 0, 0)
    assert again.workflow_id == resize.workflow_id


async def test_a_decision_under_way_is_told_to_its_resize_again_which_may_have_forgotten_it(
    engine: AsyncEngine, recovery: WorkflowRecovery, known: Known
) -> None:
    resize, confirm = await decision(engine, status=RUNNING)
    known.status[resize.workflow_id] = OPEN
    await recovery.look()
    vm = await read_vm(engine, resize.resource_id)
    assert known.signalled == [(resize.workflow_id, "confirm", workflow_input.input_of(confirm, vm.name))]
    after = await read_operation(engine, confirm.id)
    assert (after.status, after.epoch, after.workflow_id) == (RUNNING, 0, resize.workflow_id)


async def test_a_decision_whose_resize_was_terminated_while_it_was_carried_out_gets_a_workflow_of_its_own(
    engine: AsyncEngine, recovery: WorkflowRecovery, known: Known
) -> None:
    resize, confirm = await decision(engine, status=RUNNING)
    known.status[resize.workflow_id] = WorkflowExecutionStatus.TERMINATED
    await recovery.look()
    again = await read_operation(engine, confirm.id)
    assert again.workflow_id == f"confirm-resize-{confirm.vm_id}-{confirm.id}-1"
    assert again.interruption == "workflow_terminated"


async def test_what_is_to_be_canceled_is_canceled_in_temporal_until_it_ends(
    engine: AsyncEngine, recovery: WorkflowRecovery, known: Known
) -> None:
    operation = await delivered(engine, cancel_requested_at=func.now(), cancel_requested_by="ada")
    known.status[operation.workflow_id] = OPEN
    await recovery.look()
    await make_due(engine)
    await recovery.look()
    assert known.canceled == [operation.workflow_id] * 2


async def test_while_temporal_is_away_nothing_is_taken_for_lost(
    engine: AsyncEngine, recovery: WorkflowRecovery, known: Known
) -> None:
    operation = await delivered(engine)
    known.away = True
    with pytest.raises(RPCError):
        await recovery.look()
    assert (await read_operation(engine, operation.id)).epoch == 0


@pytest.mark.parametrize(("late_by", "is_confirmed"), [(60.0, True), (5.0, False), (-60.0, False)])
async def test_a_resize_that_missed_its_time_to_confirm_itself_is_confirmed(
    engine: AsyncEngine, recovery: WorkflowRecovery, late_by: float, *, is_confirmed: bool
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
        await tx.execute(update(VM).values(confirm_by=from_now(-late_by)))
    await recovery.look()
    await recovery.look()
    after = await read_vm(engine, vm.id)
    assert after.task_state is (TaskState.RESIZE_CONFIRMING if is_confirmed else None)
    if is_confirmed:
        confirm = await read_operation(engine, after.operation_id)
        assert (confirm.action, confirm.actor) == (Action.CONFIRM_RESIZE, CONFIRM_WINDOW_ACTOR)
