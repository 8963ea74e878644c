"""Actions on servers: each is sent once, and is over when the server and the action's own entry say so."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack.actions import DELETES
from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.errors import Service
from activities.backends.openstack.schema import calls as table
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.guarded import let_time_pass
from tests.backends.openstack.resource_cloud import ResourceCloud
from tests.backends.openstack.server_cloud import ENDED, FLAVOR, IMAGE, OPEN, TASK, ServerCloud, spec_of, token

LARGE = (2, 4096, 40)
LATER = timedelta(seconds=31)
Act = Callable[[OpenStackBackend, Token, Ref], Awaitable[None]]
FAILED = [OPEN[0] | {"finish_time": "2026-11-27T13:00:01.000000", "result": "Error"}]


async def make_older(engine: AsyncEngine, call: Token) -> None:
    """Make the operation's calls half a minute older, by the cloud's clock."""
    of_operation = table.c.operation_id == call.operation_id
    async with engine.begin() as tx:
        await tx.execute(update(table).where(of_operation).values(intent_at=table.c.intent_at - LATER))


@pytest.fixture
def servers(resources: ResourceCloud, server: CloudServer) -> ServerCloud:
    """The cloud's servers."""
    del resources  # this replaces them
    return ServerCloud(server)


async def start(backend: OpenStackBackend, call: Token, vm: Ref) -> None:
    await backend.start_server(call, vm)


async def stop(backend: OpenStackBackend, call: Token, vm: Ref) -> None:
    await backend.stop_server(call, vm)


async def reboot(backend: OpenStackBackend, call: Token, vm: Ref) -> None:
    await backend.reboot_server(call, vm, hard=False)


async def reboot_hard(backend: OpenStackBackend, call: Token, vm: Ref) -> None:
    await backend.reboot_server(call, vm, hard=True)


async def resize(backend: OpenStackBackend, call: Token, vm: Ref) -> None:
    await backend.resize_server(call, spec_of(vm, LARGE))


async def confirm(backend: OpenStackBackend, call: Token, vm: Ref) -> None:
    await backend.confirm_server_resize(call, vm)


async def revert(backend: OpenStackBackend, call: Token, vm: Ref) -> None:
    await backend.revert_server_resize(call, vm)


async def rebuild(backend: OpenStackBackend, call: Token, vm: Ref) -> None:
    await backend.rebuild_server(call, spec_of(vm))


@pytest.mark.parametrize(
    ("act", "status", "body"),
    [
        (start, "SHUTOFF", {"os-start": None}),
        (stop, "ACTIVE", {"os-stop": None}),
        (reboot, "ACTIVE", {"reboot": {"type": "SOFT"}}),
        (reboot_hard, "SHUTOFF", {"reboot": {"type": "HARD"}}),
        (resize, "ACTIVE", {"resize": {"flavorRef": FLAVOR.cloud_id}}),
        (confirm, "VERIFY_RESIZE", {"confirmResize": None}),
        (revert, "VERIFY_RESIZE", {"revertResize": None}),
        (rebuild, "ACTIVE", {"rebuild": {"imageRef": IMAGE.cloud_id}}),
    ],
)
async def test_an_action_is_sent_once(
    backend: OpenStackBackend, servers: ServerCloud, act: Act, status: str, body: Any
) -> None:
    for keeps_id in (True, False):
        vm, call = servers.add_marked(status=status), token()
        ref = vm if keeps_id else Ref(vm.id)
        for _ in range(2):
            await act(backend, call, ref)
        assert await backend.is_over(call.operation_id, ref)
    assert servers.sent() == [body, body]


@pytest.mark.parametrize(
    ("act", "status"),
    [(start, "ACTIVE"), (stop, "SHUTOFF"), (confirm, "ACTIVE"), (confirm, "SHUTOFF"), (revert, "ACTIVE")],
)
async def test_what_a_server_has_already_is_not_asked_for(
    backend: OpenStackBackend, servers: ServerCloud, act: Act, status: str
) -> None:
    vm, call = servers.add_marked(status=status), token()
    await act(backend, call, vm)
    assert servers.sent() == []
    assert await backend.is_over(call.operation_id, vm)


async def test_a_server_that_is_still_changing_does_not_have_it_yet(
    backend: OpenStackBackend, servers: ServerCloud
) -> None:
    vm = servers.add_marked(status="ACTIVE", **{TASK: "powering-off"})
    await backend.start_server(token(), vm)
    assert servers.sent() == [{"os-start": None}]


async def test_an_action_without_a_server_fails_for_good(backend: OpenStackBackend, servers: ServerCloud) -> None:
    for vm in (Ref(uuid4()), Ref(uuid4(), str(uuid4()))):
        with pytest.raises(BackendError) as missing:
            await backend.reboot_server(token(), vm, hard=True)
        assert (missing.value.code, missing.value.retryable) == ("server_not_found", False)
    assert servers.sent() == []


async def test_a_reboot_whose_answer_is_lost_is_found_by_its_entry(
    backend: OpenStackBackend, servers: ServerCloud
) -> None:
    vm, call = servers.add_marked(), token()
    await backend.reboot_server(token(), vm, hard=True)  # its entry is known to be of another call
    servers.entry |= {"request_id": "req-lost"}
    servers.lost = {("POST", "/action")}
    with pytest.raises(BackendError) as lost:
        await backend.reboot_server(call, vm, hard=True)
    assert lost.value.code == "cloud_timeout"
    await backend.reboot_server(call, vm, hard=True)
    assert len(servers.sent()) == 2
    assert await backend.is_over(call.operation_id, vm)


@pytest.mark.parametrize(
    "entry",
    [{"user_id": "somebody"}, {"action": "stop"}, {"message": "Error"}, {"start_time": "2026-01-01T00:00:00.000000"}],
)
async def test_an_entry_of_something_else_is_no_proof_that_a_reboot_was_carried_out(
    backend: OpenStackBackend, engine: AsyncEngine, server: CloudServer, servers: ServerCloud, entry: dict[str, str]
) -> None:
    vm, call = servers.add_marked(), token()
    server.add(Service.COMPUTE, "POST", f"/servers/{vm.cloud_id}/action", Reply(is_cut=True))
    servers.add_entry(vm.cloud_id or "", "reboot", **entry)
    for code in ("cloud_timeout", "settling"):
        with pytest.raises(BackendError) as failed:
            await backend.reboot_server(call, vm, hard=True)
        assert failed.value.code == code
    await let_time_pass(engine, 130)
    await backend.reboot_server(call, vm, hard=True)
    assert len(servers.sent()) == 2


@pytest.mark.parametrize(
    ("act", "entry", "code"),
    [
        (stop, {"message": "Error", "events": FAILED}, "action_failed"),
        (reboot, {"message": "Error", "events": FAILED}, "action_failed"),
        (resize, {"message": "Error", "events": []}, "no_valid_host"),
        (stop, {"events": OPEN}, "action_interrupted"),
        (reboot, {"events": OPEN}, "action_interrupted"),
        (stop, {"events": ENDED}, "changed_meanwhile"),
    ],
)
async def test_a_failure_that_the_status_does_not_show_has_a_reason(
    backend: OpenStackBackend, servers: ServerCloud, act: Act, entry: dict[str, Any], code: str
) -> None:
    vm, call = servers.add_marked(), token()
    servers.entry, servers.effects = entry, {}
    await act(backend, call, vm)
    if code == "action_interrupted":
        # The cloud may still close it.
        assert not await backend.is_over(call.operation_id, vm)
        servers.server.clock_ahead = LATER.total_seconds()
    with pytest.raises(BackendError) as failed:
        await backend.is_over(call.operation_id, vm)
    assert (failed.value.code, failed.value.retryable) == (code, False)


async def test_a_busy_server_is_not_over(backend: OpenStackBackend, servers: ServerCloud) -> None:
    vm, call = servers.add_marked(), token()
    servers.effects = {"os-stop": {TASK: "powering-off"}}
    await backend.stop_server(call, vm)
    assert not await backend.is_over(call.operation_id, vm)


async def test_an_operation_that_has_asked_for_nothing_is_over(backend: OpenStackBackend, servers: ServerCloud) -> None:
    assert await backend.is_over(uuid4(), servers.add_marked())


@pytest.mark.parametrize("task", [None, "deleting"])
async def test_a_delete_that_did_nothing_is_sent_again_after_a_while(
    backend: OpenStackBackend, engine: AsyncEngine, server: CloudServer, servers: ServerCloud, task: str | None
) -> None:
    vm, call = servers.add_marked(updated=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **{TASK: task}), token()
    server.add(Service.COMPUTE, "DELETE", f"/servers/{vm.cloud_id}", Reply(204))  # and it is still there
    await backend.delete_server(call, vm)
    assert not await backend.is_over(call.operation_id, vm)
    assert len(server.seen("DELETE", f"/servers/{vm.cloud_id}")) == 1
    await make_older(engine, call)
    assert not await backend.is_over(call.operation_id, vm)
    assert vm.cloud_id not in servers.things["servers"]


async def test_a_delete_that_fails_is_sent_again_a_few_times(
    backend: OpenStackBackend, engine: AsyncEngine, server: CloudServer, servers: ServerCloud
) -> None:
    fault = {"code": 500, "message": "The network service failed.", "created": "2999-01-01T00:00:00Z"}
    vm, call = servers.add_marked(status="ERROR", fault=fault), token()
    server.add(Service.COMPUTE, "DELETE", f"/servers/{vm.cloud_id}", *[Reply(204)] * DELETES)
    await backend.delete_server(call, vm)
    for _ in range(DELETES - 1):
        assert not await backend.is_over(call.operation_id, vm)
        await make_older(engine, call)
        assert not await backend.is_over(call.operation_id, vm)
    with pytest.raises(BackendError) as failed:
        await backend.is_over(call.operation_id, vm)
    assert (failed.value.code, failed.value.retryable) == ("server_error", False)
    assert len(server.seen("DELETE", f"/servers/{vm.cloud_id}")) == DELETES


async def test_a_double_of_a_new_server_is_deleted_once_the_right_one_runs(
    backend: OpenStackBackend, engine: AsyncEngine, server: CloudServer, servers: ServerCloud
) -> None:
    vm, call = Ref(uuid4()), token()
    server.add(Service.COMPUTE, "POST", "/servers", Reply(is_cut=True))
    with pytest.raises(BackendError):
        await backend.create_server(call, spec_of(vm))
    await let_time_pass(engine, 130)
    cloud_id = await backend.create_server(call, spec_of(vm))
    servers.add_marked(vm.id, call.operation_id)  # of the first attempt, later than anybody could wait for
    other = servers.add_marked(vm.id, uuid4())
    # A worker that takes over asks again, long after the delete of the double.
    for _ in range(2):
        assert await backend.is_over(call.operation_id, Ref(vm.id, cloud_id))
        assert list(servers.things["servers"]) == [cloud_id, other.cloud_id]
        await let_time_pass(engine, 60)
        await make_older(engine, call)


async def test_a_rebuild_that_needs_another_flavor_is_refused(backend: OpenStackBackend, servers: ServerCloud) -> None:
    vm = servers.add_marked()
    with pytest.raises(BackendError) as refused:
        await backend.rebuild_server(token(), spec_of(vm, LARGE))
    assert (refused.value.code, refused.value.retryable) == ("not_supported_by_cloud", False)
    assert servers.sent() == []


async def test_a_rebuild_finds_the_image_of_a_snapshot_by_its_mark(
    backend: OpenStackBackend, servers: ServerCloud
) -> None:
    vm, snapshot_id = servers.add_marked(), uuid4()
    spec = replace(spec_of(vm), image=Ref(snapshot_id))
    with pytest.raises(BackendError) as missing:
        await backend.rebuild_server(token(), spec)
    assert missing.value.code == "image_not_found"
    marks = {"osvm_snapshot": str(snapshot_id), "osvm_server": vm.cloud_id}
    image = servers.add("images", instance_uuid=vm.cloud_id, **marks)
    await backend.rebuild_server(token(), spec)
    assert servers.sent() == [{"rebuild": {"imageRef": image}}]
