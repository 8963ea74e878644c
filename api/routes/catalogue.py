"""Flavors, images, networks, security groups and availability zones; read-only."""

from typing import Any
from uuid import UUID

from sqlalchemy import Select, case, select

from api.routes import answers, router
from api.web.dependencies import CurrentUser, Process
from api.web.pages import Order, WantedPage
from domain.data import addresses
from domain.data.models import Flavor, Image, Network
from domain.data.placement import AvailabilityZone, SecurityGroup
from domain.rules.errors import NotFoundError

routes = router("", "Catalogue")

_SMALLEST_FIRST = Order("size/id", (Flavor.vcpus, Flavor.ram_mb, Flavor.disk_gb, Flavor.name, Flavor.id))
_IMAGES_BY_NAME = Order("name/id", (Image.name, Image.id))
_NETWORKS = select(Network, case((Network.allocates, addresses.free_addresses)).label("free_addresses"))
_NETWORKS_BY_NAME = Order("name/id", (Network.name, Network.id))
_GROUPS_BY_NAME = Order("name/id", (SecurityGroup.name, SecurityGroup.id))
_ZONES_BY_NAME = Order("name/id", (AvailabilityZone.name, AvailabilityZone.id))


@routes.get("/flavors")
async def list_flavors(_: CurrentUser, page: WantedPage) -> answers.FlavorPage:
    """The sizes a VM can have, smallest first."""
    return await page.fetch(select(Flavor).where(Flavor.is_available), _SMALLEST_FIRST, answers.FlavorPage)


@routes.get("/flavors/{flavor_id}", response_model=answers.Flavor)
async def get_flavor(_: CurrentUser, process: Process, flavor_id: UUID) -> Any:
    """One flavor. It stays readable when the cloud no longer has it."""
    return await _get(process, select(Flavor).where(Flavor.id == flavor_id), "flavor", flavor_id)


@routes.get("/images")
async def list_images(_: CurrentUser, page: WantedPage) -> answers.ImagePage:
    """The images a VM can boot from, by name."""
    return await page.fetch(select(Image).where(Image.is_available), _IMAGES_BY_NAME, answers.ImagePage)


@routes.get("/images/{image_id}", response_model=answers.Image)
async def get_image(_: CurrentUser, process: Process, image_id: UUID) -> Any:
    """One image. It stays readable when the cloud no longer has it."""
    return await _get(process, select(Image).where(Image.id == image_id), "image", image_id)


@routes.get("/networks")
async def list_networks(_: CurrentUser, page: WantedPage) -> answers.NetworkPage:
    """The networks a VM can be attached to, by name, each with its number of free addresses where it is known."""
    return await page.fetch(_NETWORKS.where(Network.is_available), _NETWORKS_BY_NAME, answers.NetworkPage)


@routes.get("/networks/{network_id}", response_model=answers.Network)
async def get_network(_: CurrentUser, process: Process, network_id: UUID) -> Any:
    """One network. It stays readable when the cloud no longer has it."""
    return await _get(process, _NETWORKS.where(Network.id == network_id), "network", network_id)


@routes.get("/security-groups")
async def list_security_groups(_: CurrentUser, page: WantedPage) -> answers.SecurityGroupPage:
    """The security groups a new VM can have, by name."""
    groups = select(SecurityGroup).where(SecurityGroup.is_available)
    return await page.fetch(groups, _GROUPS_BY_NAME, answers.SecurityGroupPage)


@routes.get("/security-groups/{group_id}", response_model=answers.SecurityGroup)
async def get_security_group(_: CurrentUser, process: Process, group_id: UUID) -> Any:
    """One security group. It stays readable when the cloud no longer has it."""
    group = select(SecurityGroup).where(SecurityGroup.id == group_id)
    return await _get(process, group, "security group", group_id)


@routes.get("/availability-zones")
async def list_availability_zones(_: CurrentUser, page: WantedPage) -> answers.AvailabilityZonePage:
    """The availability zones in which a new VM can be built, by name."""
    zones = select(AvailabilityZone).where(AvailabilityZone.is_available)
    return await page.fetch(zones, _ZONES_BY_NAME, answers.AvailabilityZonePage)


async def _get(process: Process, statement: Select[*tuple[Any, ...]], name: str, id: UUID) -> Any:
    async with process.autocommit.connect() as connection:
        row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise NotFoundError(name, id)
    return row
