"""Finds the resources in the cloud that the database has deleted or has never known (orphans), page by page.

Only what has our mark can be an orphan: everything else belongs to somebody else. A row that keeps the cloud's id knows
only the resource with that id, and a second one with its mark is an orphan. Each page of the cloud's inventory is
compared with a later reading of the database, which has everything that was created before the page.

A request whose answer was lost may take effect long after its operation has ended. So the row may be live when the
cloud shows a double of its resource, or a resource whose making was undone. `leftovers` says which may be removed.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.protocol import BackendError, ComputeBackend
from activities.backends.resources import Listed, Ref
from activities.recovery import leftovers
from activities.recovery.rows import Query, Rows, is_one_of, read
from domain.data import database
from domain.data.models import VM, Interface, Snapshot, Volume
from domain.rules.resources import Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Status
from domain.upkeep.findings import Difference, Drift

Items = Mapping[str, Listed]

_LIVE_VMS: Final = select(
    VM.id, VM.operation_id, and_(VM.task_state.is_(None), VM.attaching == 0).label("is_idle")
).where(VM.status != Status.DELETED)
_LIVE: Final[Mapping[Kind, Query]] = {
    Kind.VM: select(VM.id, VM.cloud_id, VM.operation_id, VM.launched_at.is_(None).label("was_never_made")).where(
        VM.status != Status.DELETED
    ),
    Kind.VOLUME: select(
        Volume.id, Volume.cloud_id, Volume.operation_id, (Volume.status == VolumeStatus.ERROR).label("was_never_made")
    ).where(Volume.status != VolumeStatus.DELETED),
    Kind.SNAPSHOT: select(
        Snapshot.id,
        Snapshot.cloud_id,
        Snapshot.operation_id,
        (Snapshot.status == SnapshotStatus.ERROR).label("was_never_made"),
    ).where(Snapshot.status != SnapshotStatus.DELETED),
    Kind.INTERFACE: select(Interface.id, Interface.cloud_id),
}


async def find_orphans(engine: AsyncEngine, backend: ComputeBackend) -> AsyncIterator[Sequence[Difference]]:
    """Yield all orphans, in pages; BackendError if the cloud does not answer."""
    reader = database.autocommit(engine)
    for kind, live in _LIVE.items():
        id = live.selected_columns[0]
        async for items in _inventory(backend, kind):
            marks = [item.id for item in items.values() if item.id]
            known = await read(reader, live.where(is_one_of(id, marks)))
            unknown = {cloud_id: item for cloud_id, item in items.items() if not _is_known(cloud_id, item, known)}
            if kind is Kind.INTERFACE:
                orphans = await _orphan_ports(reader, backend, unknown)
            else:
                late = leftovers.made_late(items, known)
                orphans = list(_orphans(kind, {**unknown, **late}))
                orphans = await leftovers.with_their_operations(reader, backend, orphans, items, known)
                orphans = [found for found in orphans if found.held_by or found.seen["cloud_id"] not in late]
            orphans = await _with_deleting_operations(reader, orphans)
            yield await leftovers.without_copies(reader, orphans, items) if kind is Kind.VOLUME else orphans


async def _inventory(backend: ComputeBackend, kind: Kind) -> AsyncIterator[Items]:
    """Yield the pages of the cloud's inventory of one kind; BackendError if a page comes a second time."""
    page = await backend.inventory(kind, None)
    yield page.items
    asked = set[str]()
    while page.next is not None:
        if page.next in asked:
            message = f"The cloud's inventory of the kind {kind} has no end: a page names an earlier one as the next."
            raise BackendError("cloud_unavailable", message, retryable=True)
        asked.add(page.next)
        page = await backend.inventory(kind, page.next)
        yield page.items


def _is_known(cloud_id: str, item: Listed, known: Rows) -> bool:
    row = known.get(item.id) if item.id else None
    return row is not None and row.cloud_id in {None, cloud_id}


def _orphans(kind: Kind, unknown: Items) -> Iterator[Difference]:
    """Yield a difference for each of our ids: only what has our mark can be an orphan."""
    for id, (cloud_id, item) in {item.id: (cloud_id, item) for cloud_id, item in unknown.items() if item.id}.items():
        match kind:
            case Kind.VM:
                yield Difference(Drift.ORPHAN_SERVER, kind, id, {"server": item.state, "cloud_id": cloud_id})
            case Kind.VOLUME:
                yield Difference(Drift.ORPHAN_VOLUME, kind, id, {"cloud": item.state, "cloud_id": cloud_id})
            case _:
                yield Difference(Drift.ORPHAN_IMAGE, kind, id, {"cloud_id": cloud_id})


async def _orphan_ports(reader: AsyncEngine, backend: ComputeBackend, items: Items) -> Sequence[Difference]:
    """Return the ports without an interface: those of idle VMs, and those without a VM and a server."""
    vm_ids = {item.vm_id for item in items.values() if item.vm_id}
    vms = await read(reader, _LIVE_VMS.where(is_one_of(VM.id, vm_ids)))
    idle = {vm_id for vm_id, vm in vms.items() if vm.is_idle}
    of_idle_vms = [
        Difference(
            Drift.ORPHAN_PORT,
            Kind.INTERFACE,
            item.id,
            {"vm_id": str(item.vm_id), "cloud_id": cloud_id, "is_plugged": item.is_plugged},
            # A port that is plugged in may be so by somebody's hand, so it stays.
            held_by=None if item.is_plugged else vms[item.vm_id].operation_id,
            min_age=leftovers.MIN_AGE,
        )
        for cloud_id, item in {item.id: (cloud_id, item) for cloud_id, item in items.items()}.values()
        if item.id and item.vm_id in idle
    ]
    # Ports without VM and server are reported once per VM, because they are removed together. Those of a server without
    # VM are removed with the server.
    without_vm = vm_ids - vms.keys()
    without_server = (
        without_vm - (await backend.list_servers([Ref(id) for id in without_vm])).keys() if without_vm else set()
    )
    return [
        *of_idle_vms,
        *(Difference(Drift.ORPHAN_PORT, Kind.VM, vm_id) for vm_id in without_server),
    ]


async def _with_deleting_operations(reader: AsyncEngine, orphans: Sequence[Difference]) -> Sequence[Difference]:
    """Add the operations that deleted these orphans; those that the database never knew have none."""
    deleted_by: dict[UUID, UUID] = {}
    for model in (VM, Volume, Snapshot) if orphans else ():
        is_orphan = is_one_of(model.id, [orphan.id for orphan in orphans])
        deleted = await read(reader, select(model.id, model.operation_id).where(is_orphan, model.status == "DELETED"))
        deleted_by |= {id: row.operation_id for id, row in deleted.items()}
    return [replace(orphan, held_by=orphan.held_by or deleted_by.get(orphan.id)) for orphan in orphans]
