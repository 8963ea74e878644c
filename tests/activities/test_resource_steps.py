"""The steps on snapshots, volumes and interfaces: one effect however often they run, none once they are fenced."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode
from activities.backends.protocol import BackendError
from activities.interfaces import InterfaceActivities
from activities.snapshots import SnapshotActivities
from activities.steps import StepActivities
from activities.volumes import VolumeActivities
from domain.rules.errors import SupersededError
from domain.rules.messages import ENTERS, Activity, OperationInput
from domain.rules.states import Action, OperationStatus, Status
from domain.settings import Settings
from tests.activities.conftest import Do
from tests.activities.held import add_held, all_of, ready, supersede
from tests.support.rows import read_operation, read_vm

Step = Callable[[OperationInput], Awaitable[None]]
STEPS: dict[Activity, tuple[type[StepActivities], Action, str]] = {
    Activity.CREATE_SERVER_IMAGE: (SnapshotActivities, Action.SNAPSHOT, "create_server_image"),
    Activity.REBUILD_SERVER: (SnapshotActivities, Action.RESTORE, "rebuild_server"),
    Activity.DELETE_IMAGE: (SnapshotActivities, Action.DELETE_SNAPSHOT, "delete_image"),
    Activity.CREATE_VOLUME: (VolumeActivities, Action.CREATE_VOLUME, "create_volume"),
    Activity.DELETE_VOLUME: (VolumeActivities, Action.DELETE_VOLUME, "delete_volume"),
    Activity.ATTACH_VOLUME: (VolumeActivities, Action.ATTACH_VOLUME, "attach_volume"),
    Activity.DETACH_VOLUME: (VolumeActivities, Action.DETACH_VOLUME, "detach_volume"),
    Activity.CREATE_INTERFACE: (InterfaceActivities, Action.ATTACH_INTERFACE, "create_server_interface"),
    Activity.DELETE_INTERFACE: (InterfaceActivities, Action.DETACH_INTERFACE, "delete_server_interface"),
}
each_step = pytest.mark.parametrize("name", STEPS)
ERROR_AT_THE_END = {Activity.CREATE_SERVER_IMAGE, Activity.REBUILD_SERVER}  # which the cloud only begins


def step_of(name: Activity, engine: AsyncEngine, cloud: MockBackend) -> Step:
    """The activity of that name."""
    activity: Step = getattr(STEPS[name][0](engine, cloud), name)
    return activity


@each_step
async def test_a_step_that_runs_twice_has_its_effect_once(
    slow_backend: MockBackend, engine: AsyncEngine, environment: ActivityEnvironment, name: Activity
) -> None:
    input = await ready(engine, slow_backend, STEPS[name][1])
    before = await all_of(engine)
    await environment.run(step_of(name, engine, slow_backend), input)
    once = await all_of(engine)
    assert once != before
    received = (await read_operation(engine, input.operation_id)).started_at
    environment.info = replace(environment.info, attempt=2)
    await environment.run(step_of(name, engine, slow_backend), input)
    assert await all_of(engine) == once
    operation = await read_operation(engine, input.operation_id)
    assert (operation.status, operation.attempt, operation.step) == (OperationStatus.RUNNING, 2, ENTERS.get(name))
    assert received is not None
    assert operation.started_at == received
    if input.vm_id:
        vm = await read_vm(engine, input.vm)
        assert (vm.status, vm.task_state) == (Status.ACTIVE, ENTERS.get(name))


@each_step
async def test_a_superseded_operation_is_stopped_before_any_effect(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do, name: Activity
) -> None:
    input = await ready(engine, slow_backend, STEPS[name][1])
    await supersede(engine, input)
    before = await all_of(engine), await read_operation(engine, input.operation_id)
    with pytest.raises(SupersededError):
        await do(step_of(name, engine, slow_backend), input)
    assert (await all_of(engine), await read_operation(engine, input.operation_id)) == before


@each_step
async def test_another_epoch_is_stopped_before_any_effect(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do, name: Activity
) -> None:
    input = await ready(engine, slow_backend, STEPS[name][1])
    before = await all_of(engine)
    with pytest.raises(SupersededError):
        await do(step_of(name, engine, slow_backend), replace(input, epoch=1))
    assert await all_of(engine) == before


@each_step
@pytest.mark.parametrize("mode", [FaultMode.FAIL, FaultMode.REFUSE, FaultMode.FAIL_AFTER_EFFECT])
async def test_a_step_that_fails_before_or_after_its_effect_has_it_once_when_it_is_done_again(  # noqa: PLR0913, PLR0917
    slow_backend: MockBackend, settings: Settings, engine: AsyncEngine, do: Do, name: Activity, mode: FaultMode
) -> None:
    input = await ready(engine, slow_backend, STEPS[name][1])
    before = await all_of(engine)
    await add_fault(settings, STEPS[name][2], mode)
    with pytest.raises(BackendError) as failure:
        await do(step_of(name, engine, slow_backend), input)
    assert failure.value.retryable is (mode is not FaultMode.REFUSE)
    failed = await all_of(engine)
    assert (failed == before) is (mode is not FaultMode.FAIL_AFTER_EFFECT)
    await do(step_of(name, engine, slow_backend), input)
    done = await all_of(engine)
    assert done != before
    assert (done == failed) is (mode is FaultMode.FAIL_AFTER_EFFECT)


@each_step
async def test_a_step_whose_operation_was_revoked_has_no_effect(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do, name: Activity
) -> None:
    input = await ready(engine, slow_backend, STEPS[name][1])
    before = await all_of(engine)
    await slow_backend.revoke(input.operation_id)
    with pytest.raises(BackendError) as refusal:
        await do(step_of(name, engine, slow_backend), input)
    assert (refusal.value.code, refusal.value.retryable) == ("token_revoked", False)
    assert await all_of(engine) == before


@each_step
async def test_a_doomed_operation_fails_for_good_or_ends_in_error(
    slow_backend: MockBackend, unlucky: MockBackend, engine: AsyncEngine, do: Do, name: Activity
) -> None:
    input = await ready(engine, slow_backend, STEPS[name][1])
    before = await all_of(engine)
    step = step_of(name, engine, unlucky)
    if name in ERROR_AT_THE_END:
        await do(step, input)
        assert await all_of(engine) != before
        return
    for _ in range(2):
        with pytest.raises(BackendError) as refusal:
            await do(step, input)
        assert (refusal.value.code, refusal.value.retryable) == ("mock_error", False)
    assert await all_of(engine) == before


async def test_an_image_that_the_cloud_is_at_is_let_be(slow_backend: MockBackend, engine: AsyncEngine, do: Do) -> None:
    snapshots, input = SnapshotActivities(engine, slow_backend), await ready(engine, slow_backend, Action.SNAPSHOT)
    await do(snapshots.create_server_image, input)
    before = await all_of(engine)
    for _ in range(2):
        await do(snapshots.upload_image, input)
    assert await all_of(engine) == before
    assert (await read_vm(engine, input.vm)).task_state is ENTERS[Activity.UPLOAD_IMAGE]
    await supersede(engine, input)
    with pytest.raises(SupersededError):
        await do(snapshots.upload_image, input)


async def test_an_image_that_the_cloud_forgot_is_found_out(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input = await ready(engine, slow_backend, Action.SNAPSHOT)
    with pytest.raises(BackendError) as refusal:
        await do(SnapshotActivities(engine, slow_backend).upload_image, input)
    assert (refusal.value.code, refusal.value.retryable) == ("image_gone", False)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (Activity.CREATE_SERVER_IMAGE, "server_not_found"),
        (Activity.REBUILD_SERVER, "server_not_found"),
        (Activity.ATTACH_VOLUME, "server_not_found"),
        (Activity.CREATE_INTERFACE, "server_not_found"),
        (Activity.DELETE_IMAGE, None),
        (Activity.DELETE_VOLUME, None),
        (Activity.DETACH_VOLUME, None),
        (Activity.DELETE_INTERFACE, None),
    ],
)
async def test_what_is_not_there_is_taken_away_but_nothing_is_given_to_it(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do, name: Activity, code: str | None
) -> None:
    input, step = await add_held(engine, STEPS[name][1]), step_of(name, engine, slow_backend)
    before = await all_of(engine)
    if code is None:
        await do(step, input)
    else:
        with pytest.raises(BackendError) as refusal:
            await do(step, input)
        assert (refusal.value.code, refusal.value.retryable) == (code, False)
    assert await all_of(engine) == before
