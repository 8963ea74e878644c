"""Notes which servers of the cloud belong to no VM, so that admins can adopt them. Runs in one worker at a time."""

import asyncio
import logging
from collections import Counter
from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, Text, all_, any_, delete, literal, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.backends.found import FoundServer as Found
from activities.backends.protocol import BackendError, ComputeBackend
from activities.backends.resources import Port
from activities.recovery.rows import is_one_of
from domain.data import advisory_locks, outages, queries
from domain.data.cloud import FoundServer
from domain.data.models import LIVE, VM, Network
from domain.rules.cloud import ServerStatus

logger = logging.getLogger(__name__)

INTERVAL: Final = 60.0  # seconds
ROWS_PER_STATEMENT: Final = 1_000  # a statement has at most 32,767 parameters, and a row takes 13 of them


class FoundServersReader:
    """Looks for servers that belong to no VM; an error ends one look, never the loop."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend) -> None:
        self._engine = engine
        self._backend = backend

    async def run(self) -> None:
        """Look now and every INTERVAL until canceled."""
        while True:
            try:
                await self.read()
            except Exception as error:  # noqa: BLE001 - the loop must survive every error
                if outages.is_outage(error):
                    outages.log.failed(error)
                else:
                    reason = error if isinstance(error, BackendError) else outages.describe(error)
                    logger.warning("Could not look for servers that belong to no VM: %s", reason)
            await asyncio.sleep(INTERVAL)

    async def read(self) -> None:
        """Note all servers that belong to no VM, unless another worker does so now."""
        # The lock ends with its transaction, and the transaction with the connection if the worker dies.
        async with self._engine.begin() as tx:
            if not await queries.try_long_lock(tx, advisory_locks.FOUND_SERVERS):
                return
            await note(tx, await self._backend.list_other_servers(self._known))

    async def _known(self, ids: Collection[str]) -> Collection[str]:
        """Return which of these ids of the cloud are of servers of VMs."""
        # A statement of the lock's transaction would keep its snapshot until the cloud has answered.
        async with self._engine.connect() as connection:
            of_vms = select(VM.cloud_id).where(LIVE, VM.cloud_id == any_(literal(list(ids), ARRAY(Text))))
            return {id for id in await connection.scalars(of_vms) if id}


async def note(tx: AsyncConnection, found: Collection[Found]) -> None:
    """Make these servers, but not those of VMs, the ones that can be adopted. Rows that are right are not written."""
    # After the cloud's answer: a server that was just made for a VM, or adopted, is not of somebody else. A server with
    # the mark of a VM that was deleted, or that has another server, is one that the reconciler removes or reports.
    of_vms = select(VM.id, VM.cloud_id).where(
        or_(is_one_of(VM.id, [server.id for server in found]), _is_one_of(VM.cloud_id, found))
    )
    vms = (await tx.execute(of_vms)).all()
    known = {vm.id for vm in vms} | {vm.cloud_id for vm in vms}
    networks = set((await tx.scalars(select(Network.id))).all())
    rows = [_row(server, networks) for server in found if known.isdisjoint({server.id, server.cloud_id})]
    ids = [row["cloud_id"] for row in rows]
    await tx.execute(delete(FoundServer).where(FoundServer.cloud_id != all_(literal(ids, ARRAY(Text)))))
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        batch = rows[start : start + ROWS_PER_STATEMENT]
        statement = insert(FoundServer).values(batch)
        changes = {name: statement.excluded[name] for name in batch[0] if name != "cloud_id"}
        present = tuple_(*(FoundServer.__table__.c[name] for name in changes))
        has_changed = present.is_distinct_from(tuple_(*changes.values()))
        await tx.execute(statement.on_conflict_do_update(index_elements=["cloud_id"], set_=changes, where=has_changed))


def _is_one_of(column: Any, found: Collection[Found]) -> Any:
    return column == any_(literal([server.cloud_id for server in found], ARRAY(Text)))


def _row(server: Found, networks: Collection[UUID]) -> dict[str, Any]:
    """Return the row of a server."""
    devices = Counter(volume.device for volume in server.volumes)  # no two attachments of a VM have the same
    return {
        "cloud_id": server.cloud_id,
        "vm_id": server.id,
        "name": server.name.strip() or server.cloud_id,
        "status": server.status,
        "flavor": server.flavor.strip(),
        "vcpus": server.vcpus,
        "ram_mb": server.ram_mb,
        "disk_gb": server.disk_gb,
        "image_id": UUID(server.image_id) if server.image_id else None,
        "volumes": [
            {
                "id": str(volume.id),
                "cloud_id": volume.cloud_id,
                "name": volume.name.strip() or volume.cloud_id,
                "size_gb": volume.size_gb,
                "device": volume.device if devices[volume.device] == 1 else None,
                "delete_on_termination": volume.delete_on_termination,
            }
            for volume in sorted(server.volumes, key=lambda volume: volume.cloud_id)
        ],
        "interfaces": [
            {
                "id": _interface_id(port),
                "cloud_id": port.cloud_id,
                "network_id": str(port.network_id),
                "ip_address": port.ip_address,
                "mac_address": port.mac_address,
            }
            for port in sorted(server.ports, key=lambda port: port.cloud_id)
        ],
        "obstacle": _obstacle(server, networks),
        "created_at": server.created_at,
    }


def _obstacle(server: Found, networks: Collection[UUID]) -> str | None:
    """Return in a sentence why the server cannot be adopted now; None if it can."""
    if server.is_busy:
        return "The cloud is changing it."
    if server.status not in {ServerStatus.ACTIVE, ServerStatus.SHUTOFF}:
        return f"Its status is {server.status}; it must be ACTIVE or SHUTOFF."
    if server.image_id is None:
        return "It boots from a volume."
    if shared := next((volume for volume in server.volumes if volume.is_shared), None):
        return f"Its volume {shared.cloud_id} is attached to other servers, too."
    if unknown := next((port for port in server.ports if port.network_id not in networks), None):
        return f"Its network {unknown.network_id} is not in the catalogue."
    return _clash(server.ports)


def _clash(ports: Collection[Port]) -> str | None:
    """Return in a sentence what two of the ports have alike and two interfaces cannot; None if there is nothing."""
    if len({_interface_id(port) for port in ports}) < len(ports):
        return "Two of its ports have the mark of one interface."
    both = [(port.network_id, address) for port in ports for address in (port.ip_address, port.mac_address)]
    known = [(network_id, address) for network_id, address in both if address]
    return "Two of its ports have one address in the same network." if len(set(known)) < len(known) else None


def _interface_id(port: Port) -> str:
    return str(port.id or UUID(port.cloud_id))
