"""The backend of a real OpenStack cloud: all of its parts, and the inventory of what this service has made in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from activities.backends.openstack import bodies, marks
from activities.backends.openstack.bodies import Body
from activities.backends.openstack.catalogue import OpenStackCatalogue
from activities.backends.openstack.consoles import OpenStackConsoles
from activities.backends.openstack.errors import Service
from activities.backends.openstack.found import OpenStackFound
from activities.backends.openstack.reading import next_page
from activities.backends.openstack.records import ServerRow
from activities.backends.openstack.resource_verdicts import IMAGE_GONE
from activities.backends.openstack.servers import OpenStackServers
from activities.backends.openstack.volumes import OpenStackVolumes
from activities.backends.protocol import Token
from activities.backends.resources import InventoryPage, Listed, Ref
from domain.rules.resources import Kind

PAGE_SIZE: Final = 500


@dataclass(frozen=True, slots=True)
class _Inventory:
    """Where a kind of things is listed, and how one of them is read; None for a thing that has no mark of ours."""

    service: Service
    path: str
    name: str
    read: Callable[[Body], Listed | None]


class OpenStackBackend(OpenStackServers, OpenStackConsoles, OpenStackFound, OpenStackVolumes, OpenStackCatalogue):
    """A real OpenStack cloud; ComputeBackend describes its methods."""

    async def delete_server(self, token: Token, vm: Ref) -> None:
        await super().delete_server(token, vm)
        # Nova deletes only the ports that it made itself.
        await self._remove_ports(token, vm)

    async def purge(self, vm: Ref) -> None:
        await super().purge(vm)
        for port in await self._ports_of(vm):
            await self._delete_at_once(Service.NETWORK, f"/ports/{port.id}")

    async def inventory(self, kind: Kind, marker: str | None) -> InventoryPage:
        of_kind = _INVENTORIES[kind]
        query = [("limit", str(PAGE_SIZE)), *([("marker", marker)] if marker else [])]
        body = (await self._fetch(of_kind.service, of_kind.path, query)).body
        items: dict[str, Listed] = {}
        for row in bodies.listed(body, of_kind.name):
            if listed := of_kind.read(row):
                items[row["id"]] = listed
        following = next_page(body, of_kind.name)
        return InventoryPage(items, dict(following)["marker"] if following else None)


def _listed_server(body: Body) -> Listed | None:
    server = bodies.server_from(body, is_from_list=True)
    if not isinstance(server, ServerRow) or server.is_deleted:
        return None
    return _listed(marks.vm_of(server), server.status, operation_id=marks.operation_of(server))


def _listed_port(body: Body) -> Listed | None:
    port = bodies.port_from(body)
    vm_id, is_plugged = marks.vm_of_port(port), port.device_id is not None
    return _listed(marks.interface_of(port), port.status, vm_id=vm_id, is_plugged=is_plugged)


def _listed_volume(body: Body) -> Listed | None:
    volume = bodies.volume_from(body)
    made = {"operation_id": marks.operation_of(volume), "created_at": volume.created_at}
    return _listed(marks.volume_of(volume), volume.status, **made)


def _listed_image(body: Body) -> Listed | None:
    image = bodies.image_from(body)
    if image.status in IMAGE_GONE:
        return None
    return _listed(marks.snapshot_of(image), image.status, operation_id=marks.operation_of(image))


def _listed(id: UUID | None, state: str, **more: Any) -> Listed | None:
    return Listed(id, state, **more) if id else None


_INVENTORIES: Final[Mapping[Kind, _Inventory]] = {
    Kind.VM: _Inventory(Service.COMPUTE, "/servers/detail", "servers", _listed_server),
    Kind.INTERFACE: _Inventory(Service.NETWORK, "/ports", "ports", _listed_port),
    Kind.VOLUME: _Inventory(Service.VOLUME, "/volumes/detail", "volumes", _listed_volume),
    Kind.SNAPSHOT: _Inventory(Service.IMAGE, "/images", "images", _listed_image),
}
