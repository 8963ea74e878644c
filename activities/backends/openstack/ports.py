"""Ports of the cloud, which Neutron has and Nova plugs into servers."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from activities.backends.openstack import bodies, marks, placement, reading
from activities.backends.openstack.base import no_server
from activities.backends.openstack.calls import Accepted, Found, Request
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.openstack.reading import Query
from activities.backends.openstack.records import PortRow
from activities.backends.openstack.resource_calls import OpenStackResources, part_of
from activities.backends.openstack.resource_verdicts import port_verdict
from activities.backends.openstack.verdict import Done, Failed, Undecided, Verb, Want
from activities.backends.openstack.watcher import IDS_OF_A_QUERY
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Port, PortSpec, Ref

CREATE: Final = "create_port"
DELETE: Final = "delete_port"
UNPLUG_TIME: Final = 20.0
"""Seconds for a host to unplug a port while a call waits for it; usually it takes two."""


class OpenStackPorts(OpenStackResources):
    """Ports."""

    async def create_ports(self, token: Token, vm: Ref, wanted: Collection[PortSpec]) -> Collection[Port]:
        # Nova makes the other ports, and deletes them in every case.
        return [
            port_from(await self._create_port(part_of(token, str(port.interface.id)), vm, port), vm.id)
            for port in wanted
            if port.ip_address
        ]

    async def create_server_interface(self, token: Token, vm: Ref, wanted: PortSpec) -> Port:
        server_id = await self._needed_server_id(vm)
        port = await self._create_port(part_of(token, "port"), vm, wanted)
        await self._plug(part_of(token, "plug"), server_id, port.id)
        return port_from(port, vm.id)

    async def delete_server_interface(self, token: Token, vm: Ref, port: Ref) -> None:
        found = await self._ports_of_interface(vm, port)
        if not found:
            await self._check_settled(token, CREATE)
        for row in found:
            if row.device_id is not None:
                if row.device_id != await self._server_id(vm):
                    raise BackendError("conflict", "The port is plugged into another server.", retryable=False)
                await self._unplug(part_of(token, f"unplug/{row.id}"), row.device_id, row.id)
            await self._remove(part_of(token, row.id), DELETE, Service.NETWORK, f"/ports/{row.id}")

    async def list_ports(self, vms: Collection[Ref]) -> Collection[Port]:
        servers = {id: vm.id for vm in vms if (id := await self._server_id(vm))}
        plugged = await self._ports_where("device_id", servers)
        ports = {row.id: port_from(row, servers[row.device_id]) for row in plugged if row.device_id in servers}
        made = await self._ports_where("description", [marks.port_description(vm.id) for vm in vms])
        free: dict[UUID, list[PortRow]] = {}
        for row in made:
            if row.device_id is None and (vm_id := marks.vm_of_port(row)):
                free.setdefault(vm_id, []).append(row)
        for vm in vms:
            # A server that exists does not have the port: somebody unplugged it, or a delete ended halfway.
            if vm.id in free and await self._find_server(vm) is None:
                ports |= {row.id: port_from(row, vm.id) for row in free[vm.id]}
        return list(ports.values())

    async def _ports_of(self, vm: Ref) -> Sequence[PortRow]:
        """Return the ports that we have made for the VM."""
        made = await self._ports_where("description", [marks.port_description(vm.id)])
        return [row for row in made if marks.vm_of_port(row) == vm.id]

    async def _remove_ports(self, token: Token, vm: Ref) -> None:
        """Delete the ports that we have made for the VM, plugged in or not."""
        for row in await self._ports_of(vm):
            await self._remove(part_of(token, row.id), DELETE, Service.NETWORK, f"/ports/{row.id}")

    async def _create_port(self, token: Token, vm: Ref, wanted: PortSpec) -> PortRow:
        interface_id = wanted.interface.id
        addresses: dict[str, Any] = {"mac_address": wanted.mac_address} if wanted.mac_address else {}
        if wanted.ip_address:
            addresses["fixed_ips"] = [{"ip_address": wanted.ip_address}]

        def send(attempt: int) -> Request:
            port = {"network_id": str(wanted.network_id), **marks.of_port(interface_id, vm.id, attempt), **addresses}
            port |= placement.of_port(wanted)
            return Request(Service.NETWORK, "POST", "/ports", {"port": port}, lambda body: str(body["port"]["id"]))

        async def find(_: datetime | None) -> Found | None:
            made = await self._ports_marked(vm, interface_id)
            return Found(made[0].id) if made else None

        try:
            id = self._made(await self._calls.call(token, CREATE, send, find))
        except CloudError as error:
            raise placement.explained(error) from None
        port = await self._read_port(id)
        if port is None:
            raise BackendError("port_gone", "The cloud no longer has the port.", retryable=False)
        return port

    async def _plug(self, token: Token, server_id: str, port_id: str) -> None:
        """Plug a port into the server. Nova answers when the host has done it, or has failed to."""
        path = f"/servers/{server_id}/os-interface"

        async def find(_: datetime | None) -> Found | None:
            answer = await reading.read_one(self._fetch, Service.COMPUTE, f"{path}/{port_id}")
            return Found() if answer else None

        body = {"interfaceAttachment": {"port_id": port_id}}
        request = Request(Service.COMPUTE, "POST", path, body)
        try:
            await self._calls.call(token, Verb.PLUG, lambda _: request, find)
        except CloudError as error:
            if error.ambiguous and error.request_id:
                want = Want(Verb.PLUG, self._cloud.now(Service.COMPUTE), error.request_id)
                await self._check_plugging(server_id, port_id, want)
            if error.code == "not_found":
                raise no_server() from error
            # The port may be in use because an earlier request has plugged it meanwhile.
            if error.code != "conflict" or await find(None) is None:
                raise

    async def _check_plugging(self, server_id: str, port_id: str, want: Want) -> None:
        """Raise a BackendError for good if the server's entry shows that the host failed to plug the port."""
        port, action = await self._read_port(port_id), await self._entry(server_id, want)
        if port and action and action.has_failed:
            found = port_verdict(want, server_id, port, action)
            if isinstance(found, Failed):
                raise BackendError(found.code, found.message, retryable=False)

    async def _unplug(self, token: Token, server_id: str, port_id: str) -> None:
        """Unplug a port, and return when the host has done it."""
        path = f"/servers/{server_id}/os-interface/{port_id}"

        async def find(_: datetime | None) -> Found | None:
            return None if await reading.read_one(self._fetch, Service.COMPUTE, path) else Found()

        async def has_failed(accepted: Accepted) -> bool:
            return await self._action_failed(server_id, Verb.UNPLUG, accepted)

        try:
            request = Request(Service.COMPUTE, "DELETE", path)
            accepted = await self._calls.call(token, Verb.UNPLUG, lambda _: request, find, has_failed)
        except CloudError as error:
            if error.code != "not_found":
                raise
            return
        await self._wait_until_unplugged(token, server_id, port_id, accepted)

    async def _wait_until_unplugged(self, token: Token, server_id: str, port_id: str, accepted: Accepted) -> None:
        want = Want(Verb.UNPLUG, accepted.since, accepted.request_id)
        self._watcher.ports.hasten(port_id)
        try:
            async with asyncio.timeout(UNPLUG_TIME):
                while not await self._is_unplugged(token, server_id, port_id, want):
                    pass  # the watcher decides when the cloud is asked again
        except TimeoutError:
            message = "Waiting for the host: the port is still plugged into the server."
            raise BackendError("busy", message, retryable=True) from None

    async def _is_unplugged(self, token: Token, server_id: str, port_id: str, want: Want) -> bool:
        port = (await self._watcher.ports.ask([port_id])).get(port_id)
        found = port_verdict(want, server_id, port, None)
        if isinstance(found, Undecided) and found.needs_action:
            found = port_verdict(want, server_id, port, await self._entry(server_id, want))
        if isinstance(found, Failed):
            # An undo goes on until the port is gone: the next attempt of the activity asks the cloud again.
            raise BackendError(found.code, found.message, retryable=token.compensates)
        return isinstance(found, Done)

    async def _ports_of_interface(self, vm: Ref, port: Ref) -> Sequence[PortRow]:
        """Return the interface's port, or all with its mark if the row keeps no id of the cloud."""
        if port.cloud_id is None:
            return await self._ports_marked(vm, port.id)
        row = await self._read_port(port.cloud_id)
        return [row] if row else []

    async def _ports_marked(self, vm: Ref, interface_id: UUID) -> Sequence[PortRow]:
        """Return the ports with the mark of this interface, in the order of the attempts that made them."""
        found = [row for row in await self._ports_of(vm) if marks.interface_of(row) == interface_id]
        return sorted(found, key=lambda row: (len(row.name), row.name, row.id))

    async def _ports_where(self, field: str, values: Collection[str] | Mapping[str, UUID]) -> Sequence[PortRow]:
        """Return the ports in whose field there is one of these values; a cloud may return others, too."""
        ordered = sorted(values)
        found: list[PortRow] = []
        for start in range(0, len(ordered), IDS_OF_A_QUERY):
            query: Query = [(field, value) for value in ordered[start : start + IDS_OF_A_QUERY]]
            found += map(bodies.port_from, await self._rows(Service.NETWORK, "/ports", query, "ports"))
        return found

    async def _read_port(self, id: str) -> PortRow | None:
        answer = await reading.read_one(self._fetch, Service.NETWORK, f"/ports/{id}")
        return bodies.port_from(bodies.single(answer.body, "port")) if answer else None


def port_from(row: PortRow, vm_id: UUID) -> Port:
    """Return the port of a VM that a row shows."""
    # A port may have addresses of both versions, and we show one.
    addresses = sorted(row.ip_addresses, key=lambda address: ":" in address)
    ip_address = addresses[0] if addresses else None
    return Port(row.id, vm_id, UUID(row.network_id), ip_address, row.mac_address, marks.interface_of(row))
