"""What the cloud has otherwise than the database: two readings of the database with a look at the cloud in between.

Only what rests in both readings is compared, so that nothing that is being done counts as a difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Row, Select, Uuid, any_, cast, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.backends.protocol import ComputeBackend, Inventory, Server
from domain.data import database
from domain.data.models import VM, Attachment, Flavor, Interface, Snapshot, Volume
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.resources import AttachmentStatus, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Status
from domain.upkeep.findings import Difference, Drift

Rows = Mapping[UUID, Row[Any]]

_VMS = select(
    *(VM.id, VM.status, VM.task_state, VM.attaching, VM.operation_id, Flavor.vcpus, Flavor.ram_mb, Flavor.disk_gb)
).join(Flavor, Flavor.id == VM.flavor_id)
_VOLUMES = select(Volume.id, Volume.status, Volume.operation_id, Attachment.vm_id).outerjoin(
    Attachment, Attachment.volume_id == Volume.id
)
_INTERFACES = select(Interface.id, Interface.status, Interface.operation_id, Interface.vm_id)
_SNAPSHOTS = select(Snapshot.id, Snapshot.status, Snapshot.operation_id, Snapshot.vm_id)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the database has that is not deleted, by id."""

    vms: Rows = field(default_factory=dict)
    volumes: Rows = field(default_factory=dict)
    interfaces: Rows = field(default_factory=dict)
    snapshots: Rows = field(default_factory=dict)


async def find(engine: AsyncEngine, backend: ComputeBackend) -> list[Difference]:
    """Every difference there is now; BackendError where the cloud does not answer."""
    before = await _read(engine)
    cloud = await backend.inventory()
    now = await _read(engine)
    orphans = list(_orphans(now, cloud))
    async with database.autocommit(engine).connect() as connection:
        deleted = await _deleted(connection, orphans)
    at_rest = Reading(
        {id: vm for id, vm in _same(before.vms, now.vms) if vm.task_state is None and vm.attaching == 0},
        dict(_same(before.volumes, now.volumes)),
        dict(_same(before.interfaces, now.interfaces)),
        dict(_same(before.snapshots, now.snapshots)),
    )
    known = [Difference(one.drift, one.kind, one.id, one.seen, deleted.get(one.id)) for one in orphans]
    return [*_drifts(at_rest, cloud), *known]


async def _read(engine: AsyncEngine) -> Reading:
    async with database.autocommit(engine).connect() as connection:
        return Reading(
            await _by_id(connection, _VMS.where(VM.status != Status.DELETED)),
            await _by_id(connection, _VOLUMES.where(Volume.status != VolumeStatus.DELETED)),
            await _by_id(connection, _INTERFACES),
            await _by_id(connection, _SNAPSHOTS.where(Snapshot.status != SnapshotStatus.DELETED)),
        )


async def _by_id(connection: AsyncConnection, statement: Select[*tuple[Any, ...]]) -> Rows:
    return {row.id: row for row in await connection.execute(statement)}


def _same(before: Rows, now: Rows) -> Iterator[tuple[UUID, Row[Any]]]:
    return ((id, row) for id, row in now.items() if before.get(id) == row)


def _drifts(at_rest: Reading, cloud: Inventory) -> Iterator[Difference]:
    for vm in at_rest.vms.values():
        server = cloud.servers.get(vm.id)
        drift = _of_server(vm, server)
        if drift:
            seen = {"status": vm.status, "server": server.status if server else ServerStatus.GONE}
            yield Difference(drift, Kind.VM, vm.id, seen, vm.operation_id)
    for volume in at_rest.volumes.values():
        yield from _of_volume(volume, cloud)
    for one in at_rest.interfaces.values():
        if one.status is AttachmentStatus.ATTACHED and one.vm_id in at_rest.vms and one.id not in cloud.ports:
            yield Difference(Drift.INTERFACE_GONE, Kind.INTERFACE, one.id, {"vm_id": str(one.vm_id)}, one.operation_id)
    for snapshot in at_rest.snapshots.values():
        if snapshot.status is SnapshotStatus.AVAILABLE and snapshot.id not in cloud.images:
            of_vm = {"vm_id": str(snapshot.vm_id)}
            yield Difference(Drift.IMAGE_GONE, Kind.SNAPSHOT, snapshot.id, of_vm, snapshot.operation_id)


def _of_server(vm: Row[Any], server: Server | None) -> Drift | None:
    if server is not None and server.is_busy:
        return None
    if vm.status is Status.ERROR:  # what is to become of it a person decides, who wants to know how it is
        return Drift.SERVER_STATUS if server and server.status is not ServerStatus.ERROR else None
    if server is None:
        return Drift.SERVER_GONE
    if str(server.status) == vm.status:
        fits = (server.vcpus, server.ram_mb, server.disk_gb) == (vm.vcpus, vm.ram_mb, vm.disk_gb)
        return None if fits else Drift.SERVER_SIZE
    at_rest = Drift.RESIZE_DECIDED if vm.status is Status.VERIFY_RESIZE else Drift.POWER_STATE
    drifts = {ServerStatus.ACTIVE: at_rest, ServerStatus.SHUTOFF: at_rest, ServerStatus.ERROR: Drift.SERVER_ERROR}
    return drifts.get(server.status, Drift.SERVER_STATUS)


def _of_volume(volume: Row[Any], cloud: Inventory) -> Iterator[Difference]:
    if volume.status not in {VolumeStatus.AVAILABLE, VolumeStatus.IN_USE}:
        return
    there = cloud.volumes.get(volume.id)
    if there is None:
        drift = Drift.VOLUME_GONE
    elif there.vm_id == volume.vm_id:
        return
    else:
        is_free = there.vm_id is None and there.state is VolumeState.AVAILABLE
        drift = Drift.VOLUME_DETACHED if is_free else Drift.VOLUME_ELSEWHERE
    seen = {"status": volume.status, "cloud": there.state if there else VolumeState.GONE}
    places = {"vm_id": volume.vm_id, "cloud_vm_id": there.vm_id if there else None}
    seen |= {name: str(id) for name, id in places.items() if id}
    yield Difference(drift, Kind.VOLUME, volume.id, seen, volume.operation_id)


def _orphans(now: Reading, cloud: Inventory) -> Iterator[Difference]:
    """What the cloud has of what the database has deleted, or has never known."""
    for vm_id in cloud.servers.keys() - now.vms.keys():
        yield Difference(Drift.ORPHAN_SERVER, Kind.VM, vm_id, {"server": cloud.servers[vm_id].status})
    lonely = cloud.ports.keys() - now.interfaces.keys()
    for port_id, vm in ((id, now.vms.get(cloud.ports[id])) for id in lonely):
        if vm and vm.task_state is None and vm.attaching == 0:
            yield Difference(Drift.ORPHAN_PORT, Kind.INTERFACE, port_id, {"vm_id": str(vm.id)})
    for vm_id in {cloud.ports[id] for id in lonely} - now.vms.keys() - cloud.servers.keys():
        yield Difference(Drift.ORPHAN_PORT, Kind.VM, vm_id)
    for volume_id in cloud.volumes.keys() - now.volumes.keys():
        yield Difference(Drift.ORPHAN_VOLUME, Kind.VOLUME, volume_id, {"cloud": cloud.volumes[volume_id].state})
    for image_id in cloud.images - now.snapshots.keys():
        yield Difference(Drift.ORPHAN_IMAGE, Kind.SNAPSHOT, image_id)


async def _deleted(connection: AsyncConnection, orphans: Sequence[Difference]) -> dict[UUID, UUID]:
    """Of those that the database has deleted, the operations that did."""
    ids = cast([one.id for one in orphans], ARRAY(Uuid))
    deleted: dict[UUID, UUID] = {}
    for model in (VM, Volume, Snapshot) if orphans else ():
        statement = select(model.id, model.operation_id).where(model.id == any_(ids), model.status == "DELETED")
        deleted |= {row.id: row.operation_id for row in await connection.execute(statement)}
    return deleted
