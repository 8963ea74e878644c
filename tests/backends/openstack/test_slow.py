"""What the cloud takes long for is told, with what it waits for: a message that was lost ends nothing by itself."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.resources import Ref
from tests.backends.openstack.cloud_server import CloudServer
from tests.backends.openstack.resource_cloud import ResourceCloud, add_volume
from tests.backends.openstack.server_cloud import TASK, ServerCloud


def ago(seconds: float) -> str:
    """A time in the past, as Nova and Glance show it."""
    return f"{datetime.now(UTC) - timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize(
    ("age", "status", "task", "words"),
    [
        (90, "ACTIVE", "powering-off", "Waiting for the host: the server is ACTIVE, powering-off since "),
        (90, "BUILD", "scheduling", "The cloud looks for a host for the server since "),
        (90, "BUILD", None, "Waiting for the host: the server is BUILD, between two steps since "),
        (30, "ACTIVE", "powering-off", None),
        (90, "ACTIVE", None, None),
        (90, "DELETED", "deleting", None),
    ],
)
async def test_a_server_on_which_nothing_goes_on_says_what_it_waits_for(  # noqa: PLR0913, PLR0917
    backend: OpenStackBackend,
    resources: ResourceCloud,
    server: CloudServer,
    age: float,
    status: str,
    task: str | None,
    words: str | None,
) -> None:
    del resources
    since = ago(age)
    changed = ago(0) if task == "scheduling" else since
    vm = ServerCloud(server).add_marked(**{"status": status, TASK: task, "updated": changed, "created": since})
    shown = (await backend.list_servers([vm])).get(vm.id)
    said = shown.waits_for if shown else None
    assert said == (words and f"{words}{datetime.fromisoformat(since):%Y-%m-%d %H:%M:%S} UTC.")


@pytest.mark.parametrize(
    ("age", "status", "words"),
    [
        (90, "reserved", "Waiting for the cloud: the volume is reserved since "),
        (30, "reserved", None),
        (90, "available", None),
    ],
)
async def test_a_volume_says_the_same(
    backend: OpenStackBackend, resources: ResourceCloud, age: float, status: str, words: str | None
) -> None:
    volume = add_volume(resources, status, timedelta(seconds=age))
    said = (await backend.list_volumes([volume]))[volume.id].waits_for or ""
    assert said.startswith(words or "")
    assert bool(said) is bool(words)


@pytest.mark.parametrize(("age", "is_told"), [(90, True), (30, False)])
async def test_an_image_says_the_same(
    backend: OpenStackBackend, resources: ResourceCloud, age: float, *, is_told: bool
) -> None:
    server_id, id = resources.add_server(**{TASK: "image_uploading"}), uuid4()
    times = {"created_at": ago(age), "updated_at": ago(age)}
    cloud_id = resources.add("images", status="saving", instance_uuid=server_id, osvm_snapshot=str(id), **times)
    said = (await backend.list_images([Ref(id, cloud_id)]))[id].waits_for
    assert (said is not None and "the image is saving since" in said) is is_told
