"""The steps of a resize: what they request from the cloud, what they check, and how they are undone."""

from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from activities.resize import ResizeActivities
from activities.waits import WaitActivities
from domain.data import queries
from domain.data.models import VM
from domain.progress import step_records, workflow_input
from domain.rules.cloud import ServerStatus
from domain.rules.errors import SupersededError
from domain.rules.messages import CheckFlavorInput, FailOperationInput, WaitForServerInput
from domain.rules.states import Action, Status, TaskState
from tests.activities.cloud import count_rows
from tests.activities.conftest import Run
from tests.activities.polled_cloud import set_status
from tests.activities.resizes import accept_decision, add_resize, add_undecided_resize, complete_cloud_changes
from tests.support.rows import FLAVOR_IDS, INPUTS, add_operation, claim, read_vm

SMALL, MEDIUM = FLAVOR_IDS["m1.small"], FLAVOR_IDS["m1.medium"]


@pytest.fixture
def resize(engine: AsyncEngine, backend: MockBackend) -> ResizeActivities:
    """The steps of a resize, on the cloud without delays."""
    return ResizeActivities(engine, backend)


async def test_the_cloud_keeps_the_old_size_until_the_decision(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_undecided_resize(engine, backend, run, resize)
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.task_state, vm.flavor_id, vm.confirm_by) == (Status.VERIFY_RESIZE, None, MEDIUM, None)
    assert await complete_cloud_changes(engine, backend, input) == (ServerStatus.VERIFY_RESIZE, 4096)
    assert await count_rows(engine, "migrations", input.vm_id) == 1


@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
@pytest.mark.parametrize(
    ("action", "flavor", "size"),
    [
        (Action.CONFIRM_RESIZE, MEDIUM, 4096),
        (Action.REVERT_RESIZE, SMALL, 2048),
    ],
)
async def test_a_decision_restores_the_power_state_and_keeps_one_flavor(  # noqa: PLR0913, PLR0917 - fixtures
    resize: ResizeActivities,
    backend: MockBackend,
    engine: AsyncEngine,
    run: Run,
    previous: Status,
    action: Action,
    flavor: object,
    size: int,
) -> None:
    input = await accept_decision(
        engine, await add_undecided_resize(engine, backend, run, resize, previous=previous), action
    )
    step = resize.confirm_resize if action is Action.CONFIRM_RESIZE else resize.revert_resize
    for _ in range(2):
        await run(step, input)
    assert await complete_cloud_changes(engine, backend, input) == (ServerStatus(str(previous)), size)
    assert await count_rows(engine, "migrations", input.vm_id) == 0
    async with engine.begin() as tx:
        await step_records.finish(tx, input)
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.task_state, vm.flavor_id) == (previous, None, flavor)


async def test_a_resize_to_a_flavor_without_a_host_fails_and_changes_nothing(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    colossal = INPUTS[Action.RESIZE] | {"flavor_id": str(FLAVOR_IDS["m1.colossal"])}
    input = await add_resize(engine, backend, input=colossal)
    for step in (resize.prepare_resize, resize.resize_server):
        await run(step, input)
    wait = WaitForServerInput(input, ServerStatus.VERIFY_RESIZE)
    with pytest.raises(BackendError) as refusal:
        await run(WaitActivities(engine, backend).wait_for_server, wait)
    assert (refusal.value.code, refusal.value.retryable) == ("no_valid_host", False)
    assert await complete_cloud_changes(engine, backend, input) == (ServerStatus.ACTIVE, 2048)
    assert await count_rows(engine, "migrations", input.vm_id) == 0


async def test_a_size_that_the_cloud_cannot_tell_now_is_looked_at_again(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_resize(engine, backend, step=TaskState.RESIZE_MIGRATING)
    await set_status(engine, [input.vm], ServerStatus.UNKNOWN)
    with pytest.raises(BackendError) as refusal:
        await run(resize.finish_resize, input)
    assert (refusal.value.code, refusal.value.retryable) == ("cloud_unavailable", True)


async def test_finishing_a_resize_fails_if_the_server_does_not_have_its_new_size(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_resize(engine, backend, step=TaskState.RESIZE_MIGRATING)
    with pytest.raises(BackendError) as refusal:
        await run(resize.finish_resize, input)
    assert (refusal.value.code, refusal.value.retryable) == ("resize_not_applied", False)


@pytest.mark.parametrize("action", [Action.CONFIRM_RESIZE, Action.REVERT_RESIZE])
async def test_the_check_fails_if_the_opposite_decision_was_made_in_the_cloud(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run, action: Action
) -> None:
    """Nova's own resize_confirm_window or an administrator can do that; the server is ACTIVE either way."""
    input = await accept_decision(engine, await add_undecided_resize(engine, backend, run, resize), action)
    other = Token(uuid4(), "by hand")
    if action is Action.CONFIRM_RESIZE:
        await backend.revert_server_resize(other, Ref(input.vm))
    else:
        await backend.confirm_server_resize(other, Ref(input.vm))
    await complete_cloud_changes(engine, backend, input)
    with pytest.raises(BackendError) as refusal:
        await run(resize.check_flavor, CheckFlavorInput(input))
    assert (refusal.value.code, refusal.value.retryable) == ("resize_not_applied", False)


async def test_the_check_compares_with_the_new_or_the_previous_flavor(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_resize(engine, backend)
    await run(resize.check_flavor, CheckFlavorInput(input, previous=True))
    with pytest.raises(BackendError, match="size of the expected flavor"):
        await run(resize.check_flavor, CheckFlavorInput(input))
    with pytest.raises(SupersededError):
        await run(resize.check_flavor, CheckFlavorInput(replace(input, operation_id=uuid4())))


async def test_another_decision_is_possible_after_one_was_canceled(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    verified = await add_undecided_resize(engine, backend, run, resize, previous=Status.SHUTOFF)
    confirm = await accept_decision(engine, verified, Action.CONFIRM_RESIZE)
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(confirm, "canceled", "Canceled.", canceled=True, intact=True))
    assert (await read_vm(engine, confirm.vm)).status is Status.VERIFY_RESIZE
    revert = await accept_decision(engine, verified, Action.REVERT_RESIZE)
    assert revert.previous_status is Status.SHUTOFF
    await run(resize.revert_resize, revert)
    assert await complete_cloud_changes(engine, backend, revert) == (ServerStatus.SHUTOFF, 2048)


async def test_undoing_a_resize_does_not_revert_an_earlier_one(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    """An admin reset the VM to ACTIVE during the earlier resize, and the cloud refused another one."""
    earlier = await add_undecided_resize(engine, backend, run, resize)
    async with engine.begin() as tx:
        vm = await queries.fetch_one(tx, select(VM).where(VM.id == earlier.vm_id))
        assert vm is not None
        sizes = {"flavor_id": str(SMALL), "previous_flavor_id": str(MEDIUM)}
        later = await add_operation(tx, vm, Action.RESIZE, input=INPUTS[Action.RESIZE] | sizes, started_at=func.now())
    await run(resize.undo_resize, workflow_input.input_of(later, vm.name))
    assert await complete_cloud_changes(engine, backend, earlier) == (ServerStatus.VERIFY_RESIZE, 4096)
    assert await count_rows(engine, "migrations", earlier.vm_id) == 1


async def test_undoing_reverts_the_resize_and_refuses_its_later_calls(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_resize(engine, backend, previous=Status.SHUTOFF)
    for step in (resize.prepare_resize, resize.resize_server):
        await run(step, input)
    await complete_cloud_changes(engine, backend, input)
    for _ in range(2):
        await run(resize.undo_resize, input)
    assert await complete_cloud_changes(engine, backend, input) == (ServerStatus.SHUTOFF, 2048)
    assert await count_rows(engine, "migrations", input.vm_id) == 0
    with pytest.raises(BackendError, match="revoked"):
        await run(resize.resize_server, input)
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(input, "canceled", "Canceled.", canceled=True, intact=True))
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.flavor_id) == (Status.SHUTOFF, SMALL)


async def test_a_superseded_resize_is_not_undone(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_resize(engine, backend)
    for step in (resize.prepare_resize, resize.resize_server):
        await run(step, input)
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.DELETE)
    with pytest.raises(SupersededError):
        await run(resize.undo_resize, input)
    assert await count_rows(engine, "migrations", input.vm_id) == 1
