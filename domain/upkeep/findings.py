"""What the cloud has otherwise than the database: written down, and looked at again before anything is done."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import case, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import Finding
from domain.data.queries import fetch_all
from domain.rules.resources import Kind

AT_ONCE: Final = 1_000  # rows in a statement, which has 32,767 parameters at most
GONE_BY_ITSELF: Final = "The next look did not see it any more."


class Drift(StrEnum):
    """How the cloud and the database can differ."""

    SERVER_GONE = "server_gone"
    SERVER_ERROR = "server_error"
    POWER_STATE = "power_state"
    RESIZE_DECIDED = "resize_decided"
    SERVER_STATUS = "server_status"
    SERVER_SIZE = "server_size"
    VOLUME_GONE = "volume_gone"
    VOLUME_DETACHED = "volume_detached"
    VOLUME_ELSEWHERE = "volume_elsewhere"
    INTERFACE_GONE = "interface_gone"
    IMAGE_GONE = "image_gone"
    ORPHAN_SERVER = "orphan_server"
    ORPHAN_PORT = "orphan_port"
    ORPHAN_VOLUME = "orphan_volume"
    ORPHAN_IMAGE = "orphan_image"


GONE: Final = {Drift.SERVER_GONE, Drift.VOLUME_GONE, Drift.INTERFACE_GONE, Drift.IMAGE_GONE}


@dataclass(frozen=True, slots=True)
class Found:
    """One difference: of what, and what was `seen` of it on both sides, as JSON.

    `held_by` is the operation that held it last, where the database knows it.
    """

    drift: Drift
    kind: Kind
    id: UUID
    seen: dict[str, Any] = field(default_factory=dict)
    held_by: UUID | None = None


async def note(tx: AsyncConnection, found: Sequence[Found], ripe: float) -> dict[tuple[str, UUID], UUID]:
    """Write down what a look found; returns the ids of those that were found just the same `ripe` seconds ago.

    What was written down and is found no more is resolved.
    """
    rows = [{"kind": one.drift, "resource_type": one.kind, "resource_id": one.id, "seen": one.seen} for one in found]
    again = []
    for start in range(0, len(rows), AT_ONCE):
        new = insert(Finding).values(rows[start : start + AT_ONCE])
        since = case((Finding.seen == new.excluded.seen, Finding.found_at), else_=func.now())
        upsert = new.on_conflict_do_update(
            index_elements=["kind", "resource_id"],
            index_where=text("resolved_at IS NULL"),
            set_={"seen": new.excluded.seen, "seen_at": func.now(), "found_at": since},
        )
        noted = await fetch_all(tx, upsert.returning(Finding))
        again += [one for one in noted if one.found_at + timedelta(seconds=ripe) < one.seen_at]
    gone = update(Finding).where(Finding.resolved_at.is_(None), Finding.seen_at < func.now())
    await tx.execute(gone.values(resolved_at=func.now(), resolution=GONE_BY_ITSELF))
    return {(one.kind, one.resource_id): one.id for one in again}


async def resolve(tx: AsyncConnection, finding_id: UUID, how: str) -> None:
    """Write down what was done about a finding."""
    await tx.execute(update(Finding).where(Finding.id == finding_id).values(resolved_at=func.now(), resolution=how))


async def is_open(tx: AsyncConnection, finding_id: UUID) -> bool:
    """Whether nothing was done about it yet."""
    return await tx.scalar(select(Finding.resolved_at.is_(None)).where(Finding.id == finding_id)) is True
