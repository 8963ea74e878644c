"""Changes of what only the database has: the name and the labels of a VM, volume or snapshot."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Requester, check_may
from domain.data.models import VM, Snapshot, Volume
from domain.data.queries import fetch_one
from domain.rules import labels
from domain.rules.access import Verb
from domain.rules.errors import InvalidTransitionError, NotFoundError

M = TypeVar("M", VM, Volume, Snapshot)

_WORDS: Final[Mapping[type, str]] = {VM: "VM", Volume: "volume", Snapshot: "snapshot"}


async def change(tx: AsyncConnection, requester: Requester, model: type[M], id: UUID, changes: Mapping[str, Any]) -> M:
    """Set the `name` of a resource, merge its `labels` with those of the change, and return it.

    NotFoundError if there is none, ForbiddenError, InvalidTransitionError if it is DELETED, TooManyLabelsError. It
    works while an operation holds the resource, because no operation writes these columns. A change that changes
    nothing leaves `updated_at` as it is.
    """
    # Locked, so that of two changes at the same time the second merges its labels into those of the first.
    row = cast("M | None", await fetch_one(tx, select(model).where(model.id == id).with_for_update()))
    if row is None:
        raise NotFoundError(_WORDS[model], id)
    await check_may(tx, requester, Verb.CHANGE, row.owner_id, _WORDS[model], id)
    if changes and row.status == "DELETED":
        raise InvalidTransitionError("change", row.status, getattr(row, "task_state", None), [], _WORDS[model])
    values = dict(changes)
    if "labels" in values:
        values["labels"] = labels.merged(row.labels, values["labels"])
    if all(getattr(row, name) == value for name, value in values.items()):
        return row
    changed = await tx.execute(update(model).where(model.id == id).values(values).returning(model))
    return cast("M", changed.one())
