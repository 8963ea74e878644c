"""Servers that refuse an action, as a real cloud reported it: for now, or for good."""

from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.protocol import Token
from activities.backends.resources import PortSpec, Ref
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.recordings import Recording
from tests.backends.openstack.resource_cloud import NETWORK, ResourceCloud, code_of
from tests.backends.openstack.server_cloud import TASK, ServerCloud, spec_of, token

Act = Callable[[OpenStackBackend, Token, Ref], Awaitable[None]]
ACTS: dict[str, Act] = {
    "os-start": lambda backend, call, vm: backend.start_server(call, vm),
    "os-stop": lambda backend, call, vm: backend.stop_server(call, vm),
    "reboot": lambda backend, call, vm: backend.reboot_server(call, vm, hard=True),
}


@pytest.fixture
def servers(resources: ResourceCloud, server: CloudServer) -> ServerCloud:
    """The cloud's servers."""
    del resources  # this replaces them
    return ServerCloud(server)


async def refused(
    backend: OpenStackBackend, servers: ServerCloud, action: str, *, retryable: bool, **fields: str
) -> str:
    """Ask for an action that is refused as for a server that never had a host, and return the code."""
    answer, vm = Recording("refusals/never_launched").at(action), servers.add_marked(**fields)
    servers.refused = {("POST", "/action"): Reply(answer.status, answer.body)}
    return await code_of(ACTS[action](backend, token(), vm), retryable=retryable)


@pytest.mark.parametrize("action", ACTS)
async def test_a_server_whose_build_has_failed_refuses_for_good(
    backend: OpenStackBackend, servers: ServerCloud, action: str
) -> None:
    assert await refused(backend, servers, action, retryable=False, status="ERROR") == "conflict"


@pytest.mark.parametrize("action", ["os-start", "os-stop"])
async def test_a_server_that_is_being_built_refuses_for_now_in_the_same_words(
    backend: OpenStackBackend, servers: ServerCloud, action: str
) -> None:
    building = {"status": "BUILD", TASK: "scheduling"}
    assert await refused(backend, servers, action, retryable=True, **building) == "busy"


async def test_a_resize_waits_for_a_host_that_is_away(backend: OpenStackBackend, servers: ServerCloud) -> None:
    answer, vm = Recording("refusals/host_away").at("resize"), servers.add_marked()
    servers.refused = {("POST", "/action"): Reply(answer.status, answer.body)}
    resize = backend.resize_server(token(), spec_of(vm, (2, 4096, 40)))
    assert await code_of(resize, retryable=True) == "cloud_unavailable"
    servers.refused.clear()
    await backend.resize_server(token(), spec_of(vm, (2, 4096, 40)))


@pytest.mark.parametrize("end", ["/os-volume_attachments", "/os-interface"])
async def test_nothing_is_attached_to_a_server_that_does_not_exist(
    backend: OpenStackBackend, servers: ServerCloud, end: str
) -> None:
    gone = Recording("refusals/compute").at("unknown server")
    servers.refused = {("POST", end): Reply(gone.status, gone.body)}
    vm, volume = Ref(uuid4(), gone.last_id), Ref(uuid4(), servers.add("volumes"))
    port = PortSpec(Ref(uuid4()), UUID(NETWORK))
    attach: Awaitable[object] = (
        backend.attach_volume(token(), vm, volume, None)
        if end == "/os-volume_attachments"
        else backend.create_server_interface(token(), vm, port)
    )
    assert await code_of(attach, retryable=False) == "server_not_found"
