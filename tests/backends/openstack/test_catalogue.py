"""The catalogue of a cloud: what members of our project can use, and the best first."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from activities.backends.catalogue import Catalogue, FlavorOffer, ImageOffer, NetworkOffer, SecurityGroupOffer
from activities.backends.openstack import bodies
from activities.backends.openstack.bodies import UnreadableError
from activities.backends.openstack.catalogue import OpenStackCatalogue, flavor_offers, image_offers, network_offers
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.protocol import UnusableCloudError
from domain.settings import Settings
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.conftest import Configure
from tests.backends.openstack.recordings import Recording

GIB = 1 << 30
OURS, THEIRS = "ab" * 16, "cd" * 16  # projects
RECORDED = {
    moment: Recording("lists/catalogue").at(moment).body for moment in ("flavors", "images", "networks", "subnets")
}
SMALL, PLAIN = RECORDED["flavors"]["flavors"][0], RECORDED["images"]["images"][1]
EXTERNAL, SHARED = RECORDED["networks"]["networks"]
SUBNET = RECORDED["subnets"]["subnets"][0]
LISTS = {
    Service.COMPUTE: ["/flavors/detail", "/os-availability-zone"],
    Service.IMAGE: ["/images"],
    Service.NETWORK: ["/networks", "/subnets", "/security-groups"],
}


def images(*changes: dict[str, Any]) -> list[str]:
    """The names of the images that are offered, of copies of the recorded one with these changes."""
    rows = [bodies.boot_image_from(PLAIN | {"id": str(uuid4())} | change) for change in changes]
    return [offer.name for offer in image_offers(rows, OURS)]


def network(name: str, **changes: Any) -> dict[str, Any]:
    """The body of a network that our project has."""
    own = {"id": str(uuid4()), "name": name, "shared": False, "project_id": OURS}
    return dict(SHARED) | own | changes


def networks(*rows: dict[str, Any], subnets: list[dict[str, Any]] | None = None) -> list[NetworkOffer]:
    """What is offered of these networks, each with the recorded subnet unless others are given."""
    subnets = [SUBNET | {"network_id": row["id"]} for row in rows] if subnets is None else subnets
    return list(network_offers(map(bodies.network_from, rows), map(bodies.subnet_from, subnets), OURS))


def names(offers: list[NetworkOffer]) -> list[str]:
    return [offer.name for offer in offers]


@pytest.fixture
async def backend(configure: Configure, settings: Settings) -> AsyncIterator[OpenStackCatalogue]:
    """The part of the backend that reads the small cloud's catalogue."""
    configure()
    backend = OpenStackCatalogue(settings)
    yield backend
    await backend.close()


def offer_recorded(server: CloudServer) -> None:
    """Let the small cloud list what was recorded, the flavors on two pages."""
    first, second = RECORDED["flavors"], {"flavors": [SMALL | {"id": "4", "name": "old.flavor"}]}
    server.add(Service.COMPUTE, "GET", "/flavors/detail", Reply(200, first), Reply(200, second))
    server.add(Service.IMAGE, "GET", "/images", Reply(200, RECORDED["images"]))
    server.add(Service.NETWORK, "GET", "/networks", Reply(200, RECORDED["networks"]))
    server.add(Service.NETWORK, "GET", "/subnets", Reply(200, RECORDED["subnets"]))
    groups, zones = (Recording("placement/lists").at(moment).body for moment in ("groups", "zones"))
    own = [group | {"project_id": OURS} for group in groups["security_groups"]]
    server.add(Service.NETWORK, "GET", "/security-groups", Reply(200, {"security_groups": own}))
    server.add(Service.COMPUTE, "GET", "/os-availability-zone", Reply(200, zones))


async def test_the_recorded_catalogue_is_read_from_all_pages(backend: OpenStackCatalogue, server: CloudServer) -> None:
    offer_recorded(server)
    assert await backend.list_catalogue() == Catalogue(
        [
            FlavorOffer("24bd571f-3d86-44f0-b110-d80da4925b5b", "m1.small", 1, 2048, 20),
            FlavorOffer("3319961a-ca37-463b-a6d3-fc0c37c35b4d", "m1.impossible", 1, 900_000_000, 1),
            FlavorOffer("4", "old.flavor", 1, 2048, 20),
        ],
        [ImageOffer(UUID("539afd80-eff4-4ba6-9ba3-7075ffc0dfcb"), "cirros-dummy", 1, None, None)],
        [NetworkOffer(UUID("805af26d-64df-406e-9332-19a349d6c9c4"), "private", "10.11.0.0/16", "10.11.0.1")],
        [
            SecurityGroupOffer(UUID("6cd601b3-c0d7-4d21-8317-44b5380e8c87"), "default", "Default security group"),
            SecurityGroupOffer(UUID("a8481eb5-aa27-4a54-98a1-5f8f2a87a27c"), "placement", ""),
        ],
        ["nova"],
    )
    assert len(server.seen("GET", "/flavors/detail")) == 2


@pytest.mark.parametrize(("service", "path"), [(service, path) for service, paths in LISTS.items() for path in paths])
async def test_without_one_of_the_lists_nothing_is_known(
    backend: OpenStackCatalogue, server: CloudServer, service: Service, path: str
) -> None:
    """An empty list would take everything out of the catalogue."""
    server.add(service, "GET", path, Reply(503))
    offer_recorded(server)
    with pytest.raises(CloudError):
        await backend.list_catalogue()


async def test_a_cloud_whose_operator_has_switched_off_security_groups_offers_none(
    backend: OpenStackCatalogue, server: CloudServer
) -> None:
    absent = {"NeutronError": {"type": "HTTPNotFound", "message": "The resource could not be found.", "detail": ""}}
    server.add(Service.NETWORK, "GET", "/security-groups", Reply(404, absent))
    offer_recorded(server)
    offered = await backend.list_catalogue()
    assert (offered.groups, len(offered.networks)) == ([], 1)


async def test_a_login_that_fails_is_an_error_of_the_cloud(backend: OpenStackCatalogue, server: CloudServer) -> None:
    server.login_replies.append(Reply(503))
    with pytest.raises(CloudError) as refusal:
        await backend.list_catalogue()
    assert (refusal.value.code, refusal.value.retryable) == ("cloud_unavailable", True)


async def test_a_login_without_a_project_is_refused(
    backend: OpenStackCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keystoneauth1.session.Session.get_project_id", lambda _: None)
    with pytest.raises(UnusableCloudError, match="has no project"):
        await backend.list_catalogue()


def test_a_disabled_flavor_is_not_offered() -> None:
    """Operators see it, members do not."""
    disabled = SMALL | {"OS-FLV-DISABLED:disabled": True}
    assert [offer.name for offer in flavor_offers(map(bodies.flavor_from, (SMALL, disabled)))] == ["m1.small"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "queued"},
        {"status": "deactivated"},
        {"status": "pending_delete"},
        {"os_hidden": True},
        {"disk_format": "ari"},
        {"visibility": "private", "owner": THEIRS},
    ],
    ids=str,
)
def test_an_image_that_a_member_cannot_use_is_not_offered(change: dict[str, Any]) -> None:
    assert images({"name": "good"}, change | {"name": "bad"}) == ["good"]


@pytest.mark.parametrize(
    "change", [{"owner": OURS, "visibility": "private"}, {"owner": THEIRS, "visibility": "shared"}], ids=str
)
def test_an_image_of_the_project_or_shared_with_it_is_offered_after_the_public_ones(change: dict[str, Any]) -> None:
    assert images(change | {"name": "own"}, {"name": "public", "min_disk": 9}) == ["public", "own"]


def test_the_first_image_is_the_one_that_most_flavors_hold_and_the_newest_of_several() -> None:
    old, new = ({"created_at": f"20{year}-01-01T00:00:00Z"} for year in (24, 26))
    large = {"name": "large", "virtual_size": 3 * GIB}
    assert images(large | new, old | {"name": "old"}, new | {"name": "new"}) == ["new", "old", "large"]


def test_an_image_whose_size_nothing_can_hold_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """Glance keeps what the header of an uploaded file says. One such image must not keep out all others."""
    assert images({"name": "good"}, {"name": "bad", "virtual_size": 2**61}) == ["good"]
    assert re.search("the image [0-9a-f-]{36} is left out: it needs a disk of 2147483648 GiB", caplog.text)


@pytest.mark.parametrize(
    ("change", "size_gb"),
    [
        ({"virtual_size": GIB, "size": 1}, 1),
        ({"virtual_size": GIB + 1}, 2),
        ({"virtual_size": None, "size": 5 * GIB}, 5),
        ({"virtual_size": GIB, "min_disk": 8}, 8),
        ({"virtual_size": None, "size": 0, "min_disk": 20}, 20),
    ],
)
def test_an_image_needs_a_disk_for_its_content_and_for_what_its_owner_asks(
    change: dict[str, Any], size_gb: int
) -> None:
    (offer,) = image_offers([bodies.boot_image_from(PLAIN | change)], OURS)
    assert offer.size_gb == size_gb


def test_an_image_shows_its_system_and_goes_by_its_id_without_a_name() -> None:
    named = PLAIN | {"os_distro": "debian", "os_version": "13", "name": "debian"}
    nameless = PLAIN | {"id": "63a3ee38-4f2e-4a8f-8b5c-5d8b2ea2d1a5", "name": None, "min_disk": 7}
    first, second = image_offers(map(bodies.boot_image_from, (named, nameless)), OURS)
    assert (first.name, first.os_distro, first.os_version) == ("debian", "debian", "13")
    assert (second.name, second.os_distro) == ("63a3ee38-4f2e-4a8f-8b5c-5d8b2ea2d1a5", None)


def test_a_snapshot_of_ours_is_not_offered_but_somebody_elses_image_of_a_server_made_from_it_is() -> None:
    made_by_us = {"osvm_snapshot": str(uuid4()), "osvm_server": "server-1", "visibility": "private", "owner": OURS}
    ours, inherited = made_by_us | {"instance_uuid": "server-1"}, made_by_us | {"instance_uuid": "server-2"}
    assert images(ours | {"name": "ours"}, inherited | {"name": "theirs"}) == ["theirs"]


@pytest.mark.parametrize(
    "change",
    [
        {"admin_state_up": False},
        {"project_id": THEIRS},
        {"router:external": True},
        {"router:external": True, "project_id": THEIRS},
    ],
    ids=str,
)
def test_a_network_that_a_member_cannot_use_is_not_offered(change: dict[str, Any]) -> None:
    assert names(networks(network("good"), network("bad", **change))) == ["good"]


def test_the_networks_of_the_project_come_first_and_the_oldest_first() -> None:
    old, new = {"created_at": "2024-01-01T00:00:00Z"}, {"created_at": "2026-01-01T00:00:00Z"}
    shared = {"shared": True, "project_id": THEIRS}
    rows = [network("shared", **shared, **old), network("new", **new), network("old", **old)]
    external = network("external", **shared, **new, **{"router:external": True})
    assert names(networks(external, *rows)) == ["old", "new", "shared", "external"]


def test_a_network_without_a_subnet_is_not_offered_nor_one_whose_subnets_are_for_other_ports() -> None:
    bare, routed, plain, special = (network(name) for name in ("bare", "routed", "plain", "special"))
    of_routers = SUBNET | {"network_id": routed["id"], "service_types": ["network:router_gateway"]}
    of_servers = SUBNET | {"network_id": special["id"], "service_types": ["network:dhcp", "compute:nova"]}
    subnets = [of_routers, of_servers, SUBNET | {"network_id": plain["id"]}]
    assert set(names(networks(bare, routed, plain, special, subnets=subnets))) == {"plain", "special"}


def test_a_network_shows_its_oldest_ipv4_subnet_or_else_an_ipv6_one() -> None:
    both, six = network("both"), network("six", created_at="2027-01-01T00:00:00Z")
    v6 = {"ip_version": 6, "cidr": "2001:db8::/64", "gateway_ip": None, "created_at": "2020-01-01T00:00:00Z"}
    v4 = {"network_id": both["id"], "ip_version": 4}
    new = {"cidr": "10.2.0.0/24", "gateway_ip": "10.2.0.1", "created_at": "2026-02-01T00:00:00Z"}
    old = {"cidr": "10.1.0.0/24", "gateway_ip": None, "created_at": "2026-01-01T00:00:00Z"}
    changes = [v6 | {"network_id": both["id"]}, v6 | {"network_id": six["id"]}, v4 | new, v4 | old]
    offers = networks(both, six, subnets=[SUBNET | {"id": str(uuid4())} | change for change in changes])
    assert [(offer.cidr, offer.gateway) for offer in offers] == [("10.1.0.0/24", None), ("2001:db8::/64", None)]


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (bodies.flavor_from, SMALL | {"ram": None}),
        (bodies.boot_image_from, PLAIN | {"id": "not-a-uuid"}),
        (bodies.network_from, SHARED | {"project_id": None}),
        (bodies.subnet_from, SUBNET | {"network_id": None}),
    ],
)
def test_a_row_without_what_is_needed_cannot_be_read(read: Any, body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError):
        read(body)
