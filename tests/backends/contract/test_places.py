"""Where servers are put: availability zones and security groups."""

from dataclasses import replace
from uuid import uuid4

from activities.backends.resources import Ref
from tests.backends.contract.lab import Lab, new_token, refusal, refusals


async def test_a_server_is_in_the_zone_and_the_groups_that_it_asks_for(lab: Lab) -> None:
    spec = replace(lab.small, availability_zone=lab.zone, security_groups=(lab.group,))
    server = await lab.server(await lab.new_server(spec))
    assert server is not None
    assert server.availability_zone == lab.zone


async def test_a_server_that_asks_for_nothing_is_told_its_zone(lab: Lab) -> None:
    server = await lab.server(await lab.new_server())
    assert server is not None
    assert server.availability_zone


async def test_zones_and_groups_that_do_not_exist_are_refused(lab: Lab) -> None:
    unknown = (str(uuid4()),)
    refused = await refusals(
        lab.begin_server(replace(lab.small, availability_zone="mars")),
        lab.begin_server(replace(lab.small, security_groups=unknown)),
    )
    assert refused == [("bad_request", False)] * 2
    wanted = replace(lab.port(lab.addresses[1]), security_groups=unknown)
    call = lab.backend.create_ports(new_token(), Ref(uuid4()), [wanted])
    assert await refusal(call) == ("bad_request", False)


async def test_an_interface_that_is_attached_later_has_groups_and_a_chosen_address(lab: Lab) -> None:
    vm = await lab.new_server()
    wanted = replace(lab.port(lab.addresses[1]), security_groups=(lab.group,))
    port = await lab.backend.create_server_interface(new_token(), vm, wanted)
    assert (port.vm_id, port.ip_address) == (vm.id, lab.addresses[1])
    await lab.delete(vm)
    assert await lab.backend.list_ports([vm]) == []
