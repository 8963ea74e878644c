"""Builds that the cloud gives up: those that may succeed if they are repeated are repeated, a few times."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from activities.backends.openstack.actions import BUILDS
from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.errors import Service
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from domain.rules.errors import BUILD_AGAIN
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.resource_cloud import ResourceCloud, code_of
from tests.backends.openstack.server_cloud import TASK, ServerCloud, spec_of, token

HIDDEN = "Exceeded maximum number of retries. Exhausted all hosts available for retrying build failures."
HOST_FAILED = "Build of instance aborted: Failed to allocate the network(s), not rescheduling."


@pytest.fixture
def servers(resources: ResourceCloud, server: CloudServer) -> ServerCloud:
    """The cloud's servers."""
    del resources  # this replaces them
    return ServerCloud(server)


def fail(servers: ServerCloud, vm: Ref, reason: str) -> None:
    """Let the build of the VM's server fail."""
    fault = {"code": 500, "message": reason, "created": "2999-01-01T00:00:00Z"}
    servers.of(vm).update(status="ERROR", fault=fault)


def lose(servers: ServerCloud, vm: Ref, age: timedelta) -> None:
    """Let the cloud look for a host since then."""
    now = datetime.now(UTC)
    times = {"created": f"{now - age:%Y-%m-%dT%H:%M:%SZ}", "updated": f"{now:%Y-%m-%dT%H:%M:%SZ}"}
    servers.of(vm).update({"status": "BUILD", TASK: "scheduling", **times})


async def build(backend: OpenStackBackend, call: Token, vm: Ref) -> Ref:
    """Do what the step of the build does."""
    return Ref(vm.id, await backend.create_server(call, spec_of(vm)))


@pytest.mark.parametrize("reason", [HIDDEN, HOST_FAILED])
async def test_a_build_that_failed_is_repeated_and_what_it_left_is_deleted(
    backend: OpenStackBackend, servers: ServerCloud, reason: str
) -> None:
    call, vm = token(), Ref(uuid4())
    for _ in range(BUILDS - 1):
        vm = await build(backend, call, vm)
        assert await build(backend, call, vm) == vm
        fail(servers, vm, reason)
        assert await code_of(backend.is_over(call.operation_id, vm), retryable=False) == BUILD_AGAIN
        assert not servers.things["servers"]
        # The worker died before it could say so.
        assert await code_of(backend.is_over(call.operation_id, vm), retryable=False) == BUILD_AGAIN
    vm = await build(backend, call, vm)
    fail(servers, vm, reason)
    assert await code_of(backend.is_over(call.operation_id, vm), retryable=False) in {"build_failed", "server_error"}
    assert list(servers.things["servers"]) == [vm.cloud_id]


@pytest.mark.parametrize("reason", ["No valid host was found.", "Image 1 is unacceptable: too large."])
async def test_a_build_that_would_fail_again_is_not_repeated(
    backend: OpenStackBackend, servers: ServerCloud, reason: str
) -> None:
    call, vm = token(), Ref(uuid4())
    vm = await build(backend, call, vm)
    fail(servers, vm, reason)
    assert await code_of(backend.is_over(call.operation_id, vm), retryable=False) in {"no_valid_host", "server_error"}
    assert vm.cloud_id in servers.things["servers"]


async def test_a_build_whose_message_was_lost_is_repeated(
    backend: OpenStackBackend, servers: ServerCloud, server: CloudServer
) -> None:
    """Nothing in Nova goes on with it. It shows as changed just now, however old it is."""
    call, vm = token(), Ref(uuid4())
    for _ in range(BUILDS - 1):
        vm = await build(backend, call, vm)
        lose(servers, vm, timedelta(minutes=4))
        assert await backend.is_over(call.operation_id, vm) is False
        lose(servers, vm, timedelta(minutes=6))
        assert await code_of(backend.is_over(call.operation_id, vm), retryable=False) == BUILD_AGAIN
        assert not servers.things["servers"]
    vm = await build(backend, call, vm)
    lose(servers, vm, timedelta(minutes=6))
    assert await backend.is_over(call.operation_id, vm) is False
    assert len(server.seen("POST", "/servers")) == BUILDS


async def test_a_build_is_repeated_only_when_the_failed_server_is_gone(
    backend: OpenStackBackend, servers: ServerCloud, server: CloudServer
) -> None:
    call, vm = token(), Ref(uuid4())
    vm = await build(backend, call, vm)
    fail(servers, vm, HIDDEN)
    server.add(Service.COMPUTE, "DELETE", f"/servers/{vm.cloud_id}", Reply(204))  # and it is still there
    assert await code_of(backend.is_over(call.operation_id, vm), retryable=False) == BUILD_AGAIN
    assert await code_of(build(backend, call, vm), retryable=True) == "busy"
    del servers.things["servers"][vm.cloud_id or ""]
    assert (await build(backend, call, vm)).cloud_id != vm.cloud_id


async def test_a_failed_build_that_cannot_be_deleted_now_is_deleted_later(
    backend: OpenStackBackend, servers: ServerCloud, server: CloudServer
) -> None:
    """So it is while Keystone is away, which is also why builds fail."""
    call, vm = token(), Ref(uuid4())
    vm = await build(backend, call, vm)
    fail(servers, vm, HOST_FAILED)
    away = {"conflictingRequest": {"code": 409, "message": "Failed to delete allocations for consumer 1."}}
    server.add(Service.COMPUTE, "DELETE", f"/servers/{vm.cloud_id}", Reply(409, away))
    assert await code_of(backend.is_over(call.operation_id, vm), retryable=True) == "cloud_unavailable"
    assert await code_of(backend.is_over(call.operation_id, vm), retryable=False) == BUILD_AGAIN
    assert not servers.things["servers"]


async def test_a_server_that_somebody_else_deleted_is_not_built_again(
    backend: OpenStackBackend, servers: ServerCloud
) -> None:
    call, vm = token(), Ref(uuid4())
    vm = await build(backend, call, vm)
    servers.things["servers"].clear()
    assert await code_of(backend.is_over(call.operation_id, vm), retryable=False) == "server_gone"


async def test_a_build_that_is_revoked_is_not_repeated(backend: OpenStackBackend, servers: ServerCloud) -> None:
    call, vm = token(), Ref(uuid4())
    vm = await build(backend, call, vm)
    fail(servers, vm, HIDDEN)
    with pytest.raises(BackendError):
        await backend.is_over(call.operation_id, vm)
    await backend.revoke(call.operation_id)
    await build(backend, call, vm)
    assert not servers.things["servers"]
