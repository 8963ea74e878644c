"""Servers of a cloud: created once, found by id or mark, shown, deleted and listed with all that is ours."""

from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.errors import Service
from activities.backends.protocol import BackendError
from activities.backends.resources import Fault, PortSpec, Ref, Server
from domain.rules.cloud import ServerStatus
from domain.rules.resources import Kind
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.guarded import let_time_pass
from tests.backends.openstack.resource_cloud import NETWORK, ResourceCloud
from tests.backends.openstack.server_cloud import FLAVOR, IMAGE, TASK, ServerCloud, spec_of, token

NO_HOST = "No valid host was found."
FAULT = {"code": 500, "message": f"{NO_HOST} ", "created": "2026-11-27T13:00:00Z"}
SPAWNING: dict[str, Any] = {"status": "BUILD", TASK: "spawning"}


@pytest.fixture
def servers(resources: ResourceCloud, server: CloudServer) -> ServerCloud:
    """The cloud's servers."""
    del resources  # this replaces them
    return ServerCloud(server)


def port(*, cloud_id: str | None = None) -> PortSpec:
    """A port that a server should have; with an id it exists already."""
    return PortSpec(Ref(uuid4(), cloud_id), UUID(NETWORK))


async def test_a_new_server_has_our_marks_and_is_made_once(
    backend: OpenStackBackend, server: CloudServer, servers: ServerCloud
) -> None:
    vm, call = Ref(uuid4()), token()
    cloud_id = await backend.create_server(call, spec_of(vm), [port(cloud_id="port-1"), port()])
    assert await backend.create_server(call, spec_of(vm), [port(cloud_id="port-1"), port()]) == cloud_id
    (request,) = server.seen("POST", "/servers")
    assert request.body == {
        "server": {
            "name": "web-1",
            "flavorRef": FLAVOR.cloud_id,
            "imageRef": IMAGE.cloud_id,
            "networks": [{"port": "port-1"}, {"uuid": NETWORK}],
            "tags": [f"vm:{vm.id}", f"op:{call.operation_id}"],
            "metadata": {"osvm_vm": str(vm.id), "osvm_operation": str(call.operation_id), "osvm_step": call.step},
        }
    }
    assert list(servers.things["servers"]) == [cloud_id]


async def test_user_data_goes_to_nova_as_base64_and_into_no_other_field(
    backend: OpenStackBackend, server: CloudServer, servers: ServerCloud
) -> None:
    content = b"#!/bin/sh\necho tell-nobody \xc3\xbc\n"
    spec = replace(spec_of(Ref(uuid4())), user_data=content)
    await backend.create_server(token(), spec)
    sent = server.seen("POST", "/servers")[0].body["server"]
    assert b64decode(sent.pop("user_data")) == content
    assert "tell-nobody" not in f"{sent}{spec}"
    assert servers.things["servers"]


async def test_a_server_without_interfaces_gets_no_network(
    backend: OpenStackBackend, server: CloudServer, servers: ServerCloud
) -> None:
    await backend.create_server(token(), spec_of(Ref(uuid4())))
    assert server.seen("POST", "/servers")[0].body["server"]["networks"] == "none"
    assert servers.things["servers"]


async def test_a_server_whose_answer_is_lost_is_found_by_the_mark_of_its_operation(
    backend: OpenStackBackend, server: CloudServer, servers: ServerCloud
) -> None:
    vm, call = Ref(uuid4()), token()
    servers.add_marked(vm.id, uuid4())  # of an earlier operation
    servers.lost = {("POST", "/servers")}
    with pytest.raises(BackendError) as lost:
        await backend.create_server(call, spec_of(vm))
    assert (lost.value.code, lost.value.retryable) == ("cloud_timeout", True)
    cloud_id = await backend.create_server(call, spec_of(vm))
    assert f"op:{call.operation_id}" in servers.things["servers"][cloud_id]["tags"]
    assert len(server.seen("POST", "/servers")) == 1


@pytest.mark.parametrize("age", [timedelta(days=1), timedelta(seconds=-1)])
async def test_a_server_that_a_cell_may_hide_is_not_made_again(
    backend: OpenStackBackend, engine: AsyncEngine, server: CloudServer, servers: ServerCloud, age: timedelta
) -> None:
    call = token()
    server.add(Service.COMPUTE, "POST", "/servers", Reply(is_cut=True))
    with pytest.raises(BackendError):
        await backend.create_server(call, spec_of(Ref(uuid4())))
    await let_time_pass(engine, 130)
    created = f"{datetime.now(UTC) - age:%Y-%m-%dT%H:%M:%SZ}"
    servers.things["servers"]["hidden"] = {"id": "hidden", "status": "UNKNOWN", "created": created}
    if age > timedelta():
        await backend.create_server(call, spec_of(Ref(uuid4())))
    else:
        with pytest.raises(BackendError) as hidden:
            await backend.create_server(call, spec_of(Ref(uuid4())))
        assert (hidden.value.code, hidden.value.retryable) == ("cloud_unavailable", True)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, (ServerStatus.ACTIVE, False, None)),
        ({TASK: "powering-off"}, (ServerStatus.ACTIVE, True, None)),
        ({"status": "BUILD"}, (ServerStatus.BUILD, True, None)),
        ({"status": "HARD_REBOOT", TASK: "rebooting_hard"}, (ServerStatus.REBOOT, True, None)),
        ({"status": "PAUSED"}, (ServerStatus.PAUSED, False, None)),
        ({"status": "MIGRATING", TASK: "migrating"}, (ServerStatus.UNKNOWN, True, None)),
        ({"status": "UNKNOWN"}, (ServerStatus.UNKNOWN, True, None)),
        ({"status": "ERROR", "fault": FAULT}, (ServerStatus.ERROR, False, Fault("no_valid_host", NO_HOST))),
    ],
)
async def test_a_server_is_shown_as_the_cloud_has_it(
    backend: OpenStackBackend,
    servers: ServerCloud,
    fields: dict[str, Any],
    shown: tuple[ServerStatus, bool, Fault | None],
) -> None:
    servers.add_server()  # somebody else's
    vm = servers.add_marked(updated=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **fields)
    status, is_busy, fault = shown
    about: Any = {"image_id": IMAGE.cloud_id, "availability_zone": "nova"}
    expected = Server(vm.id, status, 1, 512, 1, is_busy=is_busy, fault=fault, **about)
    for ref in (vm, Ref(vm.id)):
        others = [Ref(uuid4()), Ref(uuid4(), str(uuid4()))]
        assert await backend.list_servers([ref, *others]) == {vm.id: expected}


async def test_a_server_of_a_cell_that_is_down_is_neither_gone_nor_at_rest(
    backend: OpenStackBackend, servers: ServerCloud
) -> None:
    vm = Ref(uuid4(), "hidden")
    servers.things["servers"]["hidden"] = {"id": "hidden", "status": "UNKNOWN", "created": "2026-11-27T13:00:00Z"}
    shown = (await backend.list_servers([vm]))[vm.id]
    assert (shown.status, shown.is_busy) == (ServerStatus.UNKNOWN, True)


@pytest.mark.parametrize("status", ["DELETED", "SOFT_DELETED"])
async def test_a_deleted_server_that_the_cloud_still_shows_does_not_exist(
    backend: OpenStackBackend, servers: ServerCloud, status: str
) -> None:
    vm = servers.add_marked(status=status)
    assert await backend.list_servers([vm, Ref(vm.id)]) == {}


async def test_a_delete_removes_the_server_and_the_ports_that_we_made(
    backend: OpenStackBackend, servers: ServerCloud
) -> None:
    vm, other = servers.add_marked(), servers.add_marked()
    ours = {"name": f"osvm-{uuid4()}-1", "description": f"osvm vm:{vm.id}"}
    servers.add("ports", device_id=vm.cloud_id, **ours)
    kept = servers.add("ports", device_id="", name="", description="")
    call = token()
    await backend.delete_server(call, vm)
    await backend.delete_server(call, vm)
    assert list(servers.things["servers"]) == [other.cloud_id]
    assert list(servers.things["ports"]) == [kept]


@pytest.mark.parametrize("by_purge", [True, False])
async def test_a_server_whose_id_is_not_known_is_deleted_by_its_mark(
    backend: OpenStackBackend, servers: ServerCloud, *, by_purge: bool
) -> None:
    vm, stranger = servers.add_marked(), servers.add_server()
    servers.add_marked(vm.id)
    for _ in range(2):
        await (backend.purge(Ref(vm.id)) if by_purge else backend.delete_server(token(), Ref(vm.id)))
    assert list(servers.things["servers"]) == [stranger]


async def test_a_purge_of_a_server_leaves_another_one_with_its_mark(
    backend: OpenStackBackend, servers: ServerCloud
) -> None:
    vm = servers.add_marked()
    double = servers.add_marked(vm.id)
    await backend.purge(double)
    assert list(servers.things["servers"]) == [vm.cloud_id]


async def test_the_inventory_has_what_has_our_marks_and_nothing_else(
    backend: OpenStackBackend, servers: ServerCloud
) -> None:
    vm, volume_id, interface_id = servers.add_marked(**SPAWNING), uuid4(), uuid4()
    volume = servers.add("volumes", status="available", metadata={"osvm_volume": str(volume_id)})
    ours = {"name": f"osvm-{interface_id}-2", "description": f"osvm vm:{vm.id}"}
    port_id = servers.add("ports", status="DOWN", **ours)
    snapshot_id = uuid4()
    of_snapshot = {
        "osvm_snapshot": str(snapshot_id),
        "osvm_server": "server-1",
        "osvm_base": "base",
        "status": "active",
    }
    image = servers.add("images", instance_uuid="server-1", base_image_ref="base", **of_snapshot)
    servers.add_server()
    servers.add("volumes", metadata={})
    servers.add("ports", name="", description="")
    # Somebody else's, of servers that were built from our snapshot, once the same server after a restore.
    servers.add("images", instance_uuid="server-2", base_image_ref=image, **of_snapshot)
    servers.add("images", instance_uuid="server-1", base_image_ref=image, **of_snapshot)
    found = {kind: (await backend.inventory(kind, None)).items for kind in Kind if kind is not Kind.ATTACHMENT}
    assert {
        kind: {id: (item.id, item.state, item.vm_id) for id, item in items.items()} for kind, items in found.items()
    } == {
        Kind.VM: {vm.cloud_id: (vm.id, "BUILD", None)},
        Kind.VOLUME: {volume: (volume_id, "available", None)},
        Kind.INTERFACE: {port_id: (interface_id, "DOWN", vm.id)},
        Kind.SNAPSHOT: {image: (snapshot_id, "active", None)},
    }


async def test_a_cloud_that_cannot_be_asked_is_asked_again_later_and_says_why(
    backend: OpenStackBackend, servers: ServerCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.backends.openstack.base.ANSWER_TIMEOUT", 0.5)
    vm = servers.add_marked()
    servers.refused = {("GET", f"/servers/{vm.cloud_id}"): Reply(403, {"forbidden": {"message": "Not for you."}})}
    for _ in range(20):  # on a busy machine the first question may be given up before the cloud has answered
        with pytest.raises(BackendError) as refused:
            await backend.list_servers([vm])
        if refused.value.code != "no_answer":
            break
    assert (refused.value.code, refused.value.retryable) == ("forbidden", True)


async def test_the_inventory_has_pages(backend: OpenStackBackend, server: CloudServer, servers: ServerCloud) -> None:
    vm = servers.add_marked()
    link = {"rel": "next", "href": f"http://cloud/servers/detail?limit=500&marker={vm.cloud_id}"}
    first = Reply(200, {"servers": [servers.of(vm)], "servers_links": [link]})
    server.add(Service.COMPUTE, "GET", "/servers/detail", first, Reply(200, {"servers": []}))
    page = await backend.inventory(Kind.VM, None)
    assert (list(page.items), page.next) == ([vm.cloud_id], vm.cloud_id)
    last = await backend.inventory(Kind.VM, page.next)
    assert (last.items, last.next) == ({}, None)
    assert [request.query for request in server.seen("GET", "/detail")] == [
        "limit=500",
        f"limit=500&marker={vm.cloud_id}",
    ]
