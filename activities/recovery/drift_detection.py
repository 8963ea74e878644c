"""Finds the differences between the cloud and the database (drift).

The database is read, then the cloud's inventory, then the database again. One reading of the database would not be
enough, because an operation may change both between the reading and the inventory. A row that is equal in both readings
did not change while the inventory was taken, so its difference from the cloud is real. Rows that changed, or that an
operation is working on, are left to the next comparison.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Row, Select, Uuid, any_, cast, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.backends.protocol import ComputeBackend, Inventory, Server
from domain.data import database
from domain.data.models import VM, Attachment, Flavor, Interface, Snapshot, Volume
from domain.rules.cloud import ServerStatus, VolumeState, server_status_of
from domain.rules.resources import AttachmentStatus, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Status
from domain.upkeep.findings import Difference, Drift

Rows = Mapping[UUID, Row[Any]]

# Every query reads `operation_id`. Each operation writes its own id into the rows that it claims, so a row that an
# operation changed and changed back still differs between the two readings.
_VMS = select(
    *(VM.id, VM.status, VM.task_state, VM.attaching, VM.operation_id, Flavor.vcpus, Flavor.ram_mb, Flavor.disk_gb)
).join(Flavor, Flavor.id == VM.flavor_id)
_VOLUMES = select(Volume.id, Volume.status, Volume.operation_id, Attachment.vm_id).outerjoin(
    Attachment, Attachment.volume_id == Volume.id
)
_INTERFACES = select(Interface.id, Interface.status, Interface.operation_id, Interface.vm_id)
_SNAPSHOTS = select(Snapshot.id, Snapshot.status, Snapshot.operation_id, Snapshot.vm_id)


@dataclass(frozen=True, slots=True)
class DatabaseReading:
    """The rows that are not deleted, by id."""

    vms: Rows = field(default_factory=dict)
    volumes: Rows = field(default_factory=dict)
    interfaces: Rows = field(default_factory=dict)
    snapshots: Rows = field(default_factory=dict)


async def find_drift(engine: AsyncEngine, backend: ComputeBackend) -> list[Difference]:
    """Return all present differences; BackendError if the cloud does not answer."""
    before = await _read_database(engine)
    inventory = await backend.inventory()
    after = await _read_database(engine)
    # Orphans are compared with the second reading only: it has everything that was created before the inventory.
    orphans = list(_orphans(after, inventory))
    async with database.autocommit(engine).connect() as connection:
        deleted_by = await _deleting_operations(connection, orphans)
    orphans = [replace(orphan, held_by=deleted_by.get(orphan.id)) for orphan in orphans]
    return [*_differences(_stable_rows(before, after), inventory), *orphans]


async def _read_database(engine: AsyncEngine) -> DatabaseReading:
    async with database.autocommit(engine).connect() as connection:
        return DatabaseReading(
            await _rows_by_id(connection, _VMS.where(VM.status != Status.DELETED)),
            await _rows_by_id(connection, _VOLUMES.where(Volume.status != VolumeStatus.DELETED)),
            await _rows_by_id(connection, _INTERFACES),
            await _rows_by_id(connection, _SNAPSHOTS.where(Snapshot.status != SnapshotStatus.DELETED)),
        )


async def _rows_by_id(connection: AsyncConnection, statement: Select[*tuple[Any, ...]]) -> Rows:
    return {row.id: row for row in await connection.execute(statement)}


def _stable_rows(before: DatabaseReading, after: DatabaseReading) -> DatabaseReading:
    """Return the rows that are equal in both readings, without VMs that an operation is working on."""
    vms = _unchanged(before.vms, after.vms)
    return DatabaseReading(
        {id: vm for id, vm in vms.items() if _is_idle(vm)},
        _unchanged(before.volumes, after.volumes),
        _unchanged(before.interfaces, after.interfaces),
        _unchanged(before.snapshots, after.snapshots),
    )


def _unchanged(before: Rows, after: Rows) -> Rows:
    return {id: row for id, row in after.items() if before.get(id) == row}


def _is_idle(vm: Row[Any]) -> bool:
    return vm.task_state is None and vm.attaching == 0


def _differences(stable: DatabaseReading, inventory: Inventory) -> Iterator[Difference]:
    for vm in stable.vms.values():
        server = inventory.servers.get(vm.id)
        drift = _server_drift(vm, server)
        if drift:
            seen = {"status": vm.status, "server": server.status if server else ServerStatus.GONE}
            yield Difference(drift, Kind.VM, vm.id, seen, vm.operation_id)
    for volume in stable.volumes.values():
        yield from _volume_drift(volume, inventory)
    for interface in stable.interfaces.values():
        is_attached = interface.status is AttachmentStatus.ATTACHED and interface.vm_id in stable.vms
        if is_attached and interface.id not in inventory.ports:
            seen = {"vm_id": str(interface.vm_id)}
            yield Difference(Drift.INTERFACE_GONE, Kind.INTERFACE, interface.id, seen, interface.operation_id)
    for snapshot in stable.snapshots.values():
        if snapshot.status is SnapshotStatus.AVAILABLE and snapshot.id not in inventory.images:
            seen = {"vm_id": str(snapshot.vm_id)}
            yield Difference(Drift.IMAGE_GONE, Kind.SNAPSHOT, snapshot.id, seen, snapshot.operation_id)


def _server_drift(vm: Row[Any], server: Server | None) -> Drift | None:
    """Return how the server differs from the VM, if it does; a busy server is left to the next comparison."""
    if server is not None and server.is_busy:
        return None
    if vm.status is Status.ERROR:
        # A person must decide about the VM. Show that its server has recovered, which helps with the decision.
        return Drift.SERVER_STATUS if server and server.status is not ServerStatus.ERROR else None
    if server is None:
        return Drift.SERVER_GONE
    if server.status is server_status_of(vm.status):
        has_size = (server.vcpus, server.ram_mb, server.disk_gb) == (vm.vcpus, vm.ram_mb, vm.disk_gb)
        return None if has_size else Drift.SERVER_SIZE
    return _status_drift(vm.status, server.status)


def _status_drift(status: Status, server_status: ServerStatus) -> Drift:
    """Return the kind of drift between two statuses that differ."""
    match server_status:
        case ServerStatus.ACTIVE | ServerStatus.SHUTOFF:
            return Drift.RESIZE_DECIDED if status is Status.VERIFY_RESIZE else Drift.POWER_STATE
        case ServerStatus.ERROR:
            return Drift.SERVER_ERROR
        case _:
            return Drift.SERVER_STATUS


def _volume_drift(row: Row[Any], inventory: Inventory) -> Iterator[Difference]:
    """Yield how the cloud's volume differs from the row, if it does."""
    if row.status not in {VolumeStatus.AVAILABLE, VolumeStatus.IN_USE}:
        return
    volume = inventory.volumes.get(row.id)
    if volume is None:
        drift = Drift.VOLUME_GONE
    elif volume.vm_id == row.vm_id:
        return
    else:
        is_free = volume.vm_id is None and volume.state is VolumeState.AVAILABLE
        drift = Drift.VOLUME_DETACHED if is_free else Drift.VOLUME_ELSEWHERE
    seen = {"status": row.status, "cloud": volume.state if volume else VolumeState.GONE}
    vm_ids = {"vm_id": row.vm_id, "cloud_vm_id": volume.vm_id if volume else None}
    seen |= {name: str(id) for name, id in vm_ids.items() if id}
    yield Difference(drift, Kind.VOLUME, row.id, seen, row.operation_id)


def _orphans(after: DatabaseReading, inventory: Inventory) -> Iterator[Difference]:
    """Yield the resources in the cloud that the database has deleted or has never known."""
    for vm_id in inventory.servers.keys() - after.vms.keys():
        yield Difference(Drift.ORPHAN_SERVER, Kind.VM, vm_id, {"server": inventory.servers[vm_id].status})
    orphan_ports = inventory.ports.keys() - after.interfaces.keys()
    for port_id, vm in ((id, after.vms.get(inventory.ports[id])) for id in orphan_ports):
        if vm and _is_idle(vm):
            yield Difference(Drift.ORPHAN_PORT, Kind.INTERFACE, port_id, {"vm_id": str(vm.id)})
    # Ports without VM and server are reported once per VM, because they are removed together.
    for vm_id in {inventory.ports[id] for id in orphan_ports} - after.vms.keys() - inventory.servers.keys():
        yield Difference(Drift.ORPHAN_PORT, Kind.VM, vm_id)
    for volume_id in inventory.volumes.keys() - after.volumes.keys():
        yield Difference(Drift.ORPHAN_VOLUME, Kind.VOLUME, volume_id, {"cloud": inventory.volumes[volume_id].state})
    for image_id in inventory.images - after.snapshots.keys():
        yield Difference(Drift.ORPHAN_IMAGE, Kind.SNAPSHOT, image_id)


async def _deleting_operations(connection: AsyncConnection, orphans: Sequence[Difference]) -> dict[UUID, UUID]:
    """Return, by resource id, the operations that deleted these orphans; without those the database never knew."""
    # One array parameter, because there may be more orphans than a statement can have parameters.
    ids = cast([orphan.id for orphan in orphans], ARRAY(Uuid))
    deleted_by: dict[UUID, UUID] = {}
    for model in (VM, Volume, Snapshot) if orphans else ():
        statement = select(model.id, model.operation_id).where(model.id == any_(ids), model.status == "DELETED")
        deleted_by |= {row.id: row.operation_id for row in await connection.execute(statement)}
    return deleted_by
