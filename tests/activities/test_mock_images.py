"""The mock cloud's images: what they hold, and how servers are restored from them."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import images, servers
from activities.backends.resources import Image, Ref
from domain.rules.cloud import ImageState, ServerStatus
from domain.settings import Settings
from tests.activities.cloud import complete_changes, disk_content, open_backend, server_spec
from tests.activities.mock_cloud import (
    POWER_CHANGES,
    add_idle_server,
    add_image,
    each_power_change,
    on_or_off,
    power_before,
    refused_without_effect,
    token,
)

SNAPSHOT_DELAY = timedelta(seconds=17)
BOOTS = {"start", "reboot", "hard reboot"}
MEDIUM = {"vcpus": 2, "ram_mb": 4096, "disk_gb": 40}


async def cloud_id_of(cloud: MockBackend, image_id: UUID) -> str:
    """Return the cloud's own id of the image."""
    return (await cloud.list_images([Ref(image_id)]))[image_id].cloud_id


@pytest.mark.parametrize("verb", POWER_CHANGES)
async def test_only_a_boot_changes_the_disk(slow_backend: MockBackend, engine: AsyncEngine, verb: str) -> None:
    vm_id = await add_idle_server(slow_backend, engine, power_before(verb))
    neighbour = await add_idle_server(slow_backend, engine)
    content = {id: await disk_content(engine, id) for id in (vm_id, neighbour)}
    assert len({None, *content.values()}) == 3
    call, _ = POWER_CHANGES[verb]
    await call(slow_backend, token(), vm_id)
    await complete_changes(engine, slow_backend, vm_id)
    assert (await disk_content(engine, vm_id) != content[vm_id]) is (verb in BOOTS)
    assert await disk_content(engine, neighbour) == content[neighbour]


@on_or_off
async def test_a_restore_brings_back_disk_image_and_size_and_keeps_the_power_state(
    slow_backend: MockBackend, engine: AsyncEngine, previous: ServerStatus
) -> None:
    vm_id = await add_idle_server(slow_backend, engine, previous)
    content, image_id = await disk_content(engine, vm_id), await add_image(slow_backend, engine, vm_id)
    await slow_backend.reboot_server(token(), Ref(vm_id), hard=True)
    await complete_changes(engine, slow_backend, vm_id)
    if previous is ServerStatus.SHUTOFF:
        await slow_backend.stop_server(token(), Ref(vm_id))
        await complete_changes(engine, slow_backend, vm_id)
    assert await disk_content(engine, vm_id) != content
    await slow_backend.rebuild_server(token(), replace(server_spec(vm_id, "m1.medium"), image=Ref(image_id)))
    during = (await slow_backend.list_servers([Ref(vm_id)]))[vm_id]
    assert (during.status, during.is_busy) == (ServerStatus.REBUILD, True)
    assert await complete_changes(engine, slow_backend, vm_id) is previous
    after = (await slow_backend.list_servers([Ref(vm_id)]))[vm_id]
    assert (await disk_content(engine, vm_id), after.image_id) == (content, await cloud_id_of(slow_backend, image_id))
    assert {name: getattr(after, name) for name in MEDIUM} == MEDIUM


async def test_an_image_holds_the_disk_as_it_was_when_it_was_saved(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, image_id = await add_idle_server(slow_backend, engine), uuid4()
    content = await disk_content(engine, vm_id)
    await slow_backend.create_server_image(token(), Ref(vm_id), image_id, "before")
    await complete_changes(engine, slow_backend, vm_id)
    await slow_backend.reboot_server(token(), Ref(vm_id), hard=False)
    await complete_changes(engine, slow_backend, vm_id)
    assert await disk_content(engine, vm_id) != content
    await slow_backend.rebuild_server(token(), replace(server_spec(vm_id), image=Ref(image_id)))
    assert await disk_content(engine, vm_id) == content


async def test_an_image_is_saving_until_it_is_due(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id, image_id = await add_idle_server(slow_backend, engine), uuid4()
    cloud_id = await slow_backend.create_server_image(token(), Ref(vm_id), image_id, "before")
    saving = Image(image_id, cloud_id, ImageState.SAVING)
    assert await slow_backend.list_images([Ref(image_id)]) == {image_id: saving}
    await complete_changes(engine, slow_backend, vm_id)
    saved = {image_id: replace(saving, state=ImageState.ACTIVE)}
    assert await slow_backend.list_images([Ref(image_id), Ref(uuid4())]) == saved


async def test_a_snapshot_and_a_restore_take_the_snapshot_delay(
    settings: Settings, slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, image_id = await add_idle_server(slow_backend, engine), uuid4()
    cloud = await open_backend(settings, mock_snapshot_delay=SNAPSHOT_DELAY.total_seconds())
    began = await _time(engine, func.clock_timestamp())
    await cloud.create_server_image(token(), Ref(vm_id), image_id, "before")
    ended = await _time(engine, func.clock_timestamp())
    for due_at in (images.c.due_at, servers.c.due_at):  # the server is busy until its disk is saved
        assert began + SNAPSHOT_DELAY <= await _time(engine, due_at) <= ended + SNAPSHOT_DELAY
    await complete_changes(engine, cloud, vm_id)
    began = await _time(engine, func.clock_timestamp())
    await cloud.rebuild_server(token(), replace(server_spec(vm_id), image=Ref(image_id)))
    ended = await _time(engine, func.clock_timestamp())
    assert began + SNAPSHOT_DELAY <= await _time(engine, servers.c.due_at) <= ended + SNAPSHOT_DELAY
    await cloud.close()


async def _time(engine: AsyncEngine, column: ColumnElement[datetime]) -> datetime:
    async with engine.connect() as connection:
        return (await connection.execute(select(column))).scalar_one()


async def test_a_doomed_snapshot_ends_in_error_and_says_why(
    settings: Settings, slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, image_id = await add_idle_server(slow_backend, engine), uuid4()
    doomed_backend = await open_backend(settings, mock_error_rate=1.0, mock_snapshot_delay=3600.0)
    cloud_id = await doomed_backend.create_server_image(token(), Ref(vm_id), image_id, "before")
    saving = Image(image_id, cloud_id, ImageState.SAVING)
    assert await doomed_backend.list_images([Ref(image_id)]) == {image_id: saving}
    await complete_changes(engine, doomed_backend, vm_id)
    image = (await doomed_backend.list_images([Ref(image_id)]))[image_id]
    assert (image.state, "MOCK_ERROR_RATE" in (image.fault or "")) == (ImageState.ERROR, True)
    await doomed_backend.close()


@on_or_off
async def test_a_doomed_restore_ends_in_error_with_the_old_disk_and_a_reboot_repairs_it(
    settings: Settings, slow_backend: MockBackend, engine: AsyncEngine, previous: ServerStatus
) -> None:
    vm_id = await add_idle_server(slow_backend, engine, previous)
    image_id, content = await add_image(slow_backend, engine, vm_id), await disk_content(engine, vm_id)
    before = (await slow_backend.list_servers([Ref(vm_id)]))[vm_id]
    doomed_backend = await open_backend(settings, mock_error_rate=1.0, mock_snapshot_delay=3600.0)
    await doomed_backend.rebuild_server(token(), replace(server_spec(vm_id, "m1.medium"), image=Ref(image_id)))
    assert await complete_changes(engine, doomed_backend, vm_id) is ServerStatus.ERROR
    await doomed_backend.close()
    server = (await slow_backend.list_servers([Ref(vm_id)]))[vm_id]
    assert "MOCK_ERROR_RATE" in str(server.fault)
    assert replace(server, status=previous, fault=None) == before
    assert await disk_content(engine, vm_id) == content
    await slow_backend.reboot_server(token(), Ref(vm_id), hard=True)
    assert await complete_changes(engine, slow_backend, vm_id) is ServerStatus.ACTIVE


@each_power_change
async def test_power_changes_are_refused_during_a_restore(
    slow_backend: MockBackend, engine: AsyncEngine, verb: str
) -> None:
    vm_id = await add_idle_server(slow_backend, engine, power_before(verb))
    call, target = POWER_CHANGES[verb]
    image_id = await add_image(slow_backend, engine, vm_id)
    await slow_backend.rebuild_server(token(), replace(server_spec(vm_id), image=Ref(image_id)))
    await refused_without_effect(engine, call(slow_backend, token(), vm_id), "busy")
    assert await complete_changes(engine, slow_backend, vm_id) is power_before(verb)
    await call(slow_backend, token(), vm_id)
    assert await complete_changes(engine, slow_backend, vm_id) is target


async def test_a_busy_server_cannot_be_restored(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    for verb, (call, _) in POWER_CHANGES.items():
        vm_id = await add_idle_server(slow_backend, engine, power_before(verb))
        spec = replace(server_spec(vm_id), image=Ref(await add_image(slow_backend, engine, vm_id)))
        await call(slow_backend, token(), vm_id)
        await refused_without_effect(engine, slow_backend.rebuild_server(token(), spec), "busy")


async def test_a_server_cannot_be_restored_from_a_missing_image(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id = await add_idle_server(slow_backend, engine)
    image_id = await add_image(slow_backend, engine, vm_id)
    await slow_backend.delete_image(token(), Ref(image_id))
    assert await slow_backend.list_images([Ref(image_id)]) == {}
    spec = replace(server_spec(vm_id), image=Ref(image_id))
    await refused_without_effect(engine, slow_backend.rebuild_server(token(), spec), "image_not_found")


async def test_an_image_is_saved_without_the_worker_that_began_it(
    slow_backend: MockBackend, settings: Settings, engine: AsyncEngine
) -> None:
    vm_id, image_id = await add_idle_server(slow_backend, engine), uuid4()
    await slow_backend.create_server_image(token(), Ref(vm_id), image_id, "before")
    await slow_backend.close()
    other = await open_backend(settings)
    async with engine.begin() as tx:
        await tx.execute(update(images).values(due_at=func.now()))
    assert (await other.list_images([Ref(image_id)]))[image_id].state is ImageState.ACTIVE
    await other.close()
