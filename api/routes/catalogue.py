"""Flavors, images and networks; read-only."""

from typing import Any
from uuid import UUID

from sqlalchemy import Select, case, select

from api.routes import answers, router
from api.web.dependencies import CurrentUser, Process
from api.web.lists import Order
from api.web.pages import WantedPage
from domain.data import addresses
from domain.data.models import Flavor, Image, Network
from domain.rules.errors import NotFoundError

routes = router("", "catalogue")

_SMALLEST_FIRST = Order("size/id", (Flavor.vcpus, Flavor.ram_mb, Flavor.disk_gb, Flavor.name, Flavor.id))
_IMAGES_BY_NAME = Order("name/id", (Image.name, Image.id))
_NETWORKS = select(Network, case((Network.allocates, addresses.free_addresses)).label("free_addresses"))
_NETWORKS_BY_NAME = Order("name/id", (Network.name, Network.id))


@routes.get("/flavors")
async def list_flavors(_: CurrentUser, page: WantedPage) -> answers.FlavorPage:
    """The sizes a VM can have, smallest first."""
    return await page.fetch(select(Flavor).where(Flavor.is_available), _SMALLEST_FIRST, answers.FlavorPage)


@routes.get("/flavors/{flavor_id}", response_model=answers.Flavor)
async def get_flavor(_: CurrentUser, process: Process, flavor_id: UUID) -> Any:
    """One flavor. It stays readable when the cloud no longer has it."""
    return await get_row(process, select(Flavor).where(Flavor.id == flavor_id), "flavor", flavor_id)


@routes.get("/images")
async def list_images(_: CurrentUser, page: WantedPage) -> answers.ImagePage:
    """The images a VM can boot from, by name."""
    return await page.fetch(select(Image).where(Image.is_available), _IMAGES_BY_NAME, answers.ImagePage)


@routes.get("/images/{image_id}", response_model=answers.Image)
async def get_image(_: CurrentUser, process: Process, image_id: UUID) -> Any:
    """One image. It stays readable when the cloud no longer has it."""
    return await get_row(process, select(Image).where(Image.id == image_id), "image", image_id)


@routes.get("/networks")
async def list_networks(_: CurrentUser, page: WantedPage) -> answers.NetworkPage:
    """The networks a VM can be attached to, by name, each with its number of free addresses where it is known."""
    return await page.fetch(_NETWORKS.where(Network.is_available), _NETWORKS_BY_NAME, answers.NetworkPage)


@routes.get("/networks/{network_id}", response_model=answers.Network)
async def get_network(_: CurrentUser, process: Process, network_id: UUID) -> Any:
    """One network. It stays readable when the cloud no longer has it."""
    return await get_row(process, _NETWORKS.where(Network.id == network_id), "network", network_id)


async def get_row(process: Process, statement: Select[*tuple[Any, ...]], name: str, id: UUID) -> Any:
    """The only row of a query; NotFoundError, with the name of what it is, if there is none."""
    async with process.autocommit.connect() as connection:
        row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise NotFoundError(name, id)
    return row
