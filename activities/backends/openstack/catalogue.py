"""What the cloud offers to our project: its flavors, images, networks, security groups and zones."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from activities.backends.catalogue import Catalogue, FlavorOffer, ImageOffer, NetworkOffer
from activities.backends.openstack import bodies, marks, placement
from activities.backends.openstack.base import OpenStackParts
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.openstack.records import BootImageRow, FlavorRow, NetworkRow, SubnetRow

logger = logging.getLogger(__name__)

GIB: Final = 1 << 30
# Glance keeps what the header of an uploaded file says. No disk has so much, and PostgreSQL could not hold more.
_LARGEST_GB: Final = 2**31 - 1
_PARTS_OF_OLD_IMAGES: Final = {"aki", "ari"}  # formats of a kernel and of a RAM disk, which boot nothing alone
# Glance has 25 images on a page if one does not ask for more. The filter only saves pages: each row is checked.
_IMAGES: Final = (("status", "active"), ("limit", "1000"))


class OpenStackCatalogue(OpenStackParts):
    """The part of the backend that reads the catalogue; ComputeBackend describes its method."""

    async def list_catalogue(self) -> Catalogue:
        project_id = await self._cloud.project_id()
        flavors = await self._rows(Service.COMPUTE, "/flavors/detail", (), "flavors")
        images = await self._rows(Service.IMAGE, "/images", _IMAGES, "images")
        networks = await self._rows(Service.NETWORK, "/networks", (), "networks")
        subnets = await self._rows(Service.NETWORK, "/subnets", (), "subnets")
        groups = await self._security_groups()
        zones = await self._rows(Service.COMPUTE, "/os-availability-zone", (), "availabilityZoneInfo")
        return Catalogue(
            flavor_offers(map(bodies.flavor_from, flavors)),
            image_offers(map(bodies.boot_image_from, images), project_id),
            network_offers(map(bodies.network_from, networks), map(bodies.subnet_from, subnets), project_id),
            placement.group_offers(groups, project_id),
            placement.zone_offers(zones),
        )

    async def _security_groups(self) -> Sequence[bodies.Body]:
        try:
            return await self._rows(Service.NETWORK, "/security-groups", placement.GROUP_FIELDS, "security_groups")
        except CloudError as error:
            if error.code != "not_found":
                raise
            return []  # an operator may switch them off


def flavor_offers(rows: Iterable[FlavorRow]) -> Sequence[FlavorOffer]:
    """Return the flavors that new servers can have. Nova lists those that are public or granted to the project."""
    return [
        FlavorOffer(row.id, row.name, row.size.vcpus, row.size.ram_mb, row.size.disk_gb)
        for row in rows
        if not row.is_disabled
    ]


def image_offers(rows: Iterable[BootImageRow], project_id: str) -> Sequence[ImageOffer]:
    """Return the images that new servers can boot from.

    The public ones come first, and of those the one that most flavors can hold, and the newest of several.
    """

    def preference(row: BootImageRow) -> tuple[bool, int, float, UUID]:
        return row.visibility != "public", _size_gb(row), -row.created_at.timestamp(), row.id

    usable = (row for row in rows if _boots(row) and _is_ours_to_boot(row, project_id) and _fits(row))
    offered = sorted(usable, key=preference)
    return [ImageOffer(row.id, row.name, _size_gb(row), row.os_distro, row.os_version) for row in offered]


def network_offers(rows: Iterable[NetworkRow], subnets: Iterable[SubnetRow], project_id: str) -> Sequence[NetworkOffer]:
    """Return the networks that new servers can be plugged into: our project's first, and the oldest first."""

    def preference(row: NetworkRow) -> tuple[bool, str, UUID]:
        return row.project_id != project_id, row.created_at, row.id

    first = _first_subnets(subnets)
    offered = sorted((row for row in rows if row.id in first and _takes_servers(row, project_id)), key=preference)
    return [NetworkOffer(row.id, row.name, first[row.id].cidr, first[row.id].gateway) for row in offered]


def _boots(row: BootImageRow) -> bool:
    return row.status == "active" and not row.is_hidden and row.disk_format not in _PARTS_OF_OLD_IMAGES


def _is_ours_to_boot(row: BootImageRow, project_id: str) -> bool:
    """Return whether members of our project see the image (an operator sees more), and it is no snapshot of ours."""
    is_private = row.visibility == "private" and row.project_id != project_id
    return not is_private and marks.snapshot_of(row) is None


def _fits(row: BootImageRow) -> bool:
    if _size_gb(row) <= _LARGEST_GB:
        return True
    logger.warning("the image %s is left out: it needs a disk of %d GiB", row.id, _size_gb(row))
    return False


def _size_gb(row: BootImageRow) -> int:
    return max(row.min_disk_gb, -(-row.needs_bytes // GIB))


def _takes_servers(row: NetworkRow, project_id: str) -> bool:
    """Return whether members may plug servers into it: Nova refuses an external one that is not shared, too."""
    return row.is_up and (row.is_shared or (row.project_id == project_id and not row.is_external))


def _first_subnets(rows: Iterable[SubnetRow]) -> Mapping[UUID, SubnetRow]:
    """Return the subnet by which each network is shown: an IPv4 one if there is one, and the oldest of several."""
    usable = [row for row in rows if not row.services or any(name.startswith("compute:") for name in row.services)]
    oldest_last = sorted(usable, key=lambda row: (row.ip_version, row.created_at, row.id), reverse=True)
    return {row.network_id: row for row in oldest_last}
