"""The confirm window: how long it lasts, and who confirms the resize at its end."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.resize import ResizeActivities
from domain.commands import resize_decisions
from domain.data.models import VM
from domain.progress import step_records
from domain.rules.messages import OperationInput
from domain.rules.resize_messages import ClaimConfirmResult, ConfirmWindowResult
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.activities.conftest import Run
from tests.activities.resizes import accept_decision, add_undecided_resize, with_window
from tests.support.rows import read_operation, read_vm


@pytest.fixture
def resize(engine: AsyncEngine, backend: MockBackend) -> ResizeActivities:
    """The steps of a resize, on the cloud without delays."""
    return ResizeActivities(engine, backend)


async def test_the_confirm_window_is_counted_by_the_databases_clock(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_undecided_resize(engine, backend, run, resize, input=with_window(3600))
    window = await run(resize.read_confirm_window, input)
    assert 3590 < window.seconds <= 3600
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(confirm_by=func.now() - timedelta(seconds=60)))
    assert (await run(resize.read_confirm_window, input)).seconds < 0


@pytest.mark.parametrize("action", [None, Action.CONFIRM_RESIZE, Action.DELETE])
async def test_there_is_no_window_if_none_was_requested_or_the_decision_is_made(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run, action: Action | None
) -> None:
    input = await add_undecided_resize(engine, backend, run, resize, input=with_window(3600 if action else 0))
    if action:
        await accept_decision(engine, input, action)
    assert (await run(resize.read_confirm_window, input)).seconds is None


async def test_dropping_the_window_changes_nothing_else(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_undecided_resize(engine, backend, run, resize, input=with_window(3600))
    await run(resize.drop_confirm_window, input)
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.confirm_by, vm.operation_id) == (Status.VERIFY_RESIZE, None, input.operation_id)
    await accept_decision(engine, input, Action.REVERT_RESIZE)


async def test_the_end_of_the_window_claims_one_confirm_for_the_service_itself(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_undecided_resize(engine, backend, run, resize, input=with_window(1))
    claims = [(await run(resize.claim_confirm, input)).confirm for _ in range(2)]
    assert claims[0] == claims[1]
    assert claims[0] is not None
    assert claims[0].previous_status is Status.ACTIVE
    confirm = await read_operation(engine, claims[0].operation_id)
    resized = await read_operation(engine, input.operation_id)
    assert (confirm.actor, confirm.owner_id) == (resize_decisions.CONFIRM_WINDOW_ACTOR, resized.owner_id)
    assert (confirm.workflow_id, confirm.request_id) == (resized.workflow_id, resized.request_id)
    assert confirm.deliver_after > confirm.created_at
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.task_state) == (Status.VERIFY_RESIZE, TaskState.RESIZE_CONFIRMING)
    await run(resize.confirm_resize, claims[0])
    async with engine.begin() as tx:
        await step_records.finish(tx, claims[0])
    assert await run(resize.claim_confirm, input) == ClaimConfirmResult(None, is_over=True)
    assert await run(resize.read_confirm_window, input) == ConfirmWindowResult(None, is_over=True)


@pytest.mark.parametrize("action", [Action.CONFIRM_RESIZE, Action.REVERT_RESIZE, Action.DELETE])
async def test_the_end_of_the_window_claims_nothing_if_a_user_has_decided(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run, action: Action
) -> None:
    input = await add_undecided_resize(engine, backend, run, resize, input=with_window(1))
    other = await accept_decision(engine, input, action)
    before = await read_vm(engine, input.vm)
    assert await run(resize.claim_confirm, input) == ClaimConfirmResult(None, is_over=action is Action.DELETE)
    assert await read_vm(engine, input.vm) == before
    assert (await read_operation(engine, other.operation_id)).status is OperationStatus.QUEUED


async def test_an_earlier_resize_claims_nothing(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    """An operator reset the workflow of the earlier resize, but the VM has been resized again since."""
    input = await add_undecided_resize(engine, backend, run, resize)
    older = OperationInput(uuid4(), input.vm_id, Action.RESIZE)
    assert await run(resize.claim_confirm, older) == ClaimConfirmResult(None, is_over=True)
    await run(resize.drop_confirm_window, older)
    assert await run(resize.read_confirm_window, older) == ConfirmWindowResult(None, is_over=True)
