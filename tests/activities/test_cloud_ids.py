"""The rows keep the ids that the cloud has chosen; a resource without one is found by its mark."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode, images, ports, servers, volumes
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from activities.compute import ComputeActivities
from activities.snapshots import SnapshotActivities
from activities.waits import WaitActivities
from domain.data.models import VM, CloudResource, Interface, Snapshot, Volume
from domain.progress import step_records
from domain.rules.cloud import ServerStatus
from domain.rules.errors import SupersededError
from domain.rules.messages import Activity, FailOperationInput, OperationInput, WaitForServerInput
from domain.rules.states import Action, TaskState
from domain.settings import Settings
from tests.activities.cloud import cloud_contents, complete_changes, count_rows, free_servers, ports_of, refs
from tests.activities.conftest import Run
from tests.activities.mock_cloud import add_idle_server, add_image, add_volume, refused, status_of, token
from tests.activities.operations import add_pending_interface, prepare_operation
from tests.activities.steps import STEPS, Step, step_of
from tests.support.rows import add_held_vm, claim, read_vm

CREATES: dict[Activity, tuple[str, type[CloudResource], Any]] = {
    Activity.SPAWN_SERVER: ("create_server", VM, servers.c.id),
    Activity.CREATE_PORTS: ("create_ports", Interface, ports.c.cloud_id),
    Activity.CREATE_SERVER_IMAGE: ("create_server_image", Snapshot, images.c.cloud_id),
    Activity.CREATE_VOLUME: ("create_volume", Volume, volumes.c.cloud_id),
    Activity.CREATE_INTERFACE: ("create_server_interface", Interface, ports.c.cloud_id),
}
each_create = pytest.mark.parametrize("name", CREATES)


async def add_create(engine: AsyncEngine, cloud: MockBackend, name: Activity) -> tuple[OperationInput, Step]:
    """Add an operation before the step that creates something, and return the step, too."""
    if name in STEPS:
        return await prepare_operation(engine, cloud, STEPS[name][1]), step_of(name, engine, cloud)
    step = TaskState.NETWORKING if name is Activity.CREATE_PORTS else TaskState.SPAWNING
    input = await add_held_vm(engine, Action.CREATE, step=step)
    if name is Activity.CREATE_PORTS:
        await add_pending_interface(engine, input)
    return input, getattr(ComputeActivities(engine, cloud), name)


async def ids_of(engine: AsyncEngine, name: Activity) -> tuple[list[str | None], list[str]]:
    """Return the ids that the rows keep and those in the cloud, of what the step creates."""
    _, model, column = CREATES[name]
    async with engine.connect() as connection:
        kept, present = await connection.scalars(select(model.cloud_id)), await connection.scalars(select(column))
        return list(kept), [str(id) for id in present]


async def forget_ids(engine: AsyncEngine) -> None:
    """Let the rows keep no ids, as those of an earlier version."""
    async with engine.begin() as tx:
        for model in (VM, Snapshot, Volume, Interface):
            await tx.execute(update(model).values(cloud_id=None))


@each_create
async def test_the_row_keeps_the_id_of_the_cloud_also_after_a_lost_answer_and_a_retry(
    slow_backend: MockBackend, settings: Settings, engine: AsyncEngine, run: Run, name: Activity
) -> None:
    input, step = await add_create(engine, slow_backend, name)
    await add_fault(settings, CREATES[name][0], FaultMode.FAIL_AFTER_EFFECT)
    with pytest.raises(BackendError, match="lost the answer"):
        await run(step, input)
    kept, present = await ids_of(engine, name)
    assert (kept, len(present)) == ([None], 1)
    for _ in range(2):
        await run(step, input)
        assert await ids_of(engine, name) == (present, present)


@each_create
async def test_an_operation_that_was_superseded_during_its_call_keeps_no_id(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, name: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    input, step = await add_create(engine, slow_backend, name)
    create = getattr(slow_backend, CREATES[name][0])

    async def create_and_end(*arguments: Any) -> Any:
        created = await create(*arguments)
        async with engine.begin() as tx:
            if input.vm_id:
                await claim(tx, input.vm, Action.DELETE)
            else:
                await step_records.fail(tx, FailOperationInput(input, "timed_out", "It took too long."))
        return created

    monkeypatch.setattr(slow_backend, CREATES[name][0], create_and_end)
    with pytest.raises(SupersededError):
        await run(step, input)
    assert (await ids_of(engine, name))[0] == [None]


async def test_a_delete_finds_by_its_mark_what_a_superseded_build_has_left(
    backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    build, _ = await add_create(engine, backend, Activity.CREATE_PORTS)
    compute = ComputeActivities(engine, backend)
    for create in (compute.create_ports, compute.spawn_server):
        await run(create, build)
    await forget_ids(engine)
    async with engine.begin() as tx:
        delete = await claim(tx, build.vm, Action.DELETE)
    await run(compute.delete_server, OperationInput(delete.id, build.vm_id, Action.DELETE))
    assert await complete_changes(engine, backend, build.vm) is ServerStatus.GONE
    assert await count_rows(engine, "ports") == 0


@pytest.mark.parametrize("by", ["id", "mark"])
async def test_a_restored_server_has_the_image_of_the_snapshot(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, by: str
) -> None:
    input = await prepare_operation(engine, slow_backend, Action.RESTORE)
    if by == "id":
        image = (await slow_backend.list_images([Ref(input.resource)]))[input.resource]
        async with engine.begin() as tx:
            await tx.execute(update(Snapshot).values(cloud_id=image.cloud_id))
    snapshots = SnapshotActivities(engine, slow_backend)
    assert await run(snapshots.is_restored, input) is False
    await run(snapshots.rebuild_server, input)
    assert await run(snapshots.is_restored, input) is True
    if by == "id":
        await slow_backend.delete_image(token(), Ref(input.resource))
        assert await run(snapshots.is_restored, input) is True


async def test_the_end_of_a_build_keeps_the_ids_of_ports_that_an_earlier_version_has_created(
    backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input, create_ports = await add_create(engine, backend, Activity.CREATE_PORTS)
    await run(create_ports, input)
    await forget_ids(engine)
    await run(ComputeActivities(engine, backend).spawn_server, input)
    await complete_changes(engine, backend, input.vm)
    await run(WaitActivities(engine, backend).wait_for_server, WaitForServerInput(input, ServerStatus.ACTIVE))
    kept, present = await ids_of(engine, Activity.CREATE_PORTS)
    assert kept == present
    assert (await read_vm(engine, input.vm)).cloud_id is not None


async def test_a_ref_with_another_id_of_the_cloud_means_nothing(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id, volume_id = await add_idle_server(slow_backend, engine), await add_volume(slow_backend)
    image_id = await add_image(slow_backend, engine, vm_id)
    (port_id, *_) = await ports_of(slow_backend, vm_id)
    assert port_id
    before = await cloud_contents(engine)
    vm, volume, image, port = (Ref(id, str(uuid4())) for id in (vm_id, volume_id, image_id, port_id))
    assert await slow_backend.list_servers([vm]) == {}
    assert await slow_backend.list_volumes([volume]) == {}
    assert await slow_backend.list_images([image]) == {}
    for call in (
        slow_backend.purge(vm),
        slow_backend.delete_server(token(), vm),
        slow_backend.delete_volume(token(), volume),
        slow_backend.delete_image(token(), image),
        slow_backend.delete_server_interface(token(), Ref(vm_id), port),
    ):
        await call
    await refused(slow_backend.stop_server(token(), vm), "server_not_found")
    await refused(slow_backend.attach_volume(token(), Ref(vm_id), volume, None), "volume_not_found")
    assert await cloud_contents(engine) == before


async def test_a_ref_with_the_id_of_the_cloud_means_the_resource(backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id = await add_idle_server(backend, engine)
    volume = Ref(id := uuid4(), await backend.create_volume(token(), id, "data", 10))
    image = Ref(id := uuid4(), await backend.create_server_image(token(), Ref(vm_id), id, "before"))
    async with engine.connect() as connection:
        vm = Ref(vm_id, str(await connection.scalar(select(servers.c.id))))
    assert set(await backend.list_servers([vm])) == {vm_id}
    assert set(await backend.list_volumes([volume, *refs([uuid4()])])) == {volume.id}
    assert set(await backend.list_images([image])) == {image.id}
    await free_servers(engine)
    assert await backend.attach_volume(token(), vm, volume, None) == "/dev/sdb"
    await backend.detach_volume(token(), vm, volume)
    await backend.delete_volume(token(), volume)
    await backend.delete_image(token(), image)
    await backend.delete_server(token(), vm)
    assert await complete_changes(engine, backend, vm_id) is ServerStatus.GONE
    assert {len(rows) for rows in (await cloud_contents(engine)).values()} == {0}


async def test_a_repeated_create_of_what_is_gone_fails(backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id, once, id = await add_idle_server(backend, engine), token(), uuid4()
    await backend.create_volume(once, id, "data", 10)
    await backend.create_server_image(replace(once, step="image"), Ref(vm_id), id, "before")
    await backend.delete_volume(token(), Ref(id))
    await backend.delete_image(token(), Ref(id))
    await refused(backend.create_volume(once, id, "data", 10), "volume_gone")
    await refused(backend.create_server_image(replace(once, step="image"), Ref(vm_id), id, "before"), "image_gone")
    assert await status_of(backend, vm_id) is ServerStatus.ACTIVE
    await backend.create_volume(Token(uuid4(), "again"), id, "data", 10)
