"""Security groups and availability zones, which new VMs can ask for; read-only."""

from typing import Any
from uuid import UUID

from pydantic import Field
from sqlalchemy import select

from api.routes import router
from api.routes.catalogue import get_row
from api.web.dependencies import CurrentUser, Process
from api.web.lists import Order
from api.web.models import Answer, Page
from api.web.pages import WantedPage
from domain.data import placement

routes = router("", "catalogue")

_GROUPS_BY_NAME = Order("name/id", (placement.SecurityGroup.name, placement.SecurityGroup.id))
_ZONES_BY_NAME = Order("name/id", (placement.AvailabilityZone.name, placement.AvailabilityZone.id))


class SecurityGroup(Answer):
    """A set of rules that says which packets reach a VM. `is_available`: new VMs can still get it."""

    id: UUID
    name: str = Field(examples=["web"])
    description: str
    is_available: bool


class AvailabilityZone(Answer):
    """A part of the cloud that fails by itself."""

    name: str = Field(examples=["nova"])


class SecurityGroupPage(Page[SecurityGroup]):
    """Security groups."""


class AvailabilityZonePage(Page[AvailabilityZone]):
    """Availability zones."""


@routes.get("/security-groups")
async def list_security_groups(_: CurrentUser, page: WantedPage) -> SecurityGroupPage:
    """The security groups a new VM can have, by name."""
    groups = select(placement.SecurityGroup).where(placement.SecurityGroup.is_available)
    return await page.fetch(groups, _GROUPS_BY_NAME, SecurityGroupPage)


@routes.get("/security-groups/{group_id}", response_model=SecurityGroup)
async def get_security_group(_: CurrentUser, process: Process, group_id: UUID) -> Any:
    """One security group. It stays readable when the cloud no longer has it."""
    group = select(placement.SecurityGroup).where(placement.SecurityGroup.id == group_id)
    return await get_row(process, group, "security group", group_id)


@routes.get("/availability-zones")
async def list_availability_zones(_: CurrentUser, page: WantedPage) -> AvailabilityZonePage:
    """The availability zones in which a new VM can be built, by name."""
    zones = select(placement.AvailabilityZone).where(placement.AvailabilityZone.is_available)
    return await page.fetch(zones, _ZONES_BY_NAME, AvailabilityZonePage)
