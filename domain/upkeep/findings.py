"""Findings: differences between the cloud and the database, recorded before anything is done about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import case, func, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from domain.data.cloud import Finding
from domain.data.queries import fetch_all
from domain.rules.resources import Kind

ROWS_PER_STATEMENT: Final = 1_000  # a statement has at most 32,767 parameters, and a row takes five of them
ACTOR: Final = "@reconcile"  # of the operations that record repairs; usernames do not begin with @
NO_LONGER_FOUND: Final = "The next comparison no longer found the difference."


class Drift(StrEnum):
    """The kinds of differences between the cloud and the database."""

    SERVER_GONE = "server_gone"
    SERVER_ERROR = "server_error"
    SERVER_RECOVERED = "server_recovered"
    POWER_STATE = "power_state"
    RESIZED = "resized"
    RESIZE_DECIDED = "resize_decided"
    SERVER_STATUS = "server_status"
    SERVER_SIZE = "server_size"
    SERVER_IMAGE = "server_image"
    VOLUME_GONE = "volume_gone"
    VOLUME_ERROR = "volume_error"
    VOLUME_DETACHED = "volume_detached"
    VOLUME_RECOVERED = "volume_recovered"
    VOLUME_ELSEWHERE = "volume_elsewhere"
    VOLUME_SIZE = "volume_size"
    INTERFACE_GONE = "interface_gone"
    INTERFACE_RECOVERED = "interface_recovered"
    IMAGE_GONE = "image_gone"
    IMAGE_RECOVERED = "image_recovered"
    ORPHAN_SERVER = "orphan_server"
    ORPHAN_PORT = "orphan_port"
    ORPHAN_VOLUME = "orphan_volume"
    ORPHAN_IMAGE = "orphan_image"


GONE: Final = {Drift.SERVER_GONE, Drift.VOLUME_GONE, Drift.INTERFACE_GONE, Drift.IMAGE_GONE}


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: its kind, the resource, and what was `seen` of it on both sides, as JSON.

    `held_by` is the operation that last held the resource, or None if the database does not know the resource. It is
    confirmed only after `min_age` seconds, however often it is seen. `with_server`: the resource is gone, and so is the
    server that had it.
    """

    drift: Drift
    kind: Kind
    id: UUID
    seen: dict[str, Any] = field(default_factory=dict)
    held_by: UUID | None = None
    min_age: float = 0.0
    with_server: bool = False


async def record(
    tx: AsyncConnection, differences: Sequence[Difference], began: datetime, confirm_after: float
) -> dict[tuple[str, UUID], UUID]:
    """Record differences that exist now, found by the comparison that `began` at that time.

    Returns the ids of the confirmed findings by kind and resource: those that were found, and unchanged since, more
    than `confirm_after` seconds before the comparison began.
    """
    rows = [
        {
            "kind": difference.drift,
            "resource_type": difference.kind,
            "resource_id": difference.id,
            "seen": difference.seen,
        }
        for difference in differences
    ]
    recorded: list[Finding] = []
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        recorded += await fetch_all(tx, _upsert(rows[start : start + ROWS_PER_STATEMENT]))
    # Counted to the beginning, because a resource may come up twice in one long comparison: in the cloud's inventory,
    # later resources move to earlier pages when some are deleted.
    age = {(found.drift, found.id): timedelta(seconds=max(confirm_after, found.min_age)) for found in differences}
    ids = {(row.kind, row.resource_id): (row.id, row.found_at) for row in recorded}
    return {key: id for key, (id, found_at) in ids.items() if found_at + age[Drift(key[0]), key[1]] < began}


async def resolve_unseen(tx: AsyncConnection, began: datetime) -> None:
    """Resolve the findings that the comparison which `began` at that time, and is complete, has not found again."""
    outdated = update(Finding).where(Finding.resolved_at.is_(None), Finding.seen_at < began)
    await tx.execute(outdated.values(resolved_at=func.now(), resolution=NO_LONGER_FOUND))


def _upsert(rows: list[dict[str, Any]]) -> ReturningInsert[Finding]:
    new = insert(Finding).values(rows)
    # A difference that has changed must be confirmed anew.
    found_at = case((Finding.seen == new.excluded.seen, Finding.found_at), else_=func.now())
    return new.on_conflict_do_update(
        index_elements=["kind", "resource_id"],
        index_where=text("resolved_at IS NULL"),  # the words of the partial index uq_findings_open
        set_={"seen": new.excluded.seen, "seen_at": func.now(), "found_at": found_at},
    ).returning(Finding)


async def resolve(tx: AsyncConnection, finding_id: UUID, resolution: str) -> None:
    """Close a finding with a sentence that says what was done about it."""
    values = {"resolved_at": func.now(), "resolution": resolution}
    await tx.execute(update(Finding).where(Finding.id == finding_id).values(values))
