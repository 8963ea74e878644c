"""The steps on servers: each is recorded first, takes effect once, and has no effect after it was superseded."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode, servers
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from activities.compute import ComputeActivities
from activities.records import RecordActivities
from activities.waits import WaitActivities
from domain.data.guests import UserData
from domain.progress import step_records
from domain.rules.cloud import ServerStatus
from domain.rules.errors import NotBegunError, SupersededError
from domain.rules.messages import Activity, FailOperationInput, OperationInput, WaitForServerInput
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.settings import Settings
from tests.activities.cloud import complete_changes, count_rows, new_ports, ports_of, server_row, server_spec
from tests.activities.conftest import Run
from tests.activities.operations import add_pending_interface
from tests.support.rows import add_held_vm, claim, read_operation, read_vm

STEPS = {
    TaskState.SCHEDULING: (Action.CREATE, Activity.SCHEDULE_SERVER),
    TaskState.NETWORKING: (Action.CREATE, Activity.CREATE_PORTS),
    TaskState.SPAWNING: (Action.CREATE, Activity.SPAWN_SERVER),
    TaskState.POWERING_ON: (Action.START, Activity.START_SERVER),
    TaskState.POWERING_OFF: (Action.STOP, Activity.STOP_SERVER),
    TaskState.REBOOTING: (Action.REBOOT_SOFT, Activity.REBOOT_SERVER),
    TaskState.REBOOTING_HARD: (Action.REBOOT_HARD, Activity.REBOOT_SERVER_HARD),
    TaskState.DELETING: (Action.DELETE, Activity.DELETE_SERVER),
}
each_step = pytest.mark.parametrize("step", STEPS)
NEEDS_NO_SERVER = {TaskState.SCHEDULING, TaskState.NETWORKING, TaskState.SPAWNING}


@pytest.fixture
def slow_compute(engine: AsyncEngine, slow_backend: MockBackend) -> ComputeActivities:
    """The steps on servers, on a cloud where no change completes by itself."""
    return ComputeActivities(engine, slow_backend)


def activity_of(compute: ComputeActivities, step: TaskState) -> Callable[[OperationInput], Awaitable[None]]:
    """Return the activity that carries out the step."""
    activity: Callable[[OperationInput], Awaitable[None]] = getattr(compute, STEPS[step][1])
    return activity


async def add_operation_before(
    engine: AsyncEngine, backend: MockBackend, step: TaskState, **values: Any
) -> OperationInput:
    """Add an operation before the step, with a server in the cloud if the step needs one."""
    input = await add_held_vm(engine, STEPS[step][0], step=step, **values)
    if step is TaskState.NETWORKING:
        await add_pending_interface(engine, input)
    if step not in NEEDS_NO_SERVER:
        status = ServerStatus.SHUTOFF if step is TaskState.POWERING_ON else ServerStatus.ACTIVE
        await _add_server(backend, engine, input, status)
    return input


async def _add_server(
    backend: MockBackend, engine: AsyncEngine, input: OperationInput, status: ServerStatus = ServerStatus.ACTIVE
) -> None:
    create = uuid4()
    await backend.create_ports(Token(create, "networking"), Ref(input.vm), new_ports())
    await backend.create_server(Token(create, "spawning"), server_spec(input.vm))
    async with engine.begin() as tx:
        settled = {"status": status, "next_status": None, "due_at": None}
        await tx.execute(update(servers).where(servers.c.vm_id == input.vm_id).values(settled))


async def cloud_of(engine: AsyncEngine, input: OperationInput) -> tuple[object, ...]:
    """Return what the cloud has of the VM."""
    return await server_row(engine, input.vm), await count_rows(engine, "ports", input.vm)


@each_step
async def test_a_step_that_runs_twice_takes_effect_once(
    slow_compute: ComputeActivities,
    slow_backend: MockBackend,
    engine: AsyncEngine,
    environment: ActivityEnvironment,
    step: TaskState,
) -> None:
    input = await add_operation_before(engine, slow_backend, step, status=OperationStatus.QUEUED)
    before = await cloud_of(engine, input)
    await environment.run(activity_of(slow_compute, step), input)
    once = await cloud_of(engine, input)
    environment.info = replace(environment.info, attempt=2)
    await environment.run(activity_of(slow_compute, step), input)
    assert await cloud_of(engine, input) == once
    assert (once == before) is (step is TaskState.SCHEDULING)
    operation = await read_operation(engine, input.operation_id)
    assert (operation.status, operation.step) == (OperationStatus.RUNNING, step)
    assert (operation.attempt, (await read_vm(engine, input.vm)).task_state) == (2, step)


@each_step
async def test_a_step_of_a_superseded_operation_has_no_effect(
    slow_compute: ComputeActivities,
    slow_backend: MockBackend,
    engine: AsyncEngine,
    run: Run,
    step: TaskState,
) -> None:
    input = await add_operation_before(engine, slow_backend, step)
    await _supersede(engine, input)
    before = await cloud_of(engine, input), await read_operation(engine, input.operation_id)
    with pytest.raises(SupersededError):
        await run(activity_of(slow_compute, step), input)
    assert (await cloud_of(engine, input), await read_operation(engine, input.operation_id)) == before
    assert (await read_vm(engine, input.vm)).operation_id != input.operation_id or step is TaskState.DELETING


@each_step
async def test_a_step_of_another_epoch_has_no_effect(
    slow_compute: ComputeActivities,
    slow_backend: MockBackend,
    engine: AsyncEngine,
    run: Run,
    step: TaskState,
) -> None:
    input = await add_operation_before(engine, slow_backend, step, epoch=1)
    before = await cloud_of(engine, input)
    with pytest.raises(SupersededError):
        await run(
            activity_of(slow_compute, step), OperationInput(input.operation_id, input.vm_id, input.action, epoch=0)
        )
    assert await cloud_of(engine, input) == before


async def test_a_step_is_recorded_even_if_its_call_fails(
    compute: ComputeActivities, engine: AsyncEngine, settings: Settings, run: Run
) -> None:
    input = await add_held_vm(engine, Action.CREATE, step=TaskState.NETWORKING)
    await add_fault(settings, "create_server", FaultMode.FAIL)
    with pytest.raises(BackendError):
        await run(compute.spawn_server, input)
    assert (await read_vm(engine, input.vm)).task_state is TaskState.SPAWNING
    assert await count_rows(engine, "servers") == 0
    await run(compute.spawn_server, input)
    assert await count_rows(engine, "servers", input.vm_id) == 1


async def test_building_a_flavor_too_large_for_every_host_fails_with_no_valid_host(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.CREATE, flavor="m1.colossal")
    for step in (compute.schedule_server, compute.create_ports, compute.spawn_server):
        await run(step, input)
    with pytest.raises(BackendError) as refusal:
        await run(WaitActivities(engine, backend).wait_for_server, WaitForServerInput(input, ServerStatus.ACTIVE))
    assert (refusal.value.code, refusal.value.retryable) == ("no_valid_host", False)


@pytest.mark.parametrize("networks", [[], ["private"], ["private", "backend", "edge"]])
async def test_a_port_is_created_for_each_interface_of_the_vm(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run, networks: list[str]
) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    neighbour = await add_held_vm(engine, Action.CREATE)
    await add_pending_interface(engine, neighbour)
    ids = [await add_pending_interface(engine, input, name) for name in networks]
    await run(compute.create_ports, input)
    assert await ports_of(backend, input.vm) == set(ids)
    assert await count_rows(engine, "ports") == len(networks)


async def test_the_server_has_the_size_of_its_flavor(compute: ComputeActivities, engine: AsyncEngine, run: Run) -> None:
    input = await add_held_vm(engine, Action.CREATE, step=TaskState.SPAWNING, flavor="m1.large")
    await run(compute.spawn_server, input)
    async with engine.connect() as connection:
        row = (await connection.execute(servers.select())).one()
    wanted = server_spec(input.vm, "m1.large")
    assert (row.vcpus, row.ram_mb, row.disk_gb) == (wanted.vcpus, wanted.ram_mb, wanted.disk_gb)


async def test_delete_removes_the_server_and_its_ports(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_operation_before(engine, backend, TaskState.DELETING)
    await run(compute.delete_server, input)
    async with engine.begin() as tx:
        await tx.execute(update(servers).values(due_at=servers.c.created_at))
    assert await backend.list_servers([Ref(input.vm)]) == {}
    assert await cloud_of(engine, input) == (None, 0)


async def test_undoing_a_build_removes_everything_and_refuses_its_later_calls(
    compute: ComputeActivities, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    await add_pending_interface(engine, input)
    for activity in (compute.schedule_server, compute.create_ports):
        await run(activity, input)
    for _ in range(2):
        await run(compute.undo_create, input)
        assert await cloud_of(engine, input) == (None, 0)
    with pytest.raises(BackendError, match="revoked"):
        await run(compute.spawn_server, input)
    assert await cloud_of(engine, input) == (None, 0)


async def test_undoing_a_build_without_any_step_fails_with_not_begun_and_refuses_later_calls(
    compute: ComputeActivities, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.CREATE, status=OperationStatus.QUEUED, started_at=None)
    with pytest.raises(NotBegunError):
        await run(compute.undo_create, input)
    await add_pending_interface(engine, input)
    with pytest.raises(BackendError, match="revoked"):
        await run(compute.create_ports, input)
    assert await count_rows(engine, "ports", input.vm_id) == 0


async def test_a_superseded_build_is_not_undone(compute: ComputeActivities, engine: AsyncEngine, run: Run) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    await add_pending_interface(engine, input)
    await run(compute.create_ports, input)
    await _supersede(engine, input)
    with pytest.raises(SupersededError):
        await run(compute.undo_create, input)
    assert await count_rows(engine, "ports", input.vm_id) == 1
    assert await count_rows(engine, "revocations") == 0


async def test_finishing_and_failing_an_operation_twice_is_recorded_once(engine: AsyncEngine, run: Run) -> None:
    records = RecordActivities(engine)
    stopped, failed = await add_held_vm(engine, Action.STOP), await add_held_vm(engine, Action.STOP)
    for _ in range(2):
        await run(records.finish_operation, stopped)
        await run(records.fail_operation, FailOperationInput(failed, "no_luck", "It went wrong."))
        assert (await read_vm(engine, stopped.vm)).status is Status.SHUTOFF
        assert (await read_vm(engine, failed.vm)).status is Status.ACTIVE
    with pytest.raises(SupersededError):
        await run(records.finish_operation, failed)


async def _supersede(engine: AsyncEngine, input: OperationInput) -> None:
    """Let a delete supersede the operation; a delete itself is ended without its workflow's knowledge."""
    async with engine.begin() as tx:
        if input.action is Action.DELETE:
            await step_records.fail(tx, FailOperationInput(input, "timed_out", "A step did not succeed in time."))
        else:
            await claim(tx, input.vm, Action.DELETE)


async def test_a_new_server_gets_the_user_data_of_its_vm_and_a_restore_keeps_it(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.CREATE, step=TaskState.SPAWNING)
    async with engine.begin() as tx:
        await tx.execute(insert(UserData).values(vm_id=input.vm, content=b"#!/bin/sh\necho hello"))
    await run(compute.spawn_server, input)
    await complete_changes(engine, backend, input.vm)
    assert "echo hello" in await backend.get_server_console_output(Ref(input.vm), 10)
    image_id = uuid4()
    await backend.create_server_image(Token(uuid4(), "snapshot"), Ref(input.vm), image_id, "before")
    await complete_changes(engine, backend, input.vm)
    spec = replace(server_spec(input.vm), image=Ref(image_id))
    await backend.rebuild_server(Token(uuid4(), "rebuild"), spec)
    await complete_changes(engine, backend, input.vm)
    assert "echo hello" in await backend.get_server_console_output(Ref(input.vm), 10)
