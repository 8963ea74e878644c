"""Ports of a cloud: made, plugged, unplugged and deleted once, also if Nova or somebody else has a hand in it."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack import ports
from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.errors import Service
from activities.backends.resources import Port, PortSpec, Ref
from tests.backends.openstack.cloud_server import REQUEST_ID, CloudServer, Reply
from tests.backends.openstack.guarded import let_time_pass
from tests.backends.openstack.resource_cloud import CUT, NETWORK, ResourceCloud, code_of, token

HOST_FAILED = Reply(500, {"computeFault": {"code": 500, "message": "Failed to attach network adapter device"}})
IN_USE = Reply(409, {"conflictingRequest": {"code": 409, "message": "Port is still in use."}})


@pytest.fixture
def vm(resources: ResourceCloud) -> Ref:
    """A VM with a server."""
    return Ref(uuid4(), resources.add_server())


def wanted(ip_address: str | None = None, mac_address: str | None = None) -> PortSpec:
    """A port that does not exist yet."""
    return PortSpec(Ref(uuid4()), UUID(NETWORK), ip_address, mac_address)


def add_port(resources: ResourceCloud, vm: Ref, *, is_plugged: bool = True, attempt: int = 1) -> Ref:
    """Add a port with our marks."""
    id = uuid4()
    marks = {"name": f"osvm-{id}-{attempt}", "description": f"osvm vm:{vm.id}"}
    return Ref(id, resources.add("ports", device_id=vm.cloud_id if is_plugged else "", **marks))


def deletes(server: CloudServer) -> list[str]:
    """Return what was unplugged or deleted: the last parts of the paths."""
    return [request.path.split("/")[-2] for request in server.seen("DELETE", "")]


async def test_only_a_port_with_a_wanted_address_is_made_before_its_server(
    backend: OpenStackBackend, server: CloudServer, vm: Ref
) -> None:
    port, call = wanted("10.11.0.9", "fa:16:3e:00:00:01"), token()
    made = await backend.create_ports(call, vm, [wanted(), port])
    assert await backend.create_ports(call, vm, [wanted(), port]) == made
    assert [(found.id, found.vm_id, found.ip_address) for found in made] == [(port.interface.id, vm.id, "10.11.0.9")]
    (request,) = server.seen("POST", "/ports")
    assert request.body["port"] == {
        "network_id": NETWORK,
        "name": f"osvm-{port.interface.id}-1",
        "description": f"osvm vm:{vm.id}",
        "mac_address": "fa:16:3e:00:00:01",
        "fixed_ips": [{"ip_address": "10.11.0.9"}],
    }


async def test_a_port_whose_answer_is_lost_is_found_by_its_marks(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    add_port(resources, vm)
    resources.ignores_filters = True
    resources.lost, call, port = {("POST", "/ports")}, token(), wanted("10.11.0.9")
    assert await code_of(backend.create_ports(call, vm, [port]), retryable=True) == "cloud_timeout"
    (made,) = await backend.create_ports(call, vm, [port])
    assert made.id == port.interface.id
    assert len(server.seen("POST", "/ports")) == 1


async def test_each_attempt_makes_a_port_of_its_own_and_the_first_that_appears_is_taken(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, engine: AsyncEngine, vm: Ref
) -> None:
    server.add(Service.NETWORK, "POST", "/ports", CUT, CUT)
    call, port = token(), wanted()
    for _ in range(2):
        await code_of(backend.create_server_interface(call, vm, port), retryable=True)
        await let_time_pass(engine, 121)
    names = [request.body["port"]["name"] for request in server.seen("POST", "/ports")]
    assert names == [f"osvm-{port.interface.id}-{attempt}" for attempt in (1, 2)]
    late = [resources.add("ports", name=name, description=f"osvm vm:{vm.id}") for name in reversed(names)]
    assert (await backend.create_server_interface(call, vm, port)).cloud_id == late[1]


async def test_an_interface_is_a_port_that_is_plugged_in_once(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    call, port = token(), wanted()
    made = await backend.create_server_interface(call, vm, port)
    assert await backend.create_server_interface(call, vm, port) == made
    assert made == Port(made.cloud_id, vm.id, UUID(NETWORK), "10.11.0.57", "fa:16:3e:33:80:2e", port.interface.id)
    assert resources.things["ports"][made.cloud_id]["device_id"] == vm.cloud_id
    assert [request.path.split("/")[-1] for request in server.seen("POST", "")] == ["ports", "os-interface"]


async def test_a_plug_whose_answer_is_lost_is_found(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    resources.lost, call, port = {("POST", "/os-interface")}, token(), wanted()
    assert await code_of(backend.create_server_interface(call, vm, port), retryable=True) == "cloud_timeout"
    await backend.create_server_interface(call, vm, port)
    assert len(server.seen("POST", "/os-interface")) == 1


async def test_a_plug_that_the_host_fails_fails_for_good(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref
) -> None:
    resources.refused = {("POST", "/os-interface"): HOST_FAILED}
    call, port = token(), wanted()
    assert await code_of(backend.create_server_interface(call, vm, port), retryable=True) == "cloud_error"
    resources.add_entry(str(vm.cloud_id), "attach_interface", request_id=REQUEST_ID, message="Error")
    plug = backend.create_server_interface(token(), vm, wanted())
    assert await code_of(plug, retryable=False) == "action_failed"


@pytest.mark.parametrize("by_us", [True, False])
async def test_a_port_in_use_is_plugged_only_if_this_server_has_it(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref, *, by_us: bool
) -> None:
    resources.refused = {("POST", "/os-interface"): IN_USE}
    port = add_port(resources, vm, is_plugged=by_us)
    absent = Reply(404, {"itemNotFound": {"message": "Not found."}})
    server.add(Service.COMPUTE, "GET", f"/servers/{vm.cloud_id}/os-interface/{port.cloud_id}", absent)
    plug = backend.create_server_interface(token(), vm, PortSpec(Ref(port.id), UUID(NETWORK)))
    if by_us:
        assert (await plug).cloud_id == port.cloud_id
    else:
        assert await code_of(plug, retryable=False) == "conflict"


async def test_a_port_that_is_gone_before_it_is_plugged_is_an_error(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref
) -> None:
    call, port = token(), wanted("10.11.0.9")
    await backend.create_ports(call, vm, [port])
    resources.things["ports"].clear()
    assert await code_of(backend.create_ports(call, vm, [port]), retryable=False) == "port_gone"
    no_server = backend.create_server_interface(token(), Ref(uuid4()), wanted())
    assert await code_of(no_server, retryable=False) == "server_not_found"


@pytest.mark.parametrize("is_noted", [True, False])
async def test_an_interface_is_unplugged_and_deleted_once(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref, *, is_noted: bool
) -> None:
    add_port(resources, vm)
    port, call = add_port(resources, vm), token()
    for _ in range(2):
        await backend.delete_server_interface(call, vm, port if is_noted else Ref(port.id))
    assert deletes(server) == ["os-interface", "ports"]
    assert len(resources.things["ports"]) == 1


async def test_a_port_that_nova_made_goes_away_when_it_is_unplugged(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    id = resources.add("ports", name="", description="", device_id=vm.cloud_id)
    shown = Reply(200, {"port": resources.things["ports"].pop(id)})
    server.add(Service.NETWORK, "GET", f"/ports/{id}", shown)
    await backend.delete_server_interface(token(), vm, Ref(uuid4(), id))
    assert deletes(server) == []


async def test_a_port_of_another_server_is_left_alone(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    port = add_port(resources, Ref(vm.id, str(uuid4())))
    assert await code_of(backend.delete_server_interface(token(), vm, port), retryable=False) == "conflict"
    assert deletes(server) == []


async def test_a_free_port_is_deleted_without_unplugging_it(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    await backend.delete_server_interface(token(), vm, add_port(resources, vm, is_plugged=False))
    assert deletes(server) == ["ports"]


@pytest.mark.parametrize("undoes", [True, False])
async def test_an_unplug_that_the_host_fails_is_tried_again_only_by_an_undo(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref, *, undoes: bool
) -> None:
    port, call = add_port(resources, vm), token(undoes=undoes)
    path = f"/servers/{vm.cloud_id}/os-interface/{port.cloud_id}"
    server.add(Service.COMPUTE, "DELETE", path, Reply(202))
    resources.add_entry(str(vm.cloud_id), "detach_interface", request_id=REQUEST_ID, message="Error")
    unplug = backend.delete_server_interface(call, vm, port)
    assert await code_of(unplug, retryable=undoes) == "action_failed"
    await backend.delete_server_interface(call, vm, port)
    assert deletes(server) == ["os-interface", "os-interface", "ports"]


async def test_a_slow_unplug_is_waited_for_by_the_next_attempt(
    backend: OpenStackBackend,
    resources: ResourceCloud,
    server: CloudServer,
    vm: Ref,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ports, "UNPLUG_TIME", 0.3)
    port, call = add_port(resources, vm), token()
    path = f"/servers/{vm.cloud_id}/os-interface/{port.cloud_id}"
    server.add(Service.COMPUTE, "DELETE", path, Reply(202))
    resources.add_entry(str(vm.cloud_id), "detach_interface", request_id=REQUEST_ID)
    assert await code_of(backend.delete_server_interface(call, vm, port), retryable=True) == "busy"
    resources.things["ports"][str(port.cloud_id)]["device_id"] = ""
    await backend.delete_server_interface(call, vm, port)
    assert deletes(server) == ["os-interface", "ports"]


async def test_an_undo_waits_for_a_port_that_may_still_appear(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    call, port = token(), wanted()
    server.add(Service.NETWORK, "POST", "/ports", CUT)
    await code_of(backend.create_server_interface(call, vm, port), retryable=True)
    undo = token(operation_id=call.operation_id, undoes=True)
    assert await code_of(backend.delete_server_interface(undo, vm, port.interface), retryable=True) == "settling"
    resources.add("ports", name=f"osvm-{port.interface.id}-1", description=f"osvm vm:{vm.id}")
    await backend.delete_server_interface(undo, vm, port.interface)
    assert not resources.things["ports"]


async def test_the_ports_of_a_vm_are_those_that_its_server_has(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref
) -> None:
    port = add_port(resources, vm)
    by_nova = resources.add("ports", name="", description="", device_id=vm.cloud_id)
    add_port(resources, vm, is_plugged=False)
    add_port(resources, Ref(uuid4(), resources.add_server()))
    resources.ignores_filters = True
    found = await backend.list_ports([vm])
    assert {(each.cloud_id, each.id, each.vm_id) for each in found} == {
        (port.cloud_id, port.id, vm.id),
        (by_nova, None, vm.id),
    }


async def test_what_is_left_of_a_vm_without_server_are_its_free_ports(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    gone, never = Ref(uuid4(), str(uuid4())), Ref(uuid4())
    left = [add_port(resources, vm, is_plugged=False) for vm in (gone, never)]
    found = await backend.list_ports([gone, never])
    assert {(each.cloud_id, each.vm_id) for each in found} == {
        (left[0].cloud_id, gone.id),
        (left[1].cloud_id, never.id),
    }
    assert await backend.list_ports([]) == []


async def test_ports_of_many_vms_are_asked_for_in_queries_that_fit_into_a_url(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer
) -> None:
    vms = [Ref(uuid4(), str(uuid4())) for _ in range(120)]
    plugged = [add_port(resources, vm) for vm in vms]
    assert {port.cloud_id for port in await backend.list_ports(vms)} == {port.cloud_id for port in plugged}
    assert all(len(request.query) < 4000 for request in server.received)


async def test_of_two_addresses_of_a_port_the_ipv4_one_is_shown(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref
) -> None:
    for addresses in (["fd00::9", "10.11.0.9"], ["fd00::9"], []):
        fixed_ips = [{"subnet_id": "one", "ip_address": address} for address in addresses]
        id = resources.add("ports", device_id=vm.cloud_id, fixed_ips=fixed_ips)
        (port,) = await backend.list_ports([vm])
        assert port.ip_address == (addresses[-1] if addresses else None)
        del resources.things["ports"][id]
