"""Finds the resources in the cloud that the database has deleted or has never known (orphans), page by page.

Each page of the cloud's inventory is compared with a later reading of the database, which has everything that was
created before the page.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.protocol import ComputeBackend, Listed
from activities.recovery.rows import Query, is_one_of, read
from domain.data import database
from domain.data.models import VM, Interface, Snapshot, Volume
from domain.rules.resources import Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Status
from domain.upkeep.findings import Difference, Drift

Items = Mapping[UUID, Listed]

_LIVE_VMS: Final = select(VM.id, and_(VM.task_state.is_(None), VM.attaching == 0).label("is_idle")).where(
    VM.status != Status.DELETED
)
_LIVE: Final[Mapping[Kind, Query]] = {
    Kind.VM: select(VM.id).where(VM.status != Status.DELETED),
    Kind.VOLUME: select(Volume.id).where(Volume.status != VolumeStatus.DELETED),
    Kind.SNAPSHOT: select(Snapshot.id).where(Snapshot.status != SnapshotStatus.DELETED),
    Kind.INTERFACE: select(Interface.id),
}


async def find_orphans(engine: AsyncEngine, backend: ComputeBackend) -> AsyncIterator[Sequence[Difference]]:
    """Yield all orphans, in pages; BackendError if the cloud does not answer."""
    reader = database.autocommit(engine)
    for kind, live in _LIVE.items():
        id = live.selected_columns[0]
        async for items in _inventory(backend, kind):
            known = await read(reader, live.where(is_one_of(id, items.keys())))
            unknown = {id: item for id, item in items.items() if id not in known}
            if kind is Kind.INTERFACE:
                orphans = await _orphan_ports(reader, backend, unknown)
            else:
                orphans = list(_orphans(kind, unknown))
            yield await _with_deleting_operations(reader, orphans)


async def _inventory(backend: ComputeBackend, kind: Kind) -> AsyncIterator[Items]:
    """Yield the pages of the cloud's inventory of one kind."""
    page = await backend.inventory(kind, None)
    yield page.items
    while page.next is not None:
        page = await backend.inventory(kind, page.next)
        yield page.items


def _orphans(kind: Kind, items: Items) -> Iterator[Difference]:
    for id, item in items.items():
        match kind:
            case Kind.VM:
                yield Difference(Drift.ORPHAN_SERVER, kind, id, {"server": item.state})
            case Kind.VOLUME:
                yield Difference(Drift.ORPHAN_VOLUME, kind, id, {"cloud": item.state})
            case _:
                yield Difference(Drift.ORPHAN_IMAGE, kind, id)


async def _orphan_ports(reader: AsyncEngine, backend: ComputeBackend, items: Items) -> Sequence[Difference]:
    """Return the ports without an interface: those of idle VMs, and those without a VM and a server."""
    vm_ids = {item.vm_id for item in items.values() if item.vm_id}
    vms = await read(reader, _LIVE_VMS.where(is_one_of(VM.id, vm_ids)))
    idle = {vm_id for vm_id, vm in vms.items() if vm.is_idle}
    of_idle_vms = {id: item.vm_id for id, item in items.items() if item.vm_id in idle}
    # Ports without VM and server are reported once per VM, because they are removed together. Those of a server without
    # VM are removed with the server.
    without_vm = vm_ids - vms.keys()
    without_server = without_vm - (await backend.list_servers(without_vm)).keys() if without_vm else set()
    return [
        *(Difference(Drift.ORPHAN_PORT, Kind.INTERFACE, id, {"vm_id": str(vm)}) for id, vm in of_idle_vms.items()),
        *(Difference(Drift.ORPHAN_PORT, Kind.VM, vm_id) for vm_id in without_server),
    ]


async def _with_deleting_operations(reader: AsyncEngine, orphans: Sequence[Difference]) -> Sequence[Difference]:
    """Add the operations that deleted these orphans; those that the database never knew have none."""
    deleted_by: dict[UUID, UUID] = {}
    for model in (VM, Volume, Snapshot) if orphans else ():
        is_orphan = is_one_of(model.id, [orphan.id for orphan in orphans])
        deleted = await read(reader, select(model.id, model.operation_id).where(is_orphan, model.status == "DELETED"))
        deleted_by |= {id: row.operation_id for id, row in deleted.items()}
    return [replace(orphan, held_by=deleted_by.get(orphan.id)) for orphan in orphans]
