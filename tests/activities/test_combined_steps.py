"""Steps that share an activity: an attempt goes on where the one before has ended, and one success is recorded."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from activities.compute import ComputeActivities
from activities.endings import until_done
from activities.resize import ResizeActivities
from activities.snapshots import SnapshotActivities
from activities.waits import WaitActivities
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.errors import CanceledError, SupersededError
from domain.rules.messages import OperationInput, WaitForServerInput, WaitForVolumeInput
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.settings import Settings
from tests.activities.cloud import count_rows
from tests.activities.conftest import Run
from tests.activities.operations import add_claiming_operation, add_pending_interface
from tests.activities.polled_cloud import set_status
from tests.activities.resizes import accept_decision, add_resize, add_undecided_resize, complete_cloud_changes
from tests.activities.test_waits_volumes_images import add_saving_image, complete_images, set_state
from tests.support.rows import add_held_vm, claim, read_operation, read_vm


def wait_for(input: OperationInput, status: ServerStatus) -> WaitForServerInput:
    """Return the input of a wait that records the success."""
    return WaitForServerInput(input, status, records=True)


async def new_build(engine: AsyncEngine) -> OperationInput:
    """Add a VM with an interface that is to be built."""
    input = await add_held_vm(engine, Action.CREATE)
    await add_pending_interface(engine, input)
    return replace(input, combines=True)


async def test_one_activity_makes_the_ports_and_the_server(
    compute: ComputeActivities, engine: AsyncEngine, run: Run
) -> None:
    input = await new_build(engine)
    assert await run(compute.schedule_server, input) is True
    vm, operation = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
    assert (vm.task_state, operation.step, operation.progress) == (TaskState.SPAWNING, TaskState.SPAWNING, 66)
    assert vm.cloud_id is not None
    assert await count_rows(engine, "servers") == 1


async def test_a_workflow_of_an_older_version_gets_the_first_step_only(
    compute: ComputeActivities, engine: AsyncEngine, run: Run
) -> None:
    input = replace(await new_build(engine), combines=False)
    assert await run(compute.schedule_server, input) is False
    assert (await read_vm(engine, input.vm)).task_state is TaskState.SCHEDULING


@pytest.mark.parametrize(("verb", "step"), [("create_ports", "networking"), ("create_server", "spawning")])
@pytest.mark.parametrize("mode", [FaultMode.FAIL, FaultMode.FAIL_AFTER_EFFECT])
async def test_the_next_attempt_goes_on_with_the_step_that_failed(  # noqa: PLR0913, PLR0917 - fixtures
    compute: ComputeActivities,
    engine: AsyncEngine,
    settings: Settings,
    environment: ActivityEnvironment,
    verb: str,
    step: str,
    mode: FaultMode,
) -> None:
    input = await new_build(engine)
    await add_fault(settings, verb, mode)
    with pytest.raises(BackendError):
        await environment.run(compute.schedule_server, input)
    assert (await read_vm(engine, input.vm)).task_state == step
    environment.info = replace(environment.info, attempt=2)
    assert await environment.run(compute.schedule_server, input) is True
    vm, operation = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
    assert (vm.task_state, operation.attempt, operation.step) == (TaskState.SPAWNING, 2, TaskState.SPAWNING)
    assert await count_rows(engine, "servers") == 1
    assert await count_rows(engine, "calls") == 2


async def test_a_superseded_build_makes_nothing(compute: ComputeActivities, engine: AsyncEngine, run: Run) -> None:
    input = await new_build(engine)
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.DELETE)
    with pytest.raises(SupersededError):
        await run(compute.schedule_server, input)
    assert await count_rows(engine, "calls") == 0


async def test_a_build_whose_cancel_was_requested_makes_nothing(
    compute: ComputeActivities, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.CREATE, cancel_requested_by="ada")
    with pytest.raises(CanceledError):
        await run(compute.schedule_server, replace(input, combines=True))
    assert await count_rows(engine, "calls") == 0
    assert (await read_vm(engine, input.vm)).task_state is TaskState.SCHEDULING


async def test_the_wait_records_the_success(
    backend: MockBackend, compute: ComputeActivities, engine: AsyncEngine, run: Run
) -> None:
    input = await new_build(engine)
    await run(compute.schedule_server, input)
    assert await run(WaitActivities(engine, backend).wait_for_server, wait_for(input, ServerStatus.ACTIVE)) is True
    vm, operation = await read_vm(engine, input.vm), await read_operation(engine, input.operation_id)
    assert (vm.status, vm.task_state, vm.availability_zone) == (Status.ACTIVE, None, "nova")
    assert operation.status is OperationStatus.SUCCEEDED


async def test_a_wait_whose_answer_was_lost_finds_its_record_although_the_server_has_changed(
    backend: MockBackend, compute: ComputeActivities, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input, wait = await new_build(engine), WaitActivities(engine, backend).wait_for_server
    await environment.run(compute.schedule_server, input)
    await environment.run(wait, wait_for(input, ServerStatus.ACTIVE))
    await backend.purge(Ref(input.vm))
    environment.info = replace(environment.info, attempt=2)
    assert await environment.run(wait, wait_for(input, ServerStatus.ACTIVE)) is True


async def test_a_wait_of_a_superseded_operation_records_nothing(
    backend: MockBackend, compute: ComputeActivities, engine: AsyncEngine, run: Run
) -> None:
    input = await new_build(engine)
    await run(compute.schedule_server, input)
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.DELETE)
    with pytest.raises(SupersededError):
        await run(WaitActivities(engine, backend).wait_for_server, wait_for(input, ServerStatus.ACTIVE))
    assert (await read_operation(engine, input.operation_id)).status is OperationStatus.SUPERSEDED


async def test_a_move_is_checked_and_recorded_by_its_wait(
    backend: MockBackend, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    resize, wait = ResizeActivities(engine, backend), WaitActivities(engine, backend).wait_for_server
    input = replace(await add_resize(engine, backend), combines=True)
    assert await environment.run(resize.prepare_resize, input) is True
    assert (await read_vm(engine, input.vm)).task_state is TaskState.RESIZE_MIGRATING
    await complete_cloud_changes(engine, backend, input)
    assert await environment.run(wait, wait_for(input, ServerStatus.VERIFY_RESIZE)) is True
    assert (await read_vm(engine, input.vm)).status is Status.VERIFY_RESIZE
    decision = await accept_decision(engine, input, Action.REVERT_RESIZE)
    await environment.run(resize.revert_resize, decision)
    await complete_cloud_changes(engine, backend, decision)
    assert await environment.run(wait, wait_for(decision, ServerStatus.ACTIVE)) is True
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.task_state) == (Status.ACTIVE, None)


async def test_a_move_that_left_the_old_size_is_not_recorded(
    backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_resize(engine, backend, step=TaskState.RESIZE_MIGRATING)
    await set_status(engine, [input.vm], ServerStatus.VERIFY_RESIZE)
    with pytest.raises(BackendError) as refusal:
        await run(WaitActivities(engine, backend).wait_for_server, wait_for(input, ServerStatus.VERIFY_RESIZE))
    assert (refusal.value.code, refusal.value.retryable) == ("resize_not_applied", False)
    assert (await read_operation(engine, input.operation_id)).status is OperationStatus.RUNNING


async def test_a_decision_after_which_the_cloud_has_the_opposite_size_is_not_recorded(
    backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    resize = ResizeActivities(engine, backend)
    input = await add_undecided_resize(engine, backend, run, resize)
    decision = await accept_decision(engine, input, Action.REVERT_RESIZE)
    await set_status(engine, [input.vm], ServerStatus.ACTIVE)
    with pytest.raises(BackendError) as refusal:
        await run(WaitActivities(engine, backend).wait_for_server, wait_for(decision, ServerStatus.ACTIVE))
    assert refusal.value.code == "resize_not_applied"


async def test_a_cancel_does_not_interrupt_a_record() -> None:
    may_end, ended = asyncio.Event(), False

    async def record() -> None:
        nonlocal ended
        await may_end.wait()
        ended = True

    task = asyncio.create_task(until_done(record()))
    for _ in range(2):
        await asyncio.sleep(0)
        task.cancel()
    may_end.set()
    await task
    assert ended


@pytest.mark.parametrize(
    ("action", "state"),
    [
        (Action.CREATE_VOLUME, VolumeState.AVAILABLE),
        (Action.DELETE_VOLUME, VolumeState.GONE),
        (Action.ATTACH_VOLUME, VolumeState.IN_USE),
        (Action.DETACH_VOLUME, VolumeState.AVAILABLE),
    ],
)
async def test_the_wait_for_a_volume_records_the_success(
    backend: MockBackend, engine: AsyncEngine, environment: ActivityEnvironment, action: Action, state: VolumeState
) -> None:
    input = await add_claiming_operation(engine, action)
    if state is not VolumeState.GONE:
        await backend.create_volume(Token(uuid4(), "create"), input.resource, "data", 10)
        await set_state(engine, state)
    wait = WaitActivities(engine, backend).wait_for_volume
    assert await environment.run(wait, WaitForVolumeInput(input, state)) is False
    assert (await read_operation(engine, input.operation_id)).status is OperationStatus.RUNNING
    assert await environment.run(wait, WaitForVolumeInput(input, state, records=True)) is True
    assert (await read_operation(engine, input.operation_id)).status is OperationStatus.SUCCEEDED
    await set_state(engine, VolumeState.ERROR)
    environment.info = replace(environment.info, attempt=2)
    assert await environment.run(wait, WaitForVolumeInput(input, state, records=True)) is True


async def test_the_wait_for_an_image_records_the_success(
    backend: MockBackend, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = replace(await add_saving_image(engine, backend), combines=True)
    await environment.run(SnapshotActivities(engine, backend).upload_image, input)
    await complete_images(engine)
    for attempt in (1, 2):
        environment.info = replace(environment.info, attempt=attempt)
        assert await environment.run(WaitActivities(engine, backend).wait_for_image, input) is True
        assert (await read_operation(engine, input.operation_id)).status is OperationStatus.SUCCEEDED
        await complete_images(engine, "No space left.")
