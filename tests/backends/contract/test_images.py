"""Images of servers: saved, restored from, and deleted."""

import asyncio
from dataclasses import replace
from uuid import uuid4

from activities.backends.protocol import BackendError
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


async def test_of_two_snapshots_at_once_the_second_finds_the_server_busy(lab: Lab) -> None:
    """A cloud saves a small disk in less than a second: the second request may come only after that, so try again."""
    vm, errors = await lab.new_server(), list[BackendError]()
    for _ in range(10):
        ends = await asyncio.gather(lab.begin_image(vm), lab.begin_image(vm), return_exceptions=True)
        errors += [end for end in ends if isinstance(end, BackendError)]
        for image in [end for end in ends if isinstance(end, Ref)]:
            await lab.until_saved(image)
        if errors:
            break
    assert [(error.code, error.retryable) for error in errors] == [("busy", True)]
