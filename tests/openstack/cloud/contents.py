"""What the test cloud has from the beginning: a user, flavors, an image, networks and a volume type."""

import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from openstack.connection import Connection
from openstack.exceptions import SDKException

from tests.openstack.cloud.databases import NOVA
from tests.openstack.cloud.layout import HOSTS, LOG, LOOPBACK, PASSWORD, PORTS, PROGRAMS, RUN, VAR

REGION: Final = "RegionOne"
FLAVORS: Final = {
    "m1.tiny": (1, 512, 1),
    "m1.small": (1, 2_048, 20),
    "m1.medium": (2, 4_096, 40),
    "m1.large": (4, 8_192, 80),
    "m1.xlarge": (8, 16_384, 160),
    "m1.impossible": (1, 900_000_000, 1),
}
"""vCPUs, MiB and GiB by name. No host has room for the last one."""
IMAGE: Final = "cirros-dummy"
SERVICES: Final = {
    "nova": ("compute", "/v2.1"),
    "placement": ("placement", ""),
    "glance": ("image", ""),
    "neutron": ("network", ""),
    "cinder": ("block-storage", "/v3/%(project_id)s"),
}
"""Type and path of the services, by the name of their user."""


def create_accounts(cloud: Connection) -> None:
    """Create users, roles and the list of services, as far as they are missing."""
    identity: Any = cloud.identity
    roles = {role.name: role for role in identity.roles()}
    for name in {"service", "member"} - set(roles):
        roles[name] = identity.create_role(name=name)
    projects = {name: identity.find_project(name) or identity.create_project(name=name) for name in ("service", "demo")}

    def add_user(name: str, project: Any, *wanted: str) -> None:
        user = identity.find_user(name) or identity.create_user(name=name, password=PASSWORD)
        for role in wanted:
            identity.assign_project_role_to_user(project, user, roles[role])

    present = {service.name: service for service in identity.services()}
    endpoints = {(endpoint.service_id, endpoint.interface) for endpoint in identity.endpoints()}
    for name, (type, path) in SERVICES.items():
        add_user(name, projects["service"], "admin", "service")
        service = present.get(name) or identity.create_service(type=type, name=name)
        for interface in ("public", "internal", "admin"):
            if (service.id, interface) not in endpoints:
                url = f"http://{LOOPBACK}:{PORTS[name]}{path}"
                identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id=REGION)
    add_user("demo", projects["demo"], "member")


def create_resources(cloud: Connection) -> None:
    """Wait for the hosts, and create what is missing."""
    _wait_for_hosts(cloud)
    present = {flavor.name for flavor in cloud.compute.flavors()}
    for name, (vcpus, ram, disk) in FLAVORS.items():
        if name not in present:
            cloud.compute.create_flavor(name=name, vcpus=vcpus, ram=ram, disk=disk)
    if not cloud.image.find_image(IMAGE):
        file = VAR / "image.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", file, "64M"], check=True)
        formats: Any = {"disk_format": "qcow2", "container_format": "bare", "visibility": "public"}
        cloud.image.create_image(IMAGE, filename=str(file), wait=True, **formats)
    _create_networks(cloud.network)
    identity: Any = cloud.identity
    project = identity.find_project("demo")
    cloud.compute.update_quota_set(project, instances=200, cores=2_000, ram=2_000_000_000)
    cloud.block_storage.update_quota_set(project, volumes=200, gigabytes=20_000)
    cloud.network.update_quota(project.id, ports=2_000)
    if "fake" not in {type.name for type in cloud.block_storage.types()}:
        cloud.block_storage.create_type(name="fake", extra_specs={"volume_backend_name": "fake"})
    wanted = {"cinder-volume", "cinder-backup", "cinder-scheduler"}
    _wait("cinder", lambda: wanted <= {name for name, _ in _reporting(cloud.block_storage.services())})


def _create_networks(network: Any) -> None:
    """The network that servers use belongs to the operator and is shared; the other one is the way out."""
    private = network.find_network("private") or network.create_network(name="private", shared=True)
    if not network.find_subnet("private-v4"):
        network.create_subnet(name="private-v4", network_id=private.id, ip_version=4, cidr="10.11.0.0/16")
    provider = {"provider_network_type": "flat", "provider_physical_network": "public"}
    public = network.find_network("public") or network.create_network(
        name="public", is_router_external=True, **provider
    )
    if not network.find_subnet("public-v4"):
        block = {"ip_version": 4, "cidr": "203.0.113.0/24", "is_dhcp_enabled": False}
        network.create_subnet(name="public-v4", network_id=public.id, **block)
    if not network.find_router("router1"):
        router = network.create_router(name="router1", external_gateway_info={"network_id": public.id})
        network.add_interface_to_router(router, subnet_id=network.find_subnet("private-v4").id)


def _wait_for_hosts(cloud: Connection) -> None:
    wanted = {("nova-compute", host) for host in HOSTS}
    wanted |= {(name, "control") for name in ("nova-scheduler", "nova-conductor")}
    _wait("nova", lambda: wanted <= _reporting(cloud.compute.services()))

    def have_been_found() -> bool:
        return set(HOSTS) <= {hypervisor.name for hypervisor in cloud.compute.hypervisors()}

    if not have_been_found():
        with (LOG / "hosts.log").open("ab") as log:
            command = [str(PROGRAMS / NOVA[0]), *NOVA[1:], "cell_v2", "discover_hosts"]
            subprocess.run(command, check=True, stdout=log, stderr=log)
    _wait("the hosts", have_been_found)
    _wait("placement", lambda: len(list(cloud.placement.resource_providers())) >= len(HOSTS))


def _reporting(services: Iterable[Any]) -> set[tuple[str, str]]:
    """Return those services, by name and host, that have reported since they were started."""
    return {(service.binary, service.host) for service in services if service.state == "up" and _has_reported(service)}


def _has_reported(service: Any) -> bool:
    # A service is still "up" a minute after it has died: the report may be that of the process before.
    name = f"nova-{service.host}" if service.binary == "nova-compute" else service.binary
    started_at = (RUN / f"{name}.pid").stat().st_mtime
    reported_at = service.updated_at and datetime.fromisoformat(service.updated_at[:19]).replace(tzinfo=UTC)
    return bool(reported_at) and reported_at.timestamp() >= started_at


def _wait(name: str, is_ready: Callable[[], bool], seconds: float = 120) -> None:
    end, reason = time.monotonic() + seconds, "nothing"
    while time.monotonic() < end:
        try:
            if is_ready():
                return
        except SDKException as error:
            reason = str(error)
        time.sleep(0.5)
    raise SystemExit(f"{name} is not ready after {seconds:.0f} s: {reason}")
