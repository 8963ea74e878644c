"""Describes servers of the cloud, whoever made them, with their volumes and ports."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from activities.backends.found import FoundServer, FoundVolume
from activities.backends.openstack import bodies, marks, reading
from activities.backends.openstack.bodies import Body
from activities.backends.openstack.errors import Service
from activities.backends.openstack.ports import OpenStackPorts, port_from
from activities.backends.openstack.records import PortRow, ServerRow, VolumeRow
from activities.backends.openstack.servers import server_from
from activities.backends.protocol import KnownServers


class OpenStackFound(OpenStackPorts):
    """Servers of others."""

    async def list_other_servers(self, known: KnownServers) -> Sequence[FoundServer]:
        servers: dict[str, Body] = {}
        async for page in reading.pages(self._fetch, Service.COMPUTE, "/servers/detail", (), "servers"):
            listed = {body["id"]: body for body in bodies.listed(page.body, "servers")}
            of_vms = await known(listed.keys())
            servers |= {id: body for id, body in listed.items() if id not in of_vms}
        rows = {id: bodies.server_from(body, is_from_list=True) for id, body in servers.items()}
        live = {id: row for id, row in rows.items() if isinstance(row, ServerRow) and not row.is_deleted}
        ports: dict[str, list[PortRow]] = {}
        for port in await self._ports_where("device_id", live.keys()):
            ports.setdefault(port.device_id or "", []).append(port)
        volumes = await self._found_volumes({volume_id for row in live.values() for volume_id in row.volume_ids})
        return [_found(row, servers[id], volumes, ports.get(id, ())) for id, row in live.items()]

    async def _found_volumes(self, ids: Collection[str]) -> Mapping[str, VolumeRow]:
        volumes: dict[str, VolumeRow] = {}
        if not ids:
            return volumes
        # Cinder knows no filter for several ids.
        async for page in reading.pages(self._fetch, Service.VOLUME, "/volumes/detail", (), "volumes"):
            listed = bodies.listed(page.body, "volumes")
            volumes |= {body["id"]: bodies.volume_from(body) for body in listed if body.get("id") in ids}
        return volumes


def _found(row: ServerRow, body: Body, volumes: Mapping[str, VolumeRow], ports: Sequence[PortRow]) -> FoundServer:
    vm_id = marks.vm_of(row) or UUID(row.id)
    shown = server_from(vm_id, row)
    assert shown is not None  # noqa: S101 - the row is of a server that exists
    attached = {volume["id"]: volume for volume in body.get("os-extended-volumes:volumes_attached") or ()}
    return FoundServer(
        cloud_id=row.id,
        id=vm_id,
        name=row.name,
        status=shown.status,
        is_busy=shown.is_busy,
        flavor=str(body["flavor"].get("original_name", "")),
        vcpus=row.size.vcpus,
        ram_mb=row.size.ram_mb,
        disk_gb=row.size.disk_gb,
        image_id=row.image_id,
        created_at=row.created_at,
        volumes=[
            _found_volume(volumes[id], row.id, ends_with_server=attached[id].get("delete_on_termination") is True)
            for id in row.volume_ids
            if id in volumes
        ],
        ports=[port_from(port, vm_id) for port in ports],
    )


def _found_volume(volume: VolumeRow, server_id: str, *, ends_with_server: bool) -> FoundVolume:
    attachment = volume.attachment_to(server_id)
    return FoundVolume(
        cloud_id=volume.id,
        id=marks.volume_of(volume) or UUID(volume.id),
        name=volume.name,
        size_gb=volume.size_gb,
        device=attachment.device if attachment else None,
        delete_on_termination=ends_with_server,
        is_shared=any(other.server_id != server_id for other in volume.attachments),
    )
