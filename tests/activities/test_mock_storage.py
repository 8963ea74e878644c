"""The mock cloud's images, volumes and interfaces: what is kept, what is refused, and what goes with a server."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import images, servers
from activities.backends.protocol import Image, Port, Volume
from domain.rules.cloud import ImageState, ServerStatus, VolumeState
from domain.settings import Settings
from tests.activities.cloud import (
    DEVICE,
    cloud_contents,
    complete_changes,
    count_rows,
    disk_content,
    open_backend,
    port,
    server_spec,
)
from tests.activities.test_mock_cloud import CHANGES, Call, build, each_change, status_of, token
from tests.activities.test_mock_failures import refused

SNAPSHOT_DELAY = timedelta(seconds=17)
BOOTS = {"start", "reboot", "hard reboot"}
on_or_off = pytest.mark.parametrize("previous", [ServerStatus.ACTIVE, ServerStatus.SHUTOFF])
REBUILT = {"vcpus": 2, "ram_mb": 4096, "disk_gb": 40}  # as m1.medium


async def add_idle_server(
    cloud: MockBackend, engine: AsyncEngine, previous: ServerStatus = ServerStatus.ACTIVE
) -> UUID:
    """A small server that is on, or off."""
    vm_id = await build(cloud, engine)
    if previous is ServerStatus.SHUTOFF:
        await cloud.stop_server(token(), vm_id)
    assert await complete_changes(engine, cloud, vm_id) is previous
    return vm_id


async def save(cloud: MockBackend, engine: AsyncEngine, vm_id: UUID) -> UUID:
    """An image of the VM's server, saved."""
    image_id = uuid4()
    await cloud.create_server_image(token(), vm_id, image_id, "before")
    await complete_changes(engine, cloud, vm_id)
    return image_id


async def new_volume(cloud: MockBackend) -> UUID:
    """A volume that nobody has."""
    id = uuid4()
    await cloud.create_volume(token(), id, "data", 10)
    return id


async def listed(cloud: MockBackend, volume_id: UUID) -> Volume | None:
    """The volume as the cloud shows it."""
    return (await cloud.list_volumes([volume_id])).get(volume_id)


async def is_refused(engine: AsyncEngine, call: Awaitable[object], code: str) -> None:
    """The call is refused for good and changes nothing in the cloud."""
    before = await cloud_contents(engine)
    await refused(call, code)
    assert await cloud_contents(engine) == before


@pytest.mark.parametrize("verb", CHANGES)
async def test_only_a_boot_changes_the_disk(slow_backend: MockBackend, engine: AsyncEngine, verb: str) -> None:
    vm_id, neighbour = await add_idle_server(slow_backend, engine), await add_idle_server(slow_backend, engine)
    content = {id: await disk_content(engine, id) for id in (vm_id, neighbour)}
    assert len({None, *content.values()}) == 3
    call, _ = CHANGES[verb]
    await call(slow_backend, token(), vm_id)
    await complete_changes(engine, slow_backend, vm_id)
    assert (await disk_content(engine, vm_id) != content[vm_id]) is (verb in BOOTS)
    assert await disk_content(engine, neighbour) == content[neighbour]


@on_or_off
async def test_a_restore_brings_back_disk_image_and_size_and_keeps_the_power_state(
    slow_backend: MockBackend, engine: AsyncEngine, previous: ServerStatus
) -> None:
    vm_id = await add_idle_server(slow_backend, engine, previous)
    content, image_id = await disk_content(engine, vm_id), await save(slow_backend, engine, vm_id)
    await slow_backend.start_server(token(), vm_id)
    if previous is ServerStatus.SHUTOFF:
        await slow_backend.stop_server(token(), vm_id)
    await complete_changes(engine, slow_backend, vm_id)
    assert await disk_content(engine, vm_id) != content
    await slow_backend.rebuild_server(token(), replace(server_spec(vm_id, "m1.medium"), image_id=image_id))
    during = (await slow_backend.list_servers([vm_id]))[vm_id]
    assert (during.status, during.is_busy) == (ServerStatus.REBUILD, True)
    assert await complete_changes(engine, slow_backend, vm_id) is previous
    after = (await slow_backend.list_servers([vm_id]))[vm_id]
    assert (await disk_content(engine, vm_id), after.image_id) == (content, image_id)
    assert {name: getattr(after, name) for name in REBUILT} == REBUILT


async def test_an_image_holds_the_disk_as_it_was_when_the_save_began(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, image_id = await add_idle_server(slow_backend, engine), uuid4()
    content = await disk_content(engine, vm_id)
    await slow_backend.create_server_image(token(), vm_id, image_id, "before")
    await slow_backend.reboot_server(token(), vm_id, hard=False)
    await complete_changes(engine, slow_backend, vm_id)
    assert await disk_content(engine, vm_id) != content
    await slow_backend.rebuild_server(token(), replace(server_spec(vm_id), image_id=image_id))
    assert await disk_content(engine, vm_id) == content


async def test_an_image_is_saving_until_it_is_due(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id, image_id = await add_idle_server(slow_backend, engine), uuid4()
    await slow_backend.create_server_image(token(), vm_id, image_id, "before")
    assert await slow_backend.list_images([image_id]) == {image_id: Image(image_id, ImageState.SAVING)}
    await complete_changes(engine, slow_backend, vm_id)
    assert await slow_backend.list_images([image_id, uuid4()]) == {image_id: Image(image_id, ImageState.ACTIVE)}


async def test_a_snapshot_and_a_restore_take_the_snapshot_delay(
    settings: Settings, slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, image_id = await add_idle_server(slow_backend, engine), uuid4()
    cloud = await open_backend(settings, mock_snapshot_delay=SNAPSHOT_DELAY.total_seconds())
    began = await _time(engine, func.clock_timestamp())
    await cloud.create_server_image(token(), vm_id, image_id, "before")
    await cloud.rebuild_server(token(), replace(server_spec(vm_id), image_id=image_id))
    ended = await _time(engine, func.clock_timestamp())
    for due_at in (images.c.due_at, servers.c.due_at):
        assert began + SNAPSHOT_DELAY <= await _time(engine, due_at) <= ended + SNAPSHOT_DELAY
    await cloud.close()


async def _time(engine: AsyncEngine, column: ColumnElement[datetime]) -> datetime:
    async with engine.connect() as connection:
        return (await connection.execute(select(column))).scalar_one()


async def test_a_doomed_snapshot_ends_in_error_and_says_why(
    settings: Settings, slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, image_id = await add_idle_server(slow_backend, engine), uuid4()
    doomed_backend = await open_backend(settings, mock_error_rate=1.0, mock_snapshot_delay=3600.0)
    await doomed_backend.create_server_image(token(), vm_id, image_id, "before")
    assert await doomed_backend.list_images([image_id]) == {image_id: Image(image_id, ImageState.SAVING)}
    await complete_changes(engine, doomed_backend, vm_id)
    image = (await doomed_backend.list_images([image_id]))[image_id]
    assert (image.state, "MOCK_ERROR_RATE" in (image.fault or "")) == (ImageState.ERROR, True)
    await doomed_backend.close()


@on_or_off
async def test_a_doomed_restore_ends_in_error_with_the_old_disk_and_a_reboot_repairs_it(
    settings: Settings, slow_backend: MockBackend, engine: AsyncEngine, previous: ServerStatus
) -> None:
    vm_id = await add_idle_server(slow_backend, engine, previous)
    image_id, content = await save(slow_backend, engine, vm_id), await disk_content(engine, vm_id)
    before = (await slow_backend.list_servers([vm_id]))[vm_id]
    doomed_backend = await open_backend(settings, mock_error_rate=1.0, mock_snapshot_delay=3600.0)
    await doomed_backend.rebuild_server(token(), replace(server_spec(vm_id, "m1.medium"), image_id=image_id))
    assert await complete_changes(engine, doomed_backend, vm_id) is ServerStatus.ERROR
    await doomed_backend.close()
    server = (await slow_backend.list_servers([vm_id]))[vm_id]
    assert "MOCK_ERROR_RATE" in (server.fault or "")
    assert replace(server, status=previous, fault=None) == before
    assert await disk_content(engine, vm_id) == content
    await slow_backend.reboot_server(token(), vm_id, hard=True)
    assert await complete_changes(engine, slow_backend, vm_id) is ServerStatus.ACTIVE


@each_change
async def test_power_changes_are_refused_during_a_restore(
    slow_backend: MockBackend, engine: AsyncEngine, call: Call, then: ServerStatus
) -> None:
    vm_id = await add_idle_server(slow_backend, engine)
    image_id = await save(slow_backend, engine, vm_id)
    await slow_backend.rebuild_server(token(), replace(server_spec(vm_id), image_id=image_id))
    await is_refused(engine, call(slow_backend, token(), vm_id), "server_conflict")
    assert await complete_changes(engine, slow_backend, vm_id) is ServerStatus.ACTIVE
    await call(slow_backend, token(), vm_id)
    assert await complete_changes(engine, slow_backend, vm_id) is then


async def test_a_busy_server_cannot_be_restored(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    for call, _ in CHANGES.values():
        vm_id = await add_idle_server(slow_backend, engine)
        again = replace(server_spec(vm_id), image_id=await save(slow_backend, engine, vm_id))
        await call(slow_backend, token(), vm_id)
        await is_refused(engine, slow_backend.rebuild_server(token(), again), "server_conflict")


async def test_a_server_cannot_be_restored_from_a_missing_image(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id = await add_idle_server(slow_backend, engine)
    image_id = await save(slow_backend, engine, vm_id)
    await slow_backend.delete_image(token(), image_id)
    assert await slow_backend.list_images([image_id]) == {}
    again = replace(server_spec(vm_id), image_id=image_id)
    await is_refused(engine, slow_backend.rebuild_server(token(), again), "image_not_found")


async def test_a_volume_is_created_attached_detached_and_deleted_at_once(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, volume_id = await add_idle_server(slow_backend, engine), await new_volume(slow_backend)
    assert await listed(slow_backend, volume_id) == Volume(volume_id, VolumeState.AVAILABLE)
    await slow_backend.attach_volume(token(), vm_id, volume_id, DEVICE)
    assert await listed(slow_backend, volume_id) == Volume(volume_id, VolumeState.IN_USE, vm_id, DEVICE)
    await slow_backend.detach_volume(token(), vm_id, volume_id)
    assert await listed(slow_backend, volume_id) == Volume(volume_id, VolumeState.AVAILABLE)
    await slow_backend.delete_volume(token(), volume_id)
    assert await listed(slow_backend, volume_id) is None


async def test_one_of_many_concurrent_attaches_succeeds(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_ids = [await add_idle_server(slow_backend, engine) for _ in range(4)]
    volume_id = await new_volume(slow_backend)
    calls = (slow_backend.attach_volume(token(), vm_id, volume_id, DEVICE) for vm_id in vm_ids)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    codes = Counter(getattr(outcome, "code", outcome) for outcome in outcomes)
    assert codes == {None: 1, "volume_conflict": 3}
    volume = await listed(slow_backend, volume_id)
    assert volume is not None
    assert volume.vm_id == vm_ids[outcomes.index(None)]
    again = slow_backend.attach_volume(token(), volume.vm_id, volume_id, "/dev/vdc")
    await is_refused(engine, again, "volume_conflict")


async def test_two_volumes_of_a_vm_cannot_have_the_same_device(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id, other = await add_idle_server(slow_backend, engine), await add_idle_server(slow_backend, engine)
    first, second = await new_volume(slow_backend), await new_volume(slow_backend)
    await slow_backend.attach_volume(token(), vm_id, first, DEVICE)
    await is_refused(engine, slow_backend.attach_volume(token(), vm_id, second, DEVICE), "mock_conflict")
    await slow_backend.attach_volume(token(), other, second, DEVICE)


async def test_an_attached_volume_cannot_be_deleted_or_detached_from_another_vm(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, other = await add_idle_server(slow_backend, engine), await add_idle_server(slow_backend, engine)
    volume_id = await new_volume(slow_backend)
    await slow_backend.attach_volume(token(), vm_id, volume_id, DEVICE)
    await is_refused(engine, slow_backend.delete_volume(token(), volume_id), "volume_conflict")
    await slow_backend.detach_volume(token(), other, volume_id)
    assert await listed(slow_backend, volume_id) == Volume(volume_id, VolumeState.IN_USE, vm_id, DEVICE)


async def test_a_missing_volume_cannot_be_attached(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id = await add_idle_server(slow_backend, engine)
    await is_refused(engine, slow_backend.attach_volume(token(), vm_id, uuid4(), DEVICE), "volume_not_found")


@pytest.mark.parametrize("how", ["deleted", "purged"])
async def test_removing_a_server_releases_its_volumes_and_keeps_its_images(
    slow_backend: MockBackend, engine: AsyncEngine, how: str
) -> None:
    vm_id, neighbour = await add_idle_server(slow_backend, engine), await add_idle_server(slow_backend, engine)
    mine, its = [await new_volume(slow_backend) for _ in range(3)], await new_volume(slow_backend)
    for number, id in enumerate(mine):
        await slow_backend.attach_volume(token(), vm_id, id, f"/dev/vd{number}")
    await slow_backend.attach_volume(token(), neighbour, its, DEVICE)
    image_id = await save(slow_backend, engine, vm_id)
    if how == "purged":
        await slow_backend.purge(vm_id)
    else:
        await slow_backend.delete_server(token(), vm_id)
        assert (await slow_backend.list_volumes(mine))[mine[0]].state is VolumeState.IN_USE
        await complete_changes(engine, slow_backend, vm_id)
    assert await slow_backend.list_volumes(mine) == {id: Volume(id, VolumeState.AVAILABLE) for id in mine}
    assert await listed(slow_backend, its) == Volume(its, VolumeState.IN_USE, neighbour, DEVICE)
    assert image_id in await slow_backend.list_images([image_id])


@pytest.mark.parametrize(
    "taken", [port(uuid4(), mac_address="fa:16:3e:00:00:10"), port(uuid4(), ip_address="10.0.0.10")], ids=["ip", "mac"]
)
async def test_two_ports_cannot_have_the_same_address(
    slow_backend: MockBackend, engine: AsyncEngine, taken: Port
) -> None:
    vm_id, other = await add_idle_server(slow_backend, engine), await add_idle_server(slow_backend, engine)
    first, again = port(uuid4()), replace(taken, id=uuid4())
    await slow_backend.create_server_interface(token(), vm_id, first)
    await is_refused(engine, slow_backend.create_server_interface(token(), other, again), "mock_conflict")
    await slow_backend.delete_server_interface(token(), vm_id, first.id)
    await slow_backend.create_server_interface(token(), other, again)
    assert again.id in await slow_backend.list_ports(other)


async def test_a_server_that_is_being_deleted_accepts_no_changes(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, volume_id = await add_idle_server(slow_backend, engine), await new_volume(slow_backend)
    image_id = await save(slow_backend, engine, vm_id)
    await slow_backend.delete_server(token(), vm_id)
    for call in (
        slow_backend.create_server_image(token(), vm_id, uuid4(), "before"),
        slow_backend.rebuild_server(token(), replace(server_spec(vm_id), image_id=image_id)),
        slow_backend.attach_volume(token(), vm_id, volume_id, DEVICE),
        slow_backend.create_server_interface(token(), vm_id, port(uuid4())),
    ):
        await is_refused(engine, call, "server_not_found")
    assert await status_of(slow_backend, vm_id) is ServerStatus.DELETING
    assert await count_rows(engine, "images", vm_id) == 1


async def test_an_image_is_saved_without_the_worker_that_began_it(
    slow_backend: MockBackend, settings: Settings, engine: AsyncEngine
) -> None:
    vm_id, image_id = await add_idle_server(slow_backend, engine), uuid4()
    await slow_backend.create_server_image(token(), vm_id, image_id, "before")
    await slow_backend.close()
    other = await open_backend(settings)
    async with engine.begin() as tx:
        await tx.execute(update(images).values(due_at=func.now()))
    assert (await other.list_images([image_id]))[image_id].state is ImageState.ACTIVE
    await other.close()
