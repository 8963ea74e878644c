"""Decides which resources of live rows are left over from an operation that has ended, so that nobody needs them.

A lost answer is looked for and then asked for again, so the cloud may have carried out both requests. And a request may
take effect after its operation was undone. A leftover has our marks, and the operation that these name has ended.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.protocol import ComputeBackend
from activities.backends.resources import Listed, Ref
from activities.recovery.rows import Rows, is_one_of, read
from domain.data.models import Operation, Volume
from domain.rules.resources import Kind
from domain.rules.states import OPEN_STATUSES, Action, OperationStatus
from domain.upkeep.findings import Difference

# Seconds between the first sight of a leftover and its removal. A thing that somebody is just making may look like one.
MIN_AGE = 60.0
SKEW: Final = timedelta(seconds=60)  # between the clocks of the cloud and the database
_MAKERS: Final = {Kind.VM: Action.CREATE, Kind.VOLUME: Action.CREATE_VOLUME, Kind.SNAPSHOT: Action.SNAPSHOT}


def made_late(items: Mapping[str, Listed], known: Rows) -> dict[str, Listed]:
    """Return the items whose row keeps no id of the cloud, because the operation that made them has failed."""
    rows = {cloud_id: known.get(item.id) for cloud_id, item in items.items() if item.id and item.operation_id}
    return {
        cloud_id: items[cloud_id]
        for cloud_id, row in rows.items()
        if row is not None
        and row.cloud_id is None
        and row.was_never_made
        and row.operation_id == items[cloud_id].operation_id
    }


async def with_their_operations(
    reader: AsyncEngine,
    backend: ComputeBackend,
    orphans: Sequence[Difference],
    items: Mapping[str, Listed],
    known: Rows,
) -> Sequence[Difference]:
    """Add the operation that made it to each orphan that is a leftover of a live row."""
    if not (made := await _made_by(reader, orphans, items, known)):
        return orphans
    needed = [id for id, operation in made.items() if operation.status is OperationStatus.SUCCEEDED]
    present = await _present(backend, orphans[0].kind, [Ref(id, known[id].cloud_id) for id in needed]) if needed else ()
    return [
        replace(found, held_by=maker.id, seen=found.seen | {"of_operation": str(maker.id)}, min_age=MIN_AGE)
        # After a success, the double may be the only one that is left. Then a person must decide.
        if (maker := made.get(found.id)) and (found.id not in needed or found.id in present)
        else found
        for found in orphans
    ]


async def without_copies(
    reader: AsyncEngine, orphans: Sequence[Difference], items: Mapping[str, Listed]
) -> Sequence[Difference]:
    """Take the operation from volumes whose marks may be copies: they are shown to admins, and not removed.

    Cinder restores a backup with the metadata of the volume that was backed up, and somebody may do that to get back
    what was deleted here. There is no backup of a volume that never was, and none can be restored before the volume was
    made. So a leftover has the id that its row keeps, or the row keeps none, or it is as old as its operation.
    """
    of_orphan = is_one_of(Volume.id, [found.id for found in orphans])
    rows = await read(reader, select(Volume.id, Volume.cloud_id).where(of_orphan)) if orphans else {}
    marks = {id for found in orphans if (id := items[found.seen["cloud_id"]].operation_id)}
    times = select(Operation.id, Operation.created_at, Operation.finished_at)
    makers = await read(reader, times.where(is_one_of(Operation.id, marks))) if marks else {}
    return [
        found if _is_original(found, items[found.seen["cloud_id"]], rows, makers) else replace(found, held_by=None)
        for found in orphans
    ]


def _is_original(found: Difference, item: Listed, rows: Rows, makers: Rows) -> bool:
    row = rows.get(found.id)
    if row is None or row.cloud_id in {None, found.seen["cloud_id"]}:
        return True
    maker = makers.get(item.operation_id) if item.operation_id else None
    if maker is None or item.created_at is None or maker.finished_at is None:
        return False
    return bool(maker.created_at - SKEW <= item.created_at <= maker.finished_at)


async def _made_by(
    reader: AsyncEngine, orphans: Sequence[Difference], items: Mapping[str, Listed], known: Rows
) -> dict[UUID, Row[Any]]:
    """Return the operations that made orphans of live rows and have ended, by our id of the orphan."""
    marks = {found.id: items[found.seen["cloud_id"]].operation_id for found in orphans if found.id in known}
    ids = [id for id in marks.values() if id]
    query = select(Operation.id, Operation.action, Operation.resource_id, Operation.status)
    operations = await read(reader, query.where(is_one_of(Operation.id, ids))) if ids else {}
    made: dict[UUID, Row[Any]] = {}
    for found in orphans:
        maker = operations.get(marks.get(found.id) or found.id)
        if maker is None or (maker.action, maker.resource_id) != (_MAKERS[found.kind], found.id):
            continue
        # What succeeded without an id of the cloud may be the row's own resource.
        is_own = maker.status is OperationStatus.SUCCEEDED and known[found.id].cloud_id is None
        if maker.status not in OPEN_STATUSES and not is_own:
            made[found.id] = maker
    return made


async def _present(backend: ComputeBackend, kind: Kind, refs: Collection[Ref]) -> Collection[UUID]:
    """Return which of the rows' own resources exist."""
    match kind:
        case Kind.VM:
            return (await backend.list_servers(refs)).keys()
        case Kind.VOLUME:
            return (await backend.list_volumes(refs)).keys()
        case _:
            return (await backend.list_images(refs)).keys()
