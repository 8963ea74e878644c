"""The steps on snapshots, volumes and interfaces: they take effect once, and not after they were superseded."""

from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode
from activities.backends.protocol import BackendError
from activities.snapshots import SnapshotActivities
from domain.rules.errors import SupersededError
from domain.rules.messages import ENTERS, Activity
from domain.rules.states import Action, OperationStatus, Status
from domain.settings import Settings
from tests.activities.cloud import cloud_contents
from tests.activities.conftest import Run
from tests.activities.operations import add_claiming_operation, prepare_operation, supersede
from tests.activities.steps import STEPS, step_of
from tests.support.rows import read_operation, read_vm

each_step = pytest.mark.parametrize("name", STEPS)
FAILS_LATER = {Activity.CREATE_SERVER_IMAGE, Activity.REBUILD_SERVER}  # the call succeeds, the change fails later


@each_step
async def test_a_step_that_runs_twice_takes_effect_once(
    slow_backend: MockBackend, engine: AsyncEngine, environment: ActivityEnvironment, name: Activity
) -> None:
    input = await prepare_operation(engine, slow_backend, STEPS[name][1])
    before = await cloud_contents(engine)
    await environment.run(step_of(name, engine, slow_backend), input)
    once = await cloud_contents(engine)
    assert once != before
    received = (await read_operation(engine, input.operation_id)).started_at
    environment.info = replace(environment.info, attempt=2)
    await environment.run(step_of(name, engine, slow_backend), input)
    assert await cloud_contents(engine) == once
    operation = await read_operation(engine, input.operation_id)
    assert (operation.status, operation.attempt, operation.step) == (OperationStatus.RUNNING, 2, ENTERS.get(name))
    assert received is not None
    assert operation.started_at == received
    if input.vm_id:
        vm = await read_vm(engine, input.vm)
        assert (vm.status, vm.task_state) == (Status.ACTIVE, ENTERS.get(name))


@each_step
async def test_a_step_of_a_superseded_operation_has_no_effect(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, name: Activity
) -> None:
    input = await prepare_operation(engine, slow_backend, STEPS[name][1])
    await supersede(engine, input)
    before = await cloud_contents(engine), await read_operation(engine, input.operation_id)
    with pytest.raises(SupersededError):
        await run(step_of(name, engine, slow_backend), input)
    assert (await cloud_contents(engine), await read_operation(engine, input.operation_id)) == before


@each_step
async def test_a_step_of_another_epoch_has_no_effect(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, name: Activity
) -> None:
    input = await prepare_operation(engine, slow_backend, STEPS[name][1])
    before = await cloud_contents(engine)
    with pytest.raises(SupersededError):
        await run(step_of(name, engine, slow_backend), replace(input, epoch=1))
    assert await cloud_contents(engine) == before


@each_step
@pytest.mark.parametrize("mode", [FaultMode.FAIL, FaultMode.REFUSE, FaultMode.FAIL_AFTER_EFFECT])
async def test_a_step_that_failed_takes_effect_once_when_it_is_repeated(  # noqa: PLR0913, PLR0917
    slow_backend: MockBackend, settings: Settings, engine: AsyncEngine, run: Run, name: Activity, mode: FaultMode
) -> None:
    input = await prepare_operation(engine, slow_backend, STEPS[name][1])
    before = await cloud_contents(engine)
    await add_fault(settings, STEPS[name][2], mode)
    with pytest.raises(BackendError) as failure:
        await run(step_of(name, engine, slow_backend), input)
    assert failure.value.retryable is (mode is not FaultMode.REFUSE)
    failed = await cloud_contents(engine)
    assert (failed == before) is (mode is not FaultMode.FAIL_AFTER_EFFECT)
    await run(step_of(name, engine, slow_backend), input)
    done = await cloud_contents(engine)
    assert done != before
    assert (done == failed) is (mode is FaultMode.FAIL_AFTER_EFFECT)


@each_step
async def test_a_step_of_a_revoked_operation_has_no_effect(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, name: Activity
) -> None:
    input = await prepare_operation(engine, slow_backend, STEPS[name][1])
    before = await cloud_contents(engine)
    await slow_backend.revoke(input.operation_id)
    with pytest.raises(BackendError) as refusal:
        await run(step_of(name, engine, slow_backend), input)
    assert (refusal.value.code, refusal.value.retryable) == ("token_revoked", False)
    assert await cloud_contents(engine) == before


@each_step
async def test_a_step_of_a_doomed_operation_always_fails_or_ends_in_error(
    slow_backend: MockBackend, doomed_backend: MockBackend, engine: AsyncEngine, run: Run, name: Activity
) -> None:
    input = await prepare_operation(engine, slow_backend, STEPS[name][1])
    before = await cloud_contents(engine)
    step = step_of(name, engine, doomed_backend)
    if name in FAILS_LATER:
        await run(step, input)
        assert await cloud_contents(engine) != before
        return
    for _ in range(2):
        with pytest.raises(BackendError) as refusal:
            await run(step, input)
        assert (refusal.value.code, refusal.value.retryable) == ("mock_error", False)
    assert await cloud_contents(engine) == before


async def test_uploading_an_image_that_is_being_saved_changes_nothing(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    snapshots, input = (
        SnapshotActivities(engine, slow_backend),
        await prepare_operation(engine, slow_backend, Action.SNAPSHOT),
    )
    await run(snapshots.create_server_image, input)
    before = await cloud_contents(engine)
    for _ in range(2):
        await run(snapshots.upload_image, input)
    assert await cloud_contents(engine) == before
    assert (await read_vm(engine, input.vm)).task_state is ENTERS[Activity.UPLOAD_IMAGE]
    await supersede(engine, input)
    with pytest.raises(SupersededError):
        await run(snapshots.upload_image, input)


async def test_uploading_a_missing_image_fails(slow_backend: MockBackend, engine: AsyncEngine, run: Run) -> None:
    input = await prepare_operation(engine, slow_backend, Action.SNAPSHOT)
    with pytest.raises(BackendError) as refusal:
        await run(SnapshotActivities(engine, slow_backend).upload_image, input)
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
async def test_deleting_what_is_missing_succeeds_and_changing_a_missing_server_fails(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, name: Activity, code: str | None
) -> None:
    input, step = await add_claiming_operation(engine, STEPS[name][1]), step_of(name, engine, slow_backend)
    before = await cloud_contents(engine)
    if code is None:
        await run(step, input)
    else:
        with pytest.raises(BackendError) as refusal:
            await run(step, input)
        assert (refusal.value.code, refusal.value.retryable) == (code, False)
    assert await cloud_contents(engine) == before
