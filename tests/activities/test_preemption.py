"""How a delete ends the workflows of the operations that it superseded, on a real Temporal server."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import revocations
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from activities.preemption import ACTS_AFTER_END, PreemptionActivities
from domain.rules.errors import SupersededError
from domain.rules.messages import OperationInput, WorkflowsInput
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.activities.cloud import count_rows
from tests.activities.conftest import Run
from tests.support.rows import add_operation, add_user, add_vm, claim, message, read_operation, read_vm

SUCCEEDED = OperationStatus.SUCCEEDED


@pytest.fixture
def preemption(engine: AsyncEngine, backend: MockBackend, temporal: Client) -> PreemptionActivities:
    """The activities, with a client of a real Temporal server."""
    return PreemptionActivities(engine, backend, temporal)


async def start_workflow(temporal: Client) -> WorkflowHandle[object, object]:
    """Start a workflow that stays open, because no worker polls its task queue."""
    return await temporal.start_workflow("NeverRuns", id=f"test-{uuid4()}", task_queue=f"test-{uuid4()}")


async def start_closed_workflow(temporal: Client) -> WorkflowHandle[object, object]:
    """Start a workflow and terminate it."""
    handle = await start_workflow(temporal)
    await handle.terminate()
    return handle


async def is_open(handle: WorkflowHandle[object, object]) -> bool:
    """Return whether the workflow is still running."""
    return (await handle.describe()).status is WorkflowExecutionStatus.RUNNING


async def cancel_requests(handle: WorkflowHandle[object, object]) -> int:
    """Return how many cancel requests the workflow has received."""
    wanted = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
    return len([event async for event in handle.fetch_history_events() if event.event_type == wanted])


async def add_delete(engine: AsyncEngine, *workflow_ids: str) -> tuple[OperationInput, list[OperationInput]]:
    """Add a delete that superseded operations with these workflows; return it and the operations."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        held = [await add_operation(tx, vm, Action.ATTACH_VOLUME, workflow_id=id) for id in workflow_ids]
        return message(await claim(tx, vm.id, Action.DELETE)), [message(operation) for operation in held]


async def test_open_workflows_are_canceled_and_returned_without_missing_and_closed_ones(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    running, closed = await start_workflow(temporal), await start_closed_workflow(temporal)
    missing = f"never-started-{uuid4()}"
    input, _ = await add_delete(engine, running.id, closed.id, missing)
    canceled = await run(preemption.preempt_operations, input)
    assert running.id in canceled
    assert missing not in canceled
    # A server may accept the cancel of a workflow that is closed already. Only its description tells.
    assert await run(preemption.list_open_workflows, WorkflowsInput(input, tuple(canceled))) == [running.id]
    assert await cancel_requests(running) == 1
    assert await cancel_requests(closed) == 0
    await running.terminate()


async def test_preempting_may_be_repeated(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    running = await start_workflow(temporal)
    input, _ = await add_delete(engine, running.id)
    for _ in range(2):
        assert await run(preemption.preempt_operations, input) == [running.id]
    assert await cancel_requests(running) >= 1
    await running.terminate()
    await run(preemption.preempt_operations, input)


async def test_calls_of_superseded_operations_are_refused(
    preemption: PreemptionActivities, engine: AsyncEngine, backend: MockBackend, run: Run
) -> None:
    input, superseded = await add_delete(engine, "missing-1", "missing-2")
    await run(preemption.preempt_operations, input)
    for operation in superseded:
        with pytest.raises(BackendError, match="revoked"):
            await backend.create_ports(Token(operation.operation_id, "networking"), Ref(input.vm), [])
    await backend.create_ports(Token(input.operation_id, "deleting"), Ref(input.vm), [])


async def test_only_superseded_operations_of_the_vm_are_canceled(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    failed, neighbours_workflow = await start_workflow(temporal), await start_workflow(temporal)
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, neighbour = await add_vm(tx, user), await add_vm(tx, user)
        await add_operation(tx, vm, Action.STOP, status=OperationStatus.FAILED, workflow_id=failed.id)
        await add_operation(tx, neighbour, Action.STOP, workflow_id=neighbours_workflow.id)
        delete = await claim(tx, vm.id, Action.DELETE)
    assert await run(preemption.preempt_operations, message(delete)) == []
    assert await cancel_requests(failed) == await cancel_requests(neighbours_workflow) == 0
    for handle in (failed, neighbours_workflow):
        await handle.terminate()


async def test_the_workflow_of_a_resize_that_awaits_its_decision_is_canceled(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    waiting = await start_workflow(temporal)
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
    waiting = await start_workflow(temporal)
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        await add_operation(tx, vm, Action.RESIZE, status=SUCCEEDED, workflow_id=waiting.id)
        confirm = await claim(tx, vm.id, Action.CONFIRM_RESIZE)
        delete = await claim(tx, vm.id, Action.DELETE)
    assert await run(preemption.preempt_operations, message(delete)) == [waiting.id]
    assert await cancel_requests(waiting) == 1
    with pytest.raises(BackendError, match="revoked"):
        await backend.confirm_server_resize(Token(confirm.id, "resize_confirming"), Ref(vm.id))
    await waiting.terminate()


async def test_of_succeeded_operations_only_the_resizes_of_the_vm_are_canceled(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    earlier, later, stopped, neighbours_workflow = [await start_workflow(temporal) for _ in range(4)]
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, neighbour = await add_vm(tx, user, status=Status.VERIFY_RESIZE), await add_vm(tx, user)
        succeeded = [
            (vm, Action.RESIZE, earlier),
            (vm, Action.RESIZE, later),
            (vm, Action.STOP, stopped),
            (neighbour, Action.RESIZE, neighbours_workflow),
        ]
        for minute, (of, action, handle) in enumerate(succeeded):
            created_at = vm.created_at + timedelta(minutes=minute)
            await add_operation(tx, of, action, status=SUCCEEDED, workflow_id=handle.id, created_at=created_at)
        delete = await claim(tx, vm.id, Action.DELETE)
    assert await run(preemption.preempt_operations, message(delete)) == sorted([earlier.id, later.id])
    assert [await cancel_requests(handle) for handle in (earlier, later, stopped, neighbours_workflow)] == [1, 1, 0, 0]
    for handle in (earlier, later, stopped, neighbours_workflow):
        await handle.terminate()


class CountingClient:
    """A Temporal client that knows no workflow and counts the calls that ask it about one."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_workflow_handle(self, workflow_id: str) -> Any:
        """Return a handle whose workflow is missing."""
        client = self

        class Handle:
            async def cancel(self) -> None:
                client.asked.append(workflow_id)
                raise RPCError("unknown", RPCStatusCode.NOT_FOUND, b"")

            describe = cancel

        return Handle()


async def revoked_operations(engine: AsyncEngine) -> set[UUID]:
    """Return the operations whose calls the cloud refuses."""
    async with engine.connect() as connection:
        return set(await connection.scalars(select(revocations.c.operation_id)))


async def test_a_delete_asks_only_about_the_workflows_that_may_be_open(
    engine: AsyncEngine, backend: MockBackend, run: Run
) -> None:
    """Not about every workflow that the VM ever had. Each question is two calls to Temporal."""
    recorded = (SUCCEEDED, OperationStatus.FAILED, OperationStatus.CANCELED)
    long_ago = datetime.now(UTC) - ACTS_AFTER_END - timedelta(minutes=1)
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, neighbour = await add_vm(tx, user), await add_vm(tx, user)
        await add_operation(tx, neighbour, Action.STOP, status=OperationStatus.SUPERSEDED)
        await add_operation(tx, neighbour, Action.RESIZE, status=SUCCEEDED)
        for action, status in product((Action.STOP, Action.RESIZE, Action.CONFIRM_RESIZE), OperationStatus):
            if status in {OperationStatus.FAILED, OperationStatus.CANCELED}:
                await add_operation(tx, vm, action, status=status)
            if status is OperationStatus.SUPERSEDED:
                await add_operation(tx, vm, action, status=status, finished_at=long_ago)
        await add_operation(tx, vm, Action.STOP, status=SUCCEEDED)
        for action, status in product((Action.CONFIRM_RESIZE, Action.REVERT_RESIZE), recorded):
            decided = await add_operation(tx, vm, Action.RESIZE, status=SUCCEEDED)
            await add_operation(tx, vm, action, status=status, workflow_id=decided.workflow_id)
        waiting = await add_operation(tx, vm, Action.RESIZE, status=SUCCEEDED)
        # A decision on it that something else superseded leaves the resize waiting.
        superseded: dict[str, Any] = {"status": OperationStatus.SUPERSEDED, "finished_at": long_ago}
        await add_operation(tx, vm, Action.CONFIRM_RESIZE, workflow_id=waiting.workflow_id, **superseded)
        running = await add_operation(tx, vm, Action.STOP)
        delete = await claim(tx, vm.id, Action.DELETE)
    client = CountingClient()
    await run(PreemptionActivities(engine, backend, cast("Client", client)).preempt_operations, message(delete))
    assert sorted(client.asked) == sorted([running.workflow_id, waiting.workflow_id] * 2)
    assert await revoked_operations(engine) == {running.id}


async def test_preempting_records_the_first_step_of_the_delete(
    preemption: PreemptionActivities, engine: AsyncEngine, run: Run
) -> None:
    input, _ = await add_delete(engine)
    await run(preemption.preempt_operations, input)
    operation = await read_operation(engine, input.operation_id)
    assert (operation.status, operation.step) == (OperationStatus.RUNNING, TaskState.DELETING)
    assert operation.started_at
    assert (await read_vm(engine, input.vm)).task_state is TaskState.DELETING


async def test_a_delete_of_another_epoch_preempts_nothing(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    running = await start_workflow(temporal)
    input, _ = await add_delete(engine, running.id)
    other_epoch = OperationInput(input.operation_id, input.vm_id, input.action, epoch=1)
    with pytest.raises(SupersededError):
        await run(preemption.preempt_operations, other_epoch)
    assert await cancel_requests(running) == 0
    assert await count_rows(engine, "revocations") == 0
    await running.terminate()


async def test_open_workflows_are_listed_and_terminated(
    preemption: PreemptionActivities, engine: AsyncEngine, temporal: Client, run: Run
) -> None:
    first, second, closed = (
        await start_workflow(temporal),
        await start_workflow(temporal),
        await start_closed_workflow(temporal),
    )
    input, _ = await add_delete(engine)
    workflows = WorkflowsInput(input, (first.id, closed.id, f"never-started-{uuid4()}", second.id))
    assert await run(preemption.list_open_workflows, workflows) == [first.id, second.id]
    for _ in range(2):
        await run(preemption.terminate_workflows, workflows)
        assert await run(preemption.list_open_workflows, workflows) == []
    assert not await is_open(first)
    assert not await is_open(second)


async def test_an_error_other_than_not_found_is_raised(
    preemption: PreemptionActivities, engine: AsyncEngine, run: Run
) -> None:
    """If every error counted as "not found", the delete would continue beside a workflow that still runs."""
    invalid_id = ""
    input, _ = await add_delete(engine, invalid_id)
    workflows = WorkflowsInput(input, (invalid_id,))
    for activity, argument in (
        (preemption.preempt_operations, input),
        (preemption.list_open_workflows, workflows),
        (preemption.terminate_workflows, workflows),
    ):
        with pytest.raises(RPCError) as refusal:
            await run(activity, argument)
        assert refusal.value.status is RPCStatusCode.INVALID_ARGUMENT
