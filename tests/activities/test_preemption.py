"""What a delete does to the workflows it took over from, on a real Temporal server."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import BackendError, Token
from activities.preemption import PreemptionActivities
from domain.rules.errors import SupersededError
from domain.rules.messages import OperationInput, WorkflowsInput
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.activities.cloud import count_rows
from tests.activities.conftest import Run
from tests.support.rows import add_operation, add_user, add_vm, claim, message, read_operation, read_vm

SUCCEEDED = OperationStatus.SUCCEEDED


@pytest.fixture
def preemption(engine: AsyncEngine, backend: MockBackend, temporal: Client) -> PreemptionActivities:
    """The activities, on a real Temporal server."""
    return PreemptionActivities(engine, backend, temporal)


async def start(temporal: Client) -> WorkflowHandle[object, object]:
    """A workflow that nobody works on, so that it stays open."""
    return await temporal.start_workflow("Nobody", id=f"test-{uuid4()}", task_queue=f"test-{uuid4()}")


async def start_and_close(temporal: Client) -> WorkflowHandle[object, object]:
    """A workflow that is over."""
    handle = await start(temporal)
    await handle.terminate()
    return handle


async def is_open(handle: WorkflowHandle[object, object]) -> bool:
    """Whether the workflow still runs."""
    return (await handle.describe()).status is WorkflowExecutionStatus.RUNNING


async def cancel_requests(handle: WorkflowHandle[object, object]) -> int:
    """How often the workflow was asked to cancel itself."""
    wanted = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
    return len([event async for event in handle.fetch_history_events() if event.event_type == wanted])


async def deleting(engine: AsyncEngine, *workflow_ids: str) -> tuple[OperationInput, list[OperationInput]]:
    """A delete that took a VM over from operations with these workflows."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        held = [await add_operation(tx, vm, Action.ATTACH_VOLUME, workflow_id=id) for id in workflow_ids]
        return message(await claim(tx, vm.id, Action.DELETE)), [message(operation) for operation in held]


async def test_open_workflows_are_canceled_and_returned_without_missing_and_closed_ones(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    running, closed = await start(temporal), await start_and_close(temporal)
    missing = f"never-started-{uuid4()}"
    input, _ = await deleting(engine, running.id, closed.id, missing)
    canceled = await run(preemption.preempt_operations, input)
    assert running.id in canceled
    assert missing not in canceled
    # A server may accept to cancel a closed workflow, so that only a look tells.
    assert await run(preemption.list_open_workflows, WorkflowsInput(input, tuple(canceled))) == [running.id]
    assert await cancel_requests(running) == 1
    assert await cancel_requests(closed) == 0
    await running.terminate()


async def test_preempting_may_be_repeated(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    running = await start(temporal)
    input, _ = await deleting(engine, running.id)
    for _ in range(2):
        assert await run(preemption.preempt_operations, input) == [running.id]
    assert await cancel_requests(running) >= 1
    await running.terminate()
    await run(preemption.preempt_operations, input)


async def test_calls_of_superseded_operations_are_refused(
    preemption: PreemptionActivities, engine: AsyncEngine, backend: MockBackend, run: Run
) -> None:
    input, superseded = await deleting(engine, "missing-1", "missing-2")
    await run(preemption.preempt_operations, input)
    for operation in superseded:
        with pytest.raises(BackendError, match="revoked"):
            await backend.create_ports(Token(operation.operation_id, "networking"), input.vm, [])
    await backend.create_ports(Token(input.operation_id, "deleting"), input.vm, [])


async def test_only_superseded_operations_of_the_vm_are_canceled(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    over, neighbours = await start(temporal), await start(temporal)
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, neighbour = await add_vm(tx, user), await add_vm(tx, user)
        await add_operation(tx, vm, Action.STOP, status=OperationStatus.FAILED, workflow_id=over.id)
        await add_operation(tx, neighbour, Action.STOP, workflow_id=neighbours.id)
        delete = await claim(tx, vm.id, Action.DELETE)
    assert await run(preemption.preempt_operations, message(delete)) == []
    assert await cancel_requests(over) == await cancel_requests(neighbours) == 0
    for handle in (over, neighbours):
        await handle.terminate()


async def test_the_workflow_of_a_resize_that_awaits_its_decision_is_canceled(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    waiting = await start(temporal)
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        resize = await add_operation(tx, vm, Action.RESIZE, status=SUCCEEDED, workflow_id=waiting.id)
        delete = await claim(tx, vm.id, Action.DELETE)
    assert await run(preemption.preempt_operations, message(delete)) == [waiting.id]
    assert await cancel_requests(waiting) == 1
    assert (await read_operation(engine, resize.id)).status is SUCCEEDED
    await waiting.terminate()


async def test_a_decision_and_its_resize_share_one_workflow_that_is_canceled_once(
    preemption: PreemptionActivities, engine: AsyncEngine, backend: MockBackend, temporal: Client, run: Run
) -> None:
    waiting = await start(temporal)
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        await add_operation(tx, vm, Action.RESIZE, status=SUCCEEDED, workflow_id=waiting.id)
        confirm = await claim(tx, vm.id, Action.CONFIRM_RESIZE)
        delete = await claim(tx, vm.id, Action.DELETE)
    assert await run(preemption.preempt_operations, message(delete)) == [waiting.id]
    assert await cancel_requests(waiting) == 1
    with pytest.raises(BackendError, match="revoked"):
        await backend.confirm_server_resize(Token(confirm.id, "resize_confirming"), vm.id)
    await waiting.terminate()


async def test_of_succeeded_operations_only_the_resizes_of_the_vm_are_canceled(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    earlier, later, stopped, neighbours = [await start(temporal) for _ in range(4)]
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, neighbour = await add_vm(tx, user, status=Status.VERIFY_RESIZE), await add_vm(tx, user)
        succeeded = [
            (vm, Action.RESIZE, earlier),
            (vm, Action.RESIZE, later),
            (vm, Action.STOP, stopped),
            (neighbour, Action.RESIZE, neighbours),
        ]
        for minute, (of, action, handle) in enumerate(succeeded):
            asked = vm.created_at + timedelta(minutes=minute)
            await add_operation(tx, of, action, status=SUCCEEDED, workflow_id=handle.id, created_at=asked)
        delete = await claim(tx, vm.id, Action.DELETE)
    assert await run(preemption.preempt_operations, message(delete)) == sorted([earlier.id, later.id])
    assert [await cancel_requests(one) for one in (earlier, later, stopped, neighbours)] == [1, 1, 0, 0]
    for handle in (earlier, later, stopped, neighbours):
        await handle.terminate()


async def test_preempting_records_the_first_step_of_the_delete(
    preemption: PreemptionActivities, engine: AsyncEngine, run: Run
) -> None:
    input, _ = await deleting(engine)
    await run(preemption.preempt_operations, input)
    operation = await read_operation(engine, input.operation_id)
    assert (operation.status, operation.step) == (OperationStatus.RUNNING, TaskState.DELETING)
    assert operation.started_at
    assert (await read_vm(engine, input.vm)).task_state is TaskState.DELETING


async def test_a_delete_of_another_epoch_preempts_nothing(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    running = await start(temporal)
    input, _ = await deleting(engine, running.id)
    stranger = OperationInput(input.operation_id, input.vm_id, input.action, epoch=1)
    with pytest.raises(SupersededError):
        await run(preemption.preempt_operations, stranger)
    assert await cancel_requests(running) == 0
    assert await count_rows(engine, "revocations") == 0
    await running.terminate()


async def test_open_workflows_are_listed_and_terminated(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    first, second, closed = await start(temporal), await start(temporal), await start_and_close(temporal)
    input, _ = await deleting(engine)
    asked = WorkflowsInput(input, (first.id, closed.id, f"never-started-{uuid4()}", second.id))
    assert await run(preemption.list_open_workflows, asked) == [first.id, second.id]
    for _ in range(2):
        await run(preemption.terminate_workflows, asked)
        assert await run(preemption.list_open_workflows, asked) == []
    assert not await is_open(first)
    assert not await is_open(second)


async def test_an_error_other_than_not_found_is_raised(
    preemption: PreemptionActivities, engine: AsyncEngine, run: Run
) -> None:
    """Taken for "missing", it would let the delete go on beside what it should have ended."""
    refused = ""  # not an id to the server
    input, _ = await deleting(engine, refused)
    asked = WorkflowsInput(input, (refused,))
    for activity, argument in (
        (preemption.preempt_operations, input),
        (preemption.list_open_workflows, asked),
        (preemption.terminate_workflows, asked),
    ):
        with pytest.raises(RPCError) as refusal:
            await run(activity, argument)
        assert refusal.value.status is RPCStatusCode.INVALID_ARGUMENT
