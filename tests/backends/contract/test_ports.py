"""Ports: with chosen addresses, plugged into servers that run, and unplugged."""

from dataclasses import replace
from uuid import uuid4

from activities.backends.resources import Ref
from domain.rules.cloud import ServerStatus
from domain.rules.resources import Kind
from tests.backends.contract.lab import Lab, new_token, refusal


async def test_a_chosen_address_is_had_by_one_port_which_goes_with_its_server(lab: Lab) -> None:
    vm, wanted, token = Ref(uuid4()), lab.port(lab.addresses[0]), new_token()
    (port,) = await lab.backend.create_ports(token, vm, [wanted, lab.port()])
    assert (port.id, port.vm_id, port.ip_address) == (wanted.interface.id, vm.id, wanted.ip_address)
    assert list(await lab.backend.create_ports(token, vm, [wanted])) == [port]
    assert wanted.interface.id in await lab.inventory(Kind.INTERFACE)
    same = lab.port(lab.addresses[0])
    assert await refusal(lab.backend.create_ports(new_token(), Ref(uuid4()), [same])) == ("address_in_use", False)

    token, made = new_token(), replace(wanted, interface=Ref(wanted.interface.id, port.cloud_id))
    vm = Ref(vm.id, await lab.backend.create_server(token, lab.spec(lab.small, vm), [made]))
    assert (await lab.settle(vm, token)).status is ServerStatus.ACTIVE
    assert list(await lab.backend.list_ports([vm])) == [port]
    await lab.delete(vm)
    assert await lab.backend.list_ports([vm]) == []
    assert wanted.interface.id not in await lab.inventory(Kind.INTERFACE)


async def test_ports_are_plugged_and_unplugged_while_a_server_runs(lab: Lab) -> None:
    vm = await lab.new_server()
    (first,) = await lab.backend.list_ports([vm])
    wanted, token = lab.port(), new_token()
    port = await lab.backend.create_server_interface(token, vm, wanted)
    assert await lab.backend.create_server_interface(token, vm, wanted) == port
    assert (port.id, port.vm_id, port.network_id) == (wanted.interface.id, vm.id, lab.network_id)
    assert {found.cloud_id for found in await lab.backend.list_ports([vm])} == {first.cloud_id, port.cloud_id}
    taken = lab.port(port.ip_address)
    assert await refusal(lab.backend.create_server_interface(new_token(), vm, taken)) == ("address_in_use", False)
    for _ in range(2):
        await lab.backend.delete_server_interface(new_token(), vm, Ref(wanted.interface.id, port.cloud_id))
        assert {found.cloud_id for found in await lab.backend.list_ports([vm])} == {first.cloud_id}
