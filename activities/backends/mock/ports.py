"""The mock cloud's ports. They are created and deleted at once."""

import secrets
from collections.abc import Collection
from ipaddress import IPv6Address
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock.calls import MockCalls, is_meant, lock_idle_server
from activities.backends.mock.placement import groups_of
from activities.backends.mock.schema import ports
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Port, PortSpec, Ref
from domain.data.prepared import Prepared
from domain.rules.cloud import ServerStatus

_UNIQUE_LOCAL: Final = 0xFD << 120  # the beginning of the IPv6 addresses that need no registry

_IDS: Final = bindparam("ids", type_=ARRAY(Uuid))
_OF_VMS: Final = Prepared(select(ports).where(ports.c.vm_id == any_(_IDS)))
_BY_ID: Final = Prepared(select(ports).where(ports.c.id == any_(_IDS)))
_COLUMNS: Final = [column for column in ports.c if column is not ports.c.cloud_id]
_ADD: Final = Prepared(
    insert(ports)
    .values({column.name: bindparam(column.name, type_=column.type) for column in _COLUMNS})
    .on_conflict_do_nothing()
    .returning(ports.c.id)
)


class MockPorts(MockCalls):
    """Ports."""

    async def create_ports(self, token: Token, vm: Ref, wanted: Collection[PortSpec]) -> Collection[Port]:
        in_advance = [port for port in wanted if port.ip_address]

        async def create(tx: AsyncConnection) -> None:
            await add_ports(tx, vm.id, in_advance)

        await self._call("create_ports", token, vm.id, create)
        return await self._find([port.interface.id for port in in_advance])

    async def create_server_interface(self, token: Token, vm: Ref, wanted: PortSpec) -> Port:
        async def plug(tx: AsyncConnection) -> None:
            await lock_idle_server(tx, vm, ServerStatus.ACTIVE, ServerStatus.SHUTOFF)
            await add_ports(tx, vm.id, [wanted])

        await self._call("create_server_interface", token, vm.id, plug, may_be_doomed=True)
        for port in await self._find([wanted.interface.id]):
            return port
        raise BackendError("port_gone", "The cloud no longer has the port.", retryable=False)

    async def delete_server_interface(self, token: Token, vm: Ref, port: Ref) -> None:
        async def unplug(tx: AsyncConnection) -> None:
            is_it = is_meant(ports.c.id, ports.c.cloud_id, port)
            await tx.execute(delete(ports).where(is_it, ports.c.vm_id == vm.id))

        await self._call("delete_server_interface", token, vm.id, unplug, may_be_doomed=True)

    async def list_ports(self, vms: Collection[Ref]) -> Collection[Port]:
        return [port_from(row) for row in await _OF_VMS.fetch(self._engine, {"ids": [vm.id for vm in vms]})]

    async def _find(self, ids: Collection[UUID]) -> list[Port]:
        """Return the ports with these marks."""
        return [port_from(row) for row in await _BY_ID.fetch(self._engine, {"ids": ids})] if ids else []


async def marks_of_ports(tx: AsyncConnection, vm_id: UUID) -> set[UUID]:
    """Return our ids of the ports that the VM has."""
    return {row.id for row in await _OF_VMS.fetch_in(tx, {"ids": [vm_id]})}


async def add_ports(tx: AsyncConnection, vm_id: UUID, wanted: Collection[PortSpec]) -> None:
    """Create ports of the VM; the cloud chooses the addresses that nobody wants.

    BackendError, as from Neutron, for an address that another port has.
    """
    for port in wanted:
        row = {
            "id": port.interface.id,
            "vm_id": vm_id,
            "network_id": port.network_id,
            "ip_address": port.ip_address or str(IPv6Address(_UNIQUE_LOCAL | secrets.randbits(120))),
            "mac_address": port.mac_address or "fa:16:3e:" + secrets.token_bytes(3).hex(":"),
            "security_groups": groups_of(port.security_groups),
        }
        if not await _ADD.fetch_in(tx, row):
            message = f"The cloud refused the port: another one has {port.ip_address} or {port.mac_address}."
            raise BackendError("address_in_use", message, retryable=False)


def port_from(row: Any) -> Port:
    """Return the port that a row describes."""
    return Port(str(row.cloud_id), row.vm_id, row.network_id, row.ip_address, row.mac_address, row.id)
