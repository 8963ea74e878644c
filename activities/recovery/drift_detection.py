"""Finds the differences between the cloud and the database (drift), page by page.

A page of rows is read, then the cloud is asked about them, then those rows that differ from the cloud are read again.
One reading of the database would not be enough, because an operation may change both between the reading and the
answer of the cloud. A row that is equal in both readings did not change while the cloud was asked, so its difference is
real. Rows that changed, or that an operation is working on, are left to the next comparison.

There may be any number of rows, and the loop that runs this also sends the heartbeats of activities. So no step handles
more than a page of them.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from activities import ports
from activities.backends.protocol import ComputeBackend
from activities.backends.resources import Image as CloudImage
from activities.backends.resources import Server
from activities.backends.resources import Volume as CloudVolume
from activities.recovery import returns
from activities.recovery.orphan_detection import find_orphans
from activities.recovery.rows import Query, Rows, is_one_of, pages, read, refs
from domain.data import database, queries
from domain.data.models import VM, Attachment, Flavor, Image, Interface, Operation, Snapshot, Volume
from domain.rules.cloud import ImageState, ServerStatus, VolumeState, server_status_of
from domain.rules.resources import AttachmentStatus, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status
from domain.upkeep.findings import ACTOR, Difference, Drift

Found = Sequence[Difference]

# Every query reads `operation_id`. Each operation writes its own id into the rows that it claims, so a row that an
# operation changed and changed back still differs between the two readings.
_IDLE_VMS: Final = (
    select(VM.id, VM.cloud_id, VM.status, VM.operation_id, VM.flavor_id, VM.image_id)
    .add_columns(Flavor.vcpus, Flavor.ram_mb, Flavor.disk_gb, Operation.actor.label("put_into_error_by"))
    .join(Flavor, Flavor.id == VM.flavor_id)
    .outerjoin(Operation, and_(Operation.id == VM.operation_id, VM.status == Status.ERROR))
    .where(VM.status != Status.DELETED, VM.task_state.is_(None), VM.attaching == 0)
)
_VOLUMES: Final = (
    select(Volume.id, Volume.cloud_id, Volume.status, Volume.operation_id, Volume.size_gb, Attachment.vm_id)
    .add_columns(Attachment.device, Attachment.delete_on_termination)
    .outerjoin(Attachment, Attachment.volume_id == Volume.id)
    # A create that failed leaves a row in ERROR without an id of the cloud. Its volume goes (leftovers.made_late).
    .where(
        or_(
            Volume.status.in_((VolumeStatus.AVAILABLE, VolumeStatus.IN_USE)),
            and_(Volume.status == VolumeStatus.ERROR, Volume.cloud_id.is_not(None)),
        )
    )
)
_INTERFACES: Final = select(
    Interface.id, Interface.cloud_id, Interface.operation_id, Interface.vm_id, Interface.network_id
).where(Interface.status == AttachmentStatus.ATTACHED)
_SNAPSHOTS: Final = (
    select(Snapshot.id, Snapshot.cloud_id, Snapshot.status, Snapshot.operation_id, Snapshot.vm_id)
    .outerjoin(Operation, and_(Operation.id == Snapshot.operation_id, Snapshot.status == SnapshotStatus.ERROR))
    # One that was never complete is in ERROR, too. Most of them name the operation that began to make them.
    .where(
        or_(
            Snapshot.status == SnapshotStatus.AVAILABLE,
            and_(
                Snapshot.cloud_id.is_not(None),
                or_(Operation.action == Action.RESET_STATE, and_(Operation.id.is_not(None), ~queries.HAS_BEGUN)),
            ),
        )
    )
)


async def find_drift(engine: AsyncEngine, backend: ComputeBackend) -> AsyncIterator[Found]:
    """Yield all present differences, in pages; BackendError if the cloud does not answer."""
    reader = database.autocommit(engine)
    async for vms in pages(reader, _IDLE_VMS):
        yield await _drift_of_vms(reader, backend, vms)
    async for rows in pages(reader, _VOLUMES):
        volumes = await backend.list_volumes(refs(rows), with_faults=False)
        lost = await returns.lost_attachments(reader, rows, volumes)
        found = [each for row in rows.values() for each in _volume_drift(row, volumes.get(row.id), lost.get(row.id))]
        yield await _still_found(reader, _VOLUMES, rows, await _note_lost_servers(reader, backend, found))
    async for rows in pages(reader, _SNAPSHOTS):
        images = await backend.list_images(refs(rows))
        complete = await returns.lost_snapshots(reader, rows, images)
        found = [each for row in rows.values() for each in _snapshot_drift(row, images.get(row.id), complete)]
        yield await _still_found(reader, _SNAPSHOTS, rows, found)
    async for orphans in find_orphans(engine, backend):
        yield orphans


async def _drift_of_vms(reader: AsyncEngine, backend: ComputeBackend, vms: Rows) -> Found:
    """Return how a page of idle VMs and their interfaces differ from the cloud."""
    interfaces = await read(reader, _INTERFACES.where(is_one_of(Interface.vm_id, vms)))
    servers, plugged = await backend.list_servers(refs(vms)), await backend.list_ports(refs(vms))
    images = await _known_images(reader, vms, servers)
    found = [difference for vm in vms.values() for difference in _vm_drift(vm, servers.get(vm.id), images)]
    with_port = ports.by_interface(plugged, interfaces.values())
    unplugged = [row for row in interfaces.values() if row.id not in with_port]
    gone = list(await _still_found(reader, _INTERFACES, interfaces, [_lost(row, servers) for row in unplugged]))
    used = {port.cloud_id for port in with_port.values()}
    others = [port for port in plugged if port.cloud_id not in used]
    of_ports = [*gone, *await returns.returned_interfaces(reader, others, vms)]
    # The VM of an interface must not have changed either. A delete of the VM removes the ports before the rows.
    vm_ids = {each.id for each in found} | {UUID(each.seen["vm_id"]) for each in of_ports}
    unchanged = await _unchanged(reader, _IDLE_VMS, vms, vm_ids)
    return [
        *(each for each in found if each.id in unchanged),
        *(each for each in of_ports if UUID(each.seen["vm_id"]) in unchanged),
    ]


def _lost(row: Row[Any], servers: Mapping[UUID, Server]) -> Difference:
    """Return the difference of an interface whose port the cloud does not show."""
    lost = _of_vm(Drift.INTERFACE_GONE, Kind.INTERFACE, row)
    return replace(lost, seen=lost.seen | {"cloud_id": row.cloud_id}, with_server=row.vm_id not in servers)


async def _known_images(reader: AsyncEngine, vms: Rows, servers: Mapping[UUID, Server]) -> Collection[str]:
    """Return those images of the catalogue that servers were built from, but not their VMs.

    The image of a snapshot is in no catalogue: a server has one after a restore.
    """
    found = {server.image_id: vms[id].image_id for id, server in servers.items() if server.image_id}
    others = [UUID(image_id) for image_id, known in found.items() if image_id != str(known)]
    images = await read(reader, select(Image.id).where(is_one_of(Image.id, others))) if others else {}
    return {str(id) for id in images}


async def _note_lost_servers(reader: AsyncEngine, backend: ComputeBackend, found: Found) -> Found:
    """Return the differences of volumes. Those that are gone say whether the server that had them is gone, too."""
    vm_of = {
        each.id: UUID(each.seen["vm_id"]) for each in found if each.drift is Drift.VOLUME_GONE and "vm_id" in each.seen
    }
    if not vm_of:
        return found
    vms = await read(reader, select(VM.id, VM.cloud_id).where(is_one_of(VM.id, set(vm_of.values()))))
    servers = await backend.list_servers(refs(vms))
    return [replace(each, with_server=each.id in vm_of and vm_of[each.id] not in servers) for each in found]


async def _still_found(reader: AsyncEngine, query: Query, before: Rows, found: Found) -> Found:
    """Return the differences whose row did not change while the cloud was asked."""
    unchanged = await _unchanged(reader, query, before, [difference.id for difference in found])
    return [difference for difference in found if difference.id in unchanged]


async def _unchanged(reader: AsyncEngine, query: Query, before: Rows, ids: Collection[UUID]) -> set[UUID]:
    """Read the rows with these ids again, and return the ids of those that are as before."""
    if not ids:
        return set()
    after = await read(reader, query.where(is_one_of(query.selected_columns[0], ids)))
    return {id for id, row in after.items() if row == before[id]}


def _of_vm(drift: Drift, kind: Kind, row: Row[Any]) -> Difference:
    """Return the difference of a resource that belongs to a VM, and that the cloud no longer has or has again."""
    return Difference(drift, kind, row.id, {"vm_id": str(row.vm_id)}, row.operation_id)


def _vm_drift(vm: Row[Any], server: Server | None, images: Collection[str]) -> Iterator[Difference]:
    """Yield how the server differs from the VM, if it does."""
    drift = _server_drift(vm, server, images)
    if drift:
        seen: dict[str, Any] = {"status": vm.status, "server": server.status if server else ServerStatus.GONE}
        if server and drift in {Drift.RESIZED, Drift.SERVER_SIZE}:
            seen["size"] = [server.vcpus, server.ram_mb, server.disk_gb]
        if server and drift is Drift.SERVER_IMAGE:
            seen["image"] = server.image_id
        yield Difference(drift, Kind.VM, vm.id, seen, vm.operation_id)


def _server_drift(vm: Row[Any], server: Server | None, images: Collection[str]) -> Drift | None:
    """Return how the server differs from the VM, if it does; a busy server is left to the next comparison."""
    if server is not None and server.is_busy:
        return None
    if vm.status is Status.ERROR:
        return _recovery(vm, server)
    if server is None:
        return Drift.SERVER_GONE
    if server.status is not server_status_of(vm.status):
        return _status_drift(vm.status, server.status)
    if not server.has_flavor(vm.flavor_id, vm.vcpus, vm.ram_mb, vm.disk_gb):
        return Drift.SERVER_SIZE
    return Drift.SERVER_IMAGE if server.image_id != str(vm.image_id) and server.image_id in images else None


def _recovery(vm: Row[Any], server: Server | None) -> Drift | None:
    """Return how the server of a VM in ERROR has left that status, if it has."""
    if server is None or server.status is ServerStatus.ERROR:
        return None
    # What only the cloud has put into ERROR, the cloud may take out of it. After an operation that failed, a person
    # must decide about the VM. To show that its server has recovered helps with the decision.
    follows = vm.put_into_error_by == ACTOR and server.status in {ServerStatus.ACTIVE, ServerStatus.SHUTOFF}
    return Drift.SERVER_RECOVERED if follows else Drift.SERVER_STATUS


def _status_drift(status: Status, server_status: ServerStatus) -> Drift:
    """Return the kind of drift between two statuses that differ."""
    match server_status:
        case ServerStatus.ACTIVE | ServerStatus.SHUTOFF:
            return Drift.RESIZE_DECIDED if status is Status.VERIFY_RESIZE else Drift.POWER_STATE
        case ServerStatus.ERROR:
            return Drift.SERVER_ERROR
        case ServerStatus.VERIFY_RESIZE:
            return Drift.RESIZED
        case _:
            return Drift.SERVER_STATUS


def _snapshot_drift(row: Row[Any], image: CloudImage | None, complete: Collection[UUID]) -> Iterator[Difference]:
    """Yield how the cloud's image differs from the row, if it does. `complete` are those in ERROR that only lost it."""
    if row.status is SnapshotStatus.AVAILABLE and image is None:
        yield _of_vm(Drift.IMAGE_GONE, Kind.SNAPSHOT, row)
    if row.id in complete and image is not None and image.state is ImageState.ACTIVE:
        yield _of_vm(Drift.IMAGE_RECOVERED, Kind.SNAPSHOT, row)


def _volume_difference(row: Row[Any], volume: CloudVolume | None, *, was_lost: bool) -> Drift | None:
    """Return how the cloud's volume differs from the row, if it does. `was_lost`: its VM in the cloud lost it here."""
    if row.status is VolumeStatus.ERROR:
        return _volume_recovery(row, volume, was_lost=was_lost)
    if volume is None:
        return Drift.VOLUME_GONE
    if volume.vm_id != row.vm_id:
        return Drift.VOLUME_DETACHED if _is_free(volume) else Drift.VOLUME_ELSEWHERE
    if volume.state is VolumeState.ERROR:
        return Drift.VOLUME_ERROR
    # Somebody else has extended it, or a delete of its VM has superseded our own extension.
    is_extended = volume.size_gb != row.size_gb and volume.state is not VolumeState.EXTENDING
    return Drift.VOLUME_SIZE if is_extended else None


def _volume_recovery(row: Row[Any], volume: CloudVolume | None, *, was_lost: bool) -> Drift | None:
    """Return how the volume of a row in ERROR has left that state in the cloud, if it has."""
    if volume is None:
        return Drift.VOLUME_GONE if row.vm_id else None  # so that the VM loses it
    if _is_free(volume):
        return Drift.VOLUME_DETACHED if row.vm_id else Drift.VOLUME_RECOVERED
    if volume.state not in {VolumeState.AVAILABLE, VolumeState.IN_USE}:
        return None
    is_at_its_vm = was_lost or (row.vm_id is not None and volume.vm_id == row.vm_id)
    return Drift.VOLUME_RECOVERED if volume.state is VolumeState.IN_USE and is_at_its_vm else Drift.VOLUME_ELSEWHERE


def _is_free(volume: CloudVolume) -> bool:
    return volume.vm_id is None and volume.state is VolumeState.AVAILABLE


def _volume_drift(row: Row[Any], volume: CloudVolume | None, lost: Mapping[str, Any] | None) -> Iterator[Difference]:
    """Yield how the cloud's volume differs from the row, if it does.

    `lost` is the attachment that a VM has in the cloud, but has lost here; None if there is none.
    """
    drift = _volume_difference(row, volume, was_lost=lost is not None)
    if drift is None:
        return
    seen: dict[str, Any] = {"status": row.status, "cloud": volume.state if volume else VolumeState.GONE}
    if volume and drift is Drift.VOLUME_SIZE:
        seen["size_gb"] = volume.size_gb
    if row.vm_id and drift is Drift.VOLUME_GONE:
        seen["attachment"] = {"device": row.device, "delete_on_termination": row.delete_on_termination}
    if lost is not None and drift is Drift.VOLUME_RECOVERED:
        seen["attachment"] = lost
    vm_ids = {"vm_id": row.vm_id, "cloud_vm_id": volume.vm_id if volume else None}
    seen |= {name: str(id) for name, id in vm_ids.items() if id}
    yield Difference(drift, Kind.VOLUME, row.id, seen, row.operation_id)
