"""Where servers and ports are put in a cloud: its groups and zones, and the bodies that name them."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from activities.backends.openstack import bodies
from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.bodies import UnreadableError
from activities.backends.openstack.errors import Service
from activities.backends.openstack.placement import group_offers, zone_offers
from activities.backends.protocol import BackendError
from activities.backends.resources import PortSpec, Ref
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.recordings import Recording
from tests.backends.openstack.resource_cloud import NETWORK, ResourceCloud, code_of, token
from tests.backends.openstack.server_cloud import ServerCloud, spec_of

GROUPS = Recording("placement/lists").at("groups").body["security_groups"]
ZONE = Recording("placement/lists").at("zones").body["availabilityZoneInfo"][0]
OURS: str = GROUPS[0]["project_id"]
WEB, ADMIN = str(uuid4()), str(uuid4())


def test_only_the_projects_own_groups_are_offered() -> None:
    """An operator sees those of all projects. One that another project shares is none of ours."""
    foreign = GROUPS[0] | {"id": str(uuid4()), "project_id": "cd" * 16}
    assert [group.name for group in group_offers([*GROUPS, foreign], OURS)] == ["default", "placement"]


def test_a_group_without_a_description_or_a_name_is_offered() -> None:
    bare = GROUPS[0] | {"name": "", "description": None}
    (offer,) = group_offers([bare], OURS)
    assert (offer.name, offer.description) == (GROUPS[0]["id"], "")


def test_only_zones_that_are_up_are_offered() -> None:
    down = {"zoneName": "south", "zoneState": {"available": False}, "hosts": None}
    assert zone_offers([ZONE, down]) == ["nova"]


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (bodies.security_group_from, GROUPS[0] | {"id": "default"}),
        (bodies.security_group_from, GROUPS[0] | {"project_id": None}),
        (bodies.zone_from, {"zoneName": "nova"}),
        (bodies.zone_from, {"zoneState": {"available": True}}),
    ],
)
def test_a_row_without_what_is_needed_cannot_be_read(read: Any, body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError):
        read(body)


async def test_a_new_server_names_its_zone_and_its_groups(
    backend: OpenStackBackend, server: CloudServer, resources: ResourceCloud
) -> None:
    del resources
    ServerCloud(server)
    spec = replace(spec_of(Ref(uuid4())), availability_zone="nova", security_groups=(WEB, ADMIN))
    await backend.create_server(token(), spec, [PortSpec(Ref(uuid4()), UUID(NETWORK))])
    sent = server.seen("POST", "/servers")[0].body["server"]
    recorded = Recording("placement/server").at("accepted")
    assert (sent["availability_zone"], sent["security_groups"]) == ("nova", [{"name": WEB}, {"name": ADMIN}])
    assert recorded.status == 202


@pytest.mark.parametrize("groups", [(WEB, ADMIN), ()])
async def test_a_port_that_exists_before_its_server_has_the_groups_already(
    backend: OpenStackBackend, server: CloudServer, resources: ResourceCloud, groups: tuple[str, ...]
) -> None:
    """Nova would ignore them."""
    port = PortSpec(Ref(uuid4()), UUID(NETWORK), "10.77.0.9", security_groups=groups)
    await backend.create_ports(token(), Ref(uuid4(), resources.add_server()), [port])
    sent = server.seen("POST", "/ports")[0].body["port"]
    assert sent["fixed_ips"] == [{"ip_address": "10.77.0.9"}]
    assert "mac_address" not in sent
    assert sent.get("security_groups") == (list(groups) or None)


@pytest.mark.parametrize(
    ("story", "moment", "code"),
    [
        ("placement/ports", "address in use", "address_in_use"),
        ("placement/ports", "address of no subnet", "bad_request"),
        ("placement/ports", "broadcast address", "bad_request"),
        ("placement/ports", "unknown group", "bad_request"),
        ("refusals/network", "chosen address on a shared network", "not_supported_by_cloud"),
    ],
)
async def test_a_port_that_the_cloud_refuses_is_refused_for_good(  # noqa: PLR0913, PLR0917
    backend: OpenStackBackend, server: CloudServer, resources: ResourceCloud, story: str, moment: str, code: str
) -> None:
    answer = Recording(story).at(moment)
    server.add(Service.NETWORK, "POST", "/ports", Reply(answer.status, answer.body))
    port = PortSpec(Ref(uuid4()), UUID(NETWORK), "10.77.0.9")
    vm = Ref(uuid4(), resources.add_server())
    assert await code_of(backend.create_ports(token(), vm, [port]), retryable=False) == code


async def test_the_refusal_of_a_wanted_address_says_what_to_do(
    backend: OpenStackBackend, server: CloudServer, resources: ResourceCloud
) -> None:
    answer = Recording("refusals/network").at("chosen address on a shared network")
    server.add(Service.NETWORK, "POST", "/ports", Reply(answer.status, answer.body))
    port = PortSpec(Ref(uuid4()), UUID(NETWORK), "10.11.0.77")
    with pytest.raises(BackendError, match="choose the address in this network; ask for none"):
        await backend.create_ports(token(), Ref(uuid4(), resources.add_server()), [port])


@pytest.mark.parametrize("moment", ["unknown zone", "unknown group"])
async def test_a_server_that_the_cloud_has_no_place_for_is_refused_for_good(
    backend: OpenStackBackend, server: CloudServer, resources: ResourceCloud, moment: str
) -> None:
    del resources
    ServerCloud(server)
    answer = Recording("placement/server").at(moment)
    server.add(Service.COMPUTE, "POST", "/servers", Reply(answer.status, answer.body))
    spec = replace(spec_of(Ref(uuid4())), availability_zone="mars")
    assert await code_of(backend.create_server(token(), spec), retryable=False) == "bad_request"
