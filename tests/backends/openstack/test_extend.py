"""Volumes that are made larger: once, and never again if they have the size."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.errors import Service
from activities.backends.resources import Ref
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.guarded import let_time_pass
from tests.backends.openstack.recordings import Recording
from tests.backends.openstack.resource_cloud import CUT, ResourceCloud, add_volume, code_of, token


@pytest.mark.parametrize("has_cloud_id", [True, False], ids=["by id", "by mark"])
async def test_an_extension_is_sent_once(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, *, has_cloud_id: bool
) -> None:
    volume, call = add_volume(resources), token()
    for _ in range(2):
        await backend.extend_volume(call, volume if has_cloud_id else Ref(volume.id), 3)
    (request,) = server.seen("POST", f"/volumes/{volume.cloud_id}/action")
    assert request.body == {"os-extend": {"new_size": 3}}
    assert (await backend.list_volumes([volume]))[volume.id].size_gb == 3


async def test_a_volume_that_has_the_size_already_is_not_extended(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer
) -> None:
    await backend.extend_volume(token(), add_volume(resources, "in-use"), 1)
    assert not server.seen("POST", "/action")


@pytest.mark.parametrize("shown", [{"status": "extending"}, {"size": 3}], ids=["going on", "over"])
async def test_an_extension_whose_answer_is_lost_is_found(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, shown: dict[str, object]
) -> None:
    volume, call = add_volume(resources), token()
    server.add(Service.VOLUME, "POST", f"/volumes/{volume.cloud_id}/action", CUT)
    assert await code_of(backend.extend_volume(call, volume, 3), retryable=True) == "cloud_timeout"
    resources.things["volumes"][str(volume.cloud_id)] |= shown
    await backend.extend_volume(call, volume, 3)
    assert len(server.seen("POST", "/action")) == 1


async def test_an_extension_that_never_arrived_is_sent_again_after_the_settle_time(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, engine: AsyncEngine
) -> None:
    volume, call = add_volume(resources), token()
    server.add(Service.VOLUME, "POST", f"/volumes/{volume.cloud_id}/action", CUT)
    for code in ("cloud_timeout", "settling"):
        assert await code_of(backend.extend_volume(call, volume, 3), retryable=True) == code
    await let_time_pass(engine, 121)
    await backend.extend_volume(call, volume, 3)
    assert len(server.seen("POST", "/action")) == 2


@pytest.mark.parametrize(
    ("moment", "code"), [("extend an attaching one", "conflict"), ("extend to less", "bad_request")]
)
async def test_a_refusal_says_why(backend: OpenStackBackend, resources: ResourceCloud, moment: str, code: str) -> None:
    answer, volume = Recording("volume/extend").at(moment), add_volume(resources)
    resources.refused = {("POST", "/action"): Reply(answer.status, answer.body)}
    assert await code_of(backend.extend_volume(token(), volume, 3), retryable=False) == code


async def test_an_extension_waits_while_the_server_of_the_volume_is_resized(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    """Nova reserves the volume for the new host meanwhile. If a host died, it stays so for ever."""
    answer = Recording("volume/extend").at("extend an attaching one")
    resources.refused = {("POST", "/action"): Reply(answer.status, answer.body)}
    for age, code, retryable in ((1, "busy", True), (11, "conflict", False)):
        volume = add_volume(resources, "reserved", timedelta(minutes=age))
        assert await code_of(backend.extend_volume(token(), volume, 3), retryable=retryable) == code


async def test_a_volume_that_the_cloud_does_not_have_is_not_extended(backend: OpenStackBackend) -> None:
    for missing in (Ref(uuid4(), str(uuid4())), Ref(uuid4())):
        assert await code_of(backend.extend_volume(token(), missing, 3), retryable=False) == "volume_not_found"
