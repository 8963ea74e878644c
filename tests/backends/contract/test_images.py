"""Images of servers: saved, restored from, and deleted."""

from dataclasses import replace
from uuid import uuid4

from activities.backends.resources import Ref
from domain.rules.cloud import ServerStatus
from domain.rules.resources import Kind
from tests.backends.contract.lab import Lab, new_token, refusal


async def test_a_snapshot_is_saved_restored_and_deleted(lab: Lab) -> None:
    vm = await lab.new_server()
    image = await lab.begin_image(vm)
    assert (await lab.until_saved(image)).cloud_id == image.cloud_id
    assert image.id in await lab.inventory(Kind.SNAPSHOT)
    server = await lab.server(vm)
    assert server is not None
    assert server.status is ServerStatus.ACTIVE

    spec, token = replace(lab.spec(lab.small, vm), image=image), new_token()
    await lab.power(vm, lab.backend.stop_server)
    await lab.backend.rebuild_server(token, spec)
    restored = await lab.settle(vm, token)
    assert (restored.status, restored.image_id) == (ServerStatus.SHUTOFF, image.cloud_id)

    await lab.backend.delete_image(new_token(), image)
    assert await lab.backend.list_images([image]) == {}
    await lab.backend.delete_image(new_token(), image)
    assert await refusal(lab.backend.rebuild_server(new_token(), spec)) == ("invalid_image", False)
    unknown = replace(spec, image=Ref(uuid4()))
    assert await refusal(lab.backend.rebuild_server(new_token(), unknown)) == ("image_not_found", False)
    assert (await lab.server(vm)) == restored


async def test_a_server_that_saves_its_disk_is_busy(lab: Lab) -> None:
    vm = await lab.new_server()
    image = await lab.begin_image(vm)
    call = lab.backend.create_server_image(new_token(), vm, uuid4(), "second")
    assert await refusal(call) == ("busy", True)
    await lab.until_saved(image)
