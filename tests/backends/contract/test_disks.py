"""Disks: volumes that grow, and servers that are built from a snapshot or boot from a volume."""

from dataclasses import replace
from uuid import uuid4

from activities.backends.resources import DataVolume, Ref, Volume
from domain.rules.cloud import ServerStatus, VolumeState
from tests.backends.contract.lab import Lab, new_token, refusal, refusals


async def extend(lab: Lab, volume: Ref, size_gb: int) -> Volume:
    """Make the volume larger, and return it when it is."""
    await lab.backend.extend_volume(new_token(), volume, size_gb)

    async def look() -> Volume | None:
        found = (await lab.backend.list_volumes([volume]))[volume.id]
        is_done = found.size_gb == size_gb and found.state in {VolumeState.AVAILABLE, VolumeState.IN_USE}
        return found if is_done else None

    return await lab.until(look)


async def test_a_volume_grows_free_and_attached_and_never_shrinks(lab: Lab) -> None:
    volume = await lab.new_volume()
    assert (await extend(lab, volume, 2)).state is VolumeState.AVAILABLE
    vm = await lab.new_server()
    await lab.backend.attach_volume(new_token(), vm, volume, None)
    await lab.until_volume(volume, VolumeState.IN_USE)
    grown = await extend(lab, volume, 3)
    assert (grown.state, grown.vm_id) == (VolumeState.IN_USE, vm.id)
    for size_gb in (3, 1):  # it has that already
        await lab.backend.extend_volume(new_token(), volume, size_gb)
    assert (await lab.backend.list_volumes([volume]))[volume.id] == grown
    for missing in (Ref(uuid4()), Ref(uuid4(), str(uuid4()))):
        call = lab.backend.extend_volume(new_token(), missing, 2)
        assert await refusal(call) == ("volume_not_found", False)


async def test_a_volume_of_a_server_that_is_being_resized_grows_afterwards(lab: Lab) -> None:
    vm, volume, token = await lab.new_server(), await lab.new_volume(), new_token()
    await lab.backend.attach_volume(new_token(), vm, volume, None)
    await lab.until_volume(volume, VolumeState.IN_USE)
    await lab.backend.resize_server(token, lab.spec(lab.large, vm))
    # A real cloud reserves the volume for the new host for a moment.
    call = lab.backend.extend_volume(new_token(), volume, 2)
    assert await refusal(call) in [("busy", True), ("accepted", False)]
    assert (await lab.settle(vm, token)).status is ServerStatus.VERIFY_RESIZE
    assert (await extend(lab, volume, 3)).vm_id == vm.id
    await lab.power(vm, lab.backend.confirm_server_resize)


async def test_a_server_is_built_from_a_snapshot_which_may_go_then(lab: Lab) -> None:
    first = await lab.new_server()
    image = await lab.begin_image(first)
    # An image that is not saved yet is refused, unless the cloud was quicker.
    early, _ = await refusal(lab.begin_server(replace(lab.small, image=image)))
    assert early in {"invalid_image", "accepted"}
    await lab.until_saved(image)
    copy = await lab.new_server(replace(lab.small, image=image))
    server = await lab.server(copy)
    assert server is not None
    assert (server.image_id, server.has_size_of(lab.small)) == (image.cloud_id, True)
    await lab.backend.delete_image(new_token(), image)
    assert await lab.server(copy) == server
    assert await lab.power(copy, lab.hard_reboot) is ServerStatus.ACTIVE
    refused = await refusals(
        lab.begin_server(replace(lab.small, image=image)), lab.begin_server(replace(lab.small, image=Ref(uuid4())))
    )
    assert refused == [("invalid_image", False), ("image_not_found", False)]


async def test_a_restore_after_a_resize(lab: Lab) -> None:
    vm = await lab.new_server()
    image = await lab.begin_image(vm)
    await lab.until_saved(image)
    await lab.resize(vm, lab.large)
    await lab.power(vm, lab.backend.confirm_server_resize)
    # Nova cannot rebuild a server with another flavor.
    small = replace(lab.spec(lab.small, vm), image=image)
    call = lab.backend.rebuild_server(new_token(), small)
    assert await refusal(call) in [("not_supported_by_cloud", False), ("accepted", False)]


async def test_a_server_boots_from_a_volume_which_outlives_it(lab: Lab) -> None:
    root, data = await lab.new_volume(image=lab.small.image), await lab.new_volume()
    vm = await lab.new_server(replace(lab.small, boot_volume=root, volumes=(DataVolume(data),)))
    server = await lab.server(vm)
    assert server is not None
    assert server.image_id is None
    attached = [await lab.until_volume(volume, VolumeState.IN_USE) for volume in (root, data)]
    assert {volume.vm_id for volume in attached} == {vm.id}
    assert len({volume.device for volume in attached} - {None}) == 2

    refused = await refusals(
        lab.begin_server(replace(lab.small, boot_volume=root)),
        lab.backend.detach_volume(new_token(), vm, root),
        lab.backend.create_server_image(new_token(), vm, uuid4(), "none"),
        lab.backend.rebuild_server(new_token(), lab.spec(lab.small, vm)),
    )
    assert refused == [
        ("conflict", False),
        ("conflict", False),
        ("not_supported_by_cloud", False),
        ("not_supported_by_cloud", False),
    ]
    assert await lab.power(vm, lab.backend.stop_server) is ServerStatus.SHUTOFF
    assert (await lab.resize(vm, replace(lab.large, boot_volume=root))).status is ServerStatus.VERIFY_RESIZE
    assert await lab.power(vm, lab.backend.confirm_server_resize) is ServerStatus.SHUTOFF
    assert (await extend(lab, root, 2)).vm_id == vm.id
    await lab.delete(vm)
    for volume in (root, data):
        assert (await lab.until_volume(volume, VolumeState.AVAILABLE)).vm_id is None


async def test_a_server_boots_only_from_a_volume_with_an_image(lab: Lab) -> None:
    empty = await lab.new_volume()
    refused = await refusals(
        lab.begin_server(replace(lab.small, boot_volume=empty)),
        lab.begin_server(replace(lab.small, boot_volume=Ref(uuid4(), str(uuid4())))),
        lab.begin_server(replace(lab.small, volumes=(DataVolume(Ref(uuid4(), str(uuid4()))),))),
    )
    assert refused == [("bad_request", False)] * 3
    assert (await lab.until_volume(empty, VolumeState.AVAILABLE)).vm_id is None
