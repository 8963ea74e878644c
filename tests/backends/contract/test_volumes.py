"""Volumes: created, attached, detached and deleted."""

from dataclasses import replace
from uuid import uuid4

from activities.backends.resources import DataVolume, Ref
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.resources import Kind
from tests.backends.contract.lab import Lab, new_token, refusal


async def test_a_volume_is_created_once_attached_to_one_server_and_deleted(lab: Lab) -> None:
    id, token = uuid4(), new_token()
    volume = Ref(id, await lab.backend.create_volume(token, id, "data", 1))
    assert await lab.backend.create_volume(token, id, "data", 1) == volume.cloud_id
    await lab.until_volume(volume, VolumeState.AVAILABLE)
    assert volume.id in await lab.inventory(Kind.VOLUME)

    vm, other = await lab.new_server(), await lab.new_server()
    device = await lab.backend.attach_volume(new_token(), vm, volume, None)
    attached = await lab.until_volume(volume, VolumeState.IN_USE)
    assert (attached.vm_id, attached.device) == (vm.id, device)
    assert device.startswith("/dev/")
    assert await lab.backend.attach_volume(new_token(), vm, volume, None) == device
    assert await refusal(lab.backend.attach_volume(new_token(), other, volume, None)) == ("conflict", False)
    assert await refusal(lab.backend.delete_volume(new_token(), volume)) == ("conflict", False)
    await lab.backend.detach_volume(new_token(), other, volume)
    assert await lab.until_volume(volume, VolumeState.IN_USE) == attached

    await lab.backend.detach_volume(new_token(), vm, volume)
    assert (await lab.until_volume(volume, VolumeState.AVAILABLE)).vm_id is None
    await lab.backend.detach_volume(new_token(), vm, volume)
    await lab.backend.delete_volume(new_token(), volume)

    async def is_gone() -> bool:
        return await lab.backend.list_volumes([volume]) == {}

    await lab.until(is_gone)
    await lab.backend.delete_volume(new_token(), volume)
    attach = lab.backend.attach_volume(new_token(), vm, Ref(uuid4()), None)
    assert await refusal(attach) == ("volume_not_found", False)


async def test_a_volume_survives_its_server(lab: Lab) -> None:
    vm, volume = await lab.new_server(), await lab.new_volume()
    await lab.backend.attach_volume(new_token(), vm, volume, None)
    await lab.until_volume(volume, VolumeState.IN_USE)
    await lab.delete(vm)
    free = await lab.until_volume(volume, VolumeState.AVAILABLE)
    assert (free.vm_id, free.device) == (None, None)


async def test_a_server_is_built_with_volumes_which_survive_it(lab: Lab) -> None:
    first, second = await lab.new_volume(), await lab.new_volume()
    spec = replace(lab.small, volumes=(DataVolume(first), DataVolume(second)))
    vm, token = await lab.begin_server(spec)
    assert (await lab.settle(vm, token)).status is ServerStatus.ACTIVE
    attached = [await lab.until_volume(volume, VolumeState.IN_USE) for volume in (first, second)]
    assert {volume.vm_id for volume in attached} == {vm.id}
    assert len({volume.device for volume in attached}) == 2
    taken = replace(lab.small, vm=Ref(uuid4()), volumes=(DataVolume(first),))
    assert (await refusal(lab.backend.create_server(new_token(), taken)))[1] is False
    await lab.backend.detach_volume(new_token(), vm, second)
    await lab.until_volume(second, VolumeState.AVAILABLE)
    await lab.delete(vm)
    assert (await lab.until_volume(first, VolumeState.AVAILABLE)).vm_id is None


async def test_a_build_that_finds_no_host_frees_its_volumes_when_it_is_removed(lab: Lab) -> None:
    volume = await lab.new_volume()
    vm = await lab.failed_server(replace(lab.giant, volumes=(DataVolume(volume),)))
    await lab.backend.purge(vm)
    await lab.until_volume(volume, VolumeState.AVAILABLE)
