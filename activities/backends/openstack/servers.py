"""Servers of the cloud, which Nova has."""

from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from activities.backends.openstack import bodies, marks, placement
from activities.backends.openstack.calls import Accepted, Found, Request
from activities.backends.openstack.errors import Service
from activities.backends.openstack.images import OpenStackImages, check_has_disk
from activities.backends.openstack.records import DownServer, Gone, ServerRow, Size
from activities.backends.openstack.slow import reason_to_wait
from activities.backends.openstack.verdict import STABLE, Verb, code_of
from activities.backends.openstack.watcher import IDS_OF_A_QUERY
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Fault, PortSpec, Ref, Server, ServerSpec
from domain.rules.cloud import ServerStatus

# Nova shows a hard reboot in a status of its own.
_STATUSES: Final = {status.value: status for status in ServerStatus} | {"HARD_REBOOT": ServerStatus.REBOOT}
Body = Mapping[str, Any]


class OpenStackServers(OpenStackImages):
    """Servers, which are built from images."""

    async def create_server(self, token: Token, spec: ServerSpec, ports: Collection[PortSpec] = ()) -> str:
        body = _new_server(token, spec, ports, await self._boot_fields(spec))

        async def find(since: datetime | None) -> Found | None:
            made = await self._servers_tagged(marks.operation_tag(token.operation_id))
            if not made and since is not None:
                await self._check_cells(since)
            for server in made:
                if await self._is_discarded(token.operation_id, server.id):
                    message = "The server whose build has failed is still being deleted."
                    raise BackendError("busy", message, retryable=True)
            return Found(made[0].id) if made else None

        async def has_failed(accepted: Accepted) -> bool:
            return accepted.cloud_id is not None and await self._is_discarded(token.operation_id, accepted.cloud_id)

        request = Request(Service.COMPUTE, "POST", "/servers", body, lambda body: str(body["server"]["id"]))
        return self._made(await self._calls.call(token, Verb.CREATE, lambda _: request, find, has_failed))

    async def start_server(self, token: Token, vm: Ref) -> None:
        await self._act(token, Verb.START, vm, {"os-start": None}, lambda server: server.status == "ACTIVE")

    async def stop_server(self, token: Token, vm: Ref) -> None:
        await self._act(token, Verb.STOP, vm, {"os-stop": None}, lambda server: server.status == "SHUTOFF")

    async def reboot_server(self, token: Token, vm: Ref, *, hard: bool) -> None:
        body = {"reboot": {"type": "HARD" if hard else "SOFT"}}
        await self._act(token, Verb.REBOOT, vm, body, _never)

    async def resize_server(self, token: Token, spec: ServerSpec) -> None:
        size = _size_of(spec)
        body = {"resize": {"flavorRef": spec.flavor.cloud_id}}
        await self._act(
            token, Verb.RESIZE, spec.vm, body, lambda server: (server.status, server.size) == ("VERIFY_RESIZE", size)
        )

    # A server that no longer waits for the decision has had one. The caller looks at its size to learn which one.
    async def confirm_server_resize(self, token: Token, vm: Ref) -> None:
        await self._act(token, Verb.CONFIRM, vm, {"confirmResize": None}, lambda server: server.status in STABLE)

    async def revert_server_resize(self, token: Token, vm: Ref) -> None:
        await self._act(token, Verb.REVERT, vm, {"revertResize": None}, lambda server: server.status in STABLE)

    async def rebuild_server(self, token: Token, spec: ServerSpec) -> None:
        server, body = await self._find_server(spec.vm), {"rebuild": {"imageRef": await self._image_id(spec.image)}}
        if isinstance(server, ServerRow) and server.size != _size_of(spec):
            message = "This cloud cannot change the flavor of a server that it rebuilds; resize it first."
            raise BackendError("not_supported_by_cloud", message, retryable=False)
        if isinstance(server, ServerRow):
            check_has_disk(server)
        await self._act(token, Verb.REBUILD, spec.vm, body, _never)

    async def delete_server(self, token: Token, vm: Ref) -> None:
        for id in await self._server_ids(vm):
            # More than one server may have the VM's mark, and a token is for one call.
            step = f"{token.step}/{id}"
            await self._delete(Token(token.operation_id, step, token.compensates), id)

    async def purge(self, vm: Ref) -> None:
        for id in await self._server_ids(vm):
            await self._delete_at_once(Service.COMPUTE, f"/servers/{id}")

    async def list_servers(self, vms: Collection[Ref]) -> Mapping[UUID, Server]:
        ids = {vm.id: vm.cloud_id for vm in vms if vm.cloud_id} | dict(await self._ids_by_mark(vms))
        for vm_id, id in ids.items():
            self._note_vm(id, vm_id)
        rows = await self._ask(self._watcher.servers, set(ids.values())) if ids else {}
        now, servers = self._cloud.now(Service.COMPUTE), {}
        for vm_id, id in ids.items():
            if server := server_from(vm_id, rows.get(id)):
                servers[vm_id] = replace(server, waits_for=reason_to_wait(rows.get(id), now))
        return servers

    async def _ids_by_mark(self, vms: Collection[Ref]) -> Mapping[UUID, str]:
        """Return the cloud's ids of the servers whose row keeps none; of several with one mark, the oldest."""
        found: dict[UUID, str] = {}
        unknown = [vm.id for vm in vms if vm.cloud_id is None]
        for start in range(0, len(unknown), IDS_OF_A_QUERY):
            tags = {marks.vm_tag(id): id for id in unknown[start : start + IDS_OF_A_QUERY]}
            for server in await self._servers_tagged(*tags):
                for tag in server.tags & tags.keys():
                    found.setdefault(tags[tag], server.id)
        return found

    async def _server_ids(self, vm: Ref) -> Sequence[str]:
        """Return the cloud's id of the VM's server, or of all with its mark if the row keeps none."""
        return [vm.cloud_id] if vm.cloud_id else [row.id for row in await self._servers_tagged(marks.vm_tag(vm.id))]

    async def _check_cells(self, since: datetime) -> None:
        """Raise a retryable BackendError if a server that nobody can look at may be one that was made since then."""
        rows = await self._rows(Service.COMPUTE, "/servers/detail", (), "servers")
        hidden = [row for row in rows if row.get("status") == "UNKNOWN"]  # such a row has no tags
        if any(bodies.created_at(row) > since - timedelta(seconds=2) for row in hidden):
            message = "A part of the cloud is down, and the server may be in it."
            raise BackendError("cloud_unavailable", message, retryable=True)

    async def _boot_fields(self, spec: ServerSpec) -> Body:
        """Return the fields of a new server for its disks: the one that it boots from, and further volumes."""
        data = [_disk_of(wanted.volume, boot_index=-1) for wanted in spec.volumes]
        if spec.boot_volume is not None:
            return {"block_device_mapping_v2": [_disk_of(spec.boot_volume, boot_index=0), *data]}
        image_id = await self._image_id(spec.image)
        if not data:
            return {"imageRef": image_id}
        # A server with a list of disks needs its image in this list, too.
        root = {"source_type": "image", "destination_type": "local", "boot_index": 0, "uuid": image_id}
        root |= {"delete_on_termination": True}  # the copy, which is the server's own disk
        return {"imageRef": image_id, "block_device_mapping_v2": [root, *data]}

    async def _image_id(self, image: Ref) -> str:
        if image.cloud_id:
            return image.cloud_id
        found = await self._images_marked(image.id)
        if not found:
            raise BackendError("image_not_found", "The cloud does not have the snapshot's image.", retryable=False)
        return found[0].id


def server_from(vm_id: UUID, row: ServerRow | DownServer | Gone | None) -> Server | None:
    """Return the server that a row shows; None if the cloud does not have it.

    A server that the cloud cannot show now is UNKNOWN and busy, so nothing is decided about it.
    """
    if row is None or isinstance(row, DownServer):
        return Server(vm_id, ServerStatus.UNKNOWN, 0, 0, 0, is_busy=True)
    if isinstance(row, Gone) or row.is_deleted:
        return None
    size = (row.size.vcpus, row.size.ram_mb, row.size.disk_gb)
    status = _STATUSES.get(row.status, ServerStatus.UNKNOWN)
    fault = Fault(code_of(row.fault), row.fault.message) if row.fault and status is ServerStatus.ERROR else None
    is_busy = not row.is_idle or row.status == ServerStatus.UNKNOWN
    return Server(vm_id, status, *size, is_busy=is_busy, fault=fault, image_id=row.image_id, availability_zone=row.zone)


def _new_server(token: Token, spec: ServerSpec, ports: Collection[PortSpec], boot: Body) -> Body:
    """Return the body that creates a server. A port that exists is named; Nova makes the others, and deletes them."""
    networks = [
        {"port": port.interface.cloud_id} if port.interface.cloud_id else {"uuid": str(port.network_id)}
        for port in ports
    ]
    server = {
        "name": spec.name,
        "flavorRef": spec.flavor.cloud_id,
        **boot,
        "networks": networks or "none",
        **placement.of_server(spec),
    }
    if spec.user_data:
        server["user_data"] = b64encode(spec.user_data).decode()
    return {"server": {**server, **marks.of_server(spec.vm.id, token)}}


def _disk_of(volume: Ref, boot_index: int) -> Body:
    # Otherwise the cloud deletes the volume together with the server.
    disk = {"source_type": "volume", "destination_type": "volume", "delete_on_termination": False}
    return disk | {"uuid": volume.cloud_id, "boot_index": boot_index}


def _size_of(spec: ServerSpec) -> Size:
    return Size(spec.vcpus, spec.ram_mb, spec.disk_gb)


def _never(_: ServerRow) -> bool:
    return False
