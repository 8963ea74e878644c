"""The mock cloud's volumes and interfaces: which changes are refused, and what is removed with a server."""

import asyncio
from collections import Counter
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import volumes
from activities.backends.resources import PortSpec, Ref, Volume
from domain.rules.cloud import ServerStatus, VolumeState
from tests.activities.cloud import DEVICE, complete_changes, count_rows, port, ports_of, refs, server_spec
from tests.activities.mock_cloud import (
    add_idle_server,
    add_image,
    add_volume,
    list_volume,
    refused_without_effect,
    status_of,
    token,
)


async def test_a_volume_is_created_attached_detached_and_deleted_at_once(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, volume_id = await add_idle_server(slow_backend, engine), await add_volume(slow_backend)
    assert await list_volume(slow_backend, volume_id) == Volume(volume_id, VolumeState.AVAILABLE, size_gb=10)
    await slow_backend.attach_volume(token(), Ref(vm_id), Ref(volume_id), DEVICE)
    assert await list_volume(slow_backend, volume_id) == Volume(
        volume_id, VolumeState.IN_USE, vm_id, DEVICE, size_gb=10
    )
    await slow_backend.detach_volume(token(), Ref(vm_id), Ref(volume_id))
    assert await list_volume(slow_backend, volume_id) == Volume(volume_id, VolumeState.AVAILABLE, size_gb=10)
    await slow_backend.delete_volume(token(), Ref(volume_id))
    assert await list_volume(slow_backend, volume_id) is None


async def test_one_of_many_concurrent_attaches_succeeds(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_ids = [await add_idle_server(slow_backend, engine) for _ in range(4)]
    volume_id = await add_volume(slow_backend)
    calls = (slow_backend.attach_volume(token(), Ref(vm_id), Ref(volume_id), DEVICE) for vm_id in vm_ids)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    codes = Counter(getattr(outcome, "code", outcome) for outcome in outcomes)
    assert codes == {DEVICE: 1, "conflict": 3}
    volume = await list_volume(slow_backend, volume_id)
    assert volume is not None
    assert volume.vm_id == vm_ids[outcomes.index(DEVICE)]
    assert await slow_backend.attach_volume(token(), Ref(volume.vm_id), Ref(volume_id), "/dev/vdc") == DEVICE


async def test_two_volumes_of_a_vm_cannot_have_the_same_device(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id, other = await add_idle_server(slow_backend, engine), await add_idle_server(slow_backend, engine)
    first, second = await add_volume(slow_backend), await add_volume(slow_backend)
    await slow_backend.attach_volume(token(), Ref(vm_id), Ref(first), DEVICE)
    await refused_without_effect(
        engine, slow_backend.attach_volume(token(), Ref(vm_id), Ref(second), DEVICE), "conflict"
    )
    await slow_backend.attach_volume(token(), Ref(other), Ref(second), DEVICE)


async def test_an_attached_volume_cannot_be_deleted_or_detached_from_another_vm(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, other = await add_idle_server(slow_backend, engine), await add_idle_server(slow_backend, engine)
    volume_id = await add_volume(slow_backend)
    await slow_backend.attach_volume(token(), Ref(vm_id), Ref(volume_id), DEVICE)
    await refused_without_effect(engine, slow_backend.delete_volume(token(), Ref(volume_id)), "conflict")
    await slow_backend.detach_volume(token(), Ref(other), Ref(volume_id))
    assert await list_volume(slow_backend, volume_id) == Volume(
        volume_id, VolumeState.IN_USE, vm_id, DEVICE, size_gb=10
    )


async def test_a_missing_volume_cannot_be_attached(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id = await add_idle_server(slow_backend, engine)
    await refused_without_effect(
        engine, slow_backend.attach_volume(token(), Ref(vm_id), Ref(uuid4()), DEVICE), "volume_not_found"
    )


@pytest.mark.parametrize("how", ["deleted", "purged"])
async def test_removing_a_server_releases_its_volumes_and_keeps_its_images(
    slow_backend: MockBackend, engine: AsyncEngine, how: str
) -> None:
    vm_id, neighbour = await add_idle_server(slow_backend, engine), await add_idle_server(slow_backend, engine)
    volume_ids, other_volume_id = [await add_volume(slow_backend) for _ in range(3)], await add_volume(slow_backend)
    for number, id in enumerate(volume_ids):
        await slow_backend.attach_volume(token(), Ref(vm_id), Ref(id), f"/dev/vd{number}")
    await slow_backend.attach_volume(token(), Ref(neighbour), Ref(other_volume_id), DEVICE)
    image_id = await add_image(slow_backend, engine, vm_id)
    if how == "purged":
        await slow_backend.purge(Ref(vm_id))
    else:
        await slow_backend.delete_server(token(), Ref(vm_id))
        assert (await slow_backend.list_volumes(refs(volume_ids)))[volume_ids[0]].state is VolumeState.IN_USE
        await complete_changes(engine, slow_backend, vm_id)
    assert await slow_backend.list_volumes(refs(volume_ids)) == {
        id: Volume(id, VolumeState.AVAILABLE, size_gb=10) for id in volume_ids
    }
    assert await list_volume(slow_backend, other_volume_id) == Volume(
        other_volume_id, VolumeState.IN_USE, neighbour, DEVICE, size_gb=10
    )
    assert image_id in await slow_backend.list_images([Ref(image_id)])


@pytest.mark.parametrize(
    "taken", [port(uuid4(), mac_address="fa:16:3e:00:00:10"), port(uuid4(), ip_address="10.0.0.10")], ids=["ip", "mac"]
)
async def test_two_ports_cannot_have_the_same_address(
    slow_backend: MockBackend, engine: AsyncEngine, taken: PortSpec
) -> None:
    vm_id, other = await add_idle_server(slow_backend, engine), await add_idle_server(slow_backend, engine)
    first, spec = port(uuid4()), replace(taken, interface=Ref(uuid4()))
    await slow_backend.create_server_interface(token(), Ref(vm_id), first)
    await refused_without_effect(
        engine, slow_backend.create_server_interface(token(), Ref(other), spec), "address_in_use"
    )
    await slow_backend.delete_server_interface(token(), Ref(vm_id), first.interface)
    await slow_backend.create_server_interface(token(), Ref(other), spec)
    assert spec.interface.id in await ports_of(slow_backend, other)


async def test_a_server_that_is_being_deleted_accepts_no_changes(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, volume_id = await add_idle_server(slow_backend, engine), await add_volume(slow_backend)
    image_id = await add_image(slow_backend, engine, vm_id)
    await slow_backend.delete_server(token(), Ref(vm_id))
    for call in (
        slow_backend.create_server_image(token(), Ref(vm_id), uuid4(), "before"),
        slow_backend.rebuild_server(token(), replace(server_spec(vm_id), image=Ref(image_id))),
        slow_backend.attach_volume(token(), Ref(vm_id), Ref(volume_id), DEVICE),
        slow_backend.create_server_interface(token(), Ref(vm_id), port(uuid4())),
    ):
        await refused_without_effect(engine, call, "server_not_found")
    assert await status_of(slow_backend, vm_id) is ServerStatus.DELETING
    assert await count_rows(engine, "images", vm_id) == 1


@pytest.mark.parametrize("is_attached", [True, False], ids=["attached", "free"])
async def test_a_volume_is_extended_at_once_and_never_made_smaller(
    slow_backend: MockBackend, engine: AsyncEngine, *, is_attached: bool
) -> None:
    vm_id, volume_id = await add_idle_server(slow_backend, engine), await add_volume(slow_backend)
    if is_attached:
        await slow_backend.attach_volume(token(), Ref(vm_id), Ref(volume_id), DEVICE)
    before = await list_volume(slow_backend, volume_id)
    assert before is not None
    for size in (20, 20, 15):
        await slow_backend.extend_volume(token(), Ref(volume_id), size)
        assert await list_volume(slow_backend, volume_id) == replace(before, size_gb=20)


async def test_a_volume_that_is_missing_or_in_error_is_not_extended(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    volume_id = await add_volume(slow_backend)
    async with engine.begin() as tx:
        await tx.execute(update(volumes).values(state="error"))
    await refused_without_effect(engine, slow_backend.extend_volume(token(), Ref(volume_id), 20), "conflict")
    await refused_without_effect(engine, slow_backend.extend_volume(token(), Ref(uuid4()), 20), "volume_not_found")
