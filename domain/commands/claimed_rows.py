"""Functions that the commands on snapshots, volumes and interfaces share: they lock a row, or insert a new one.

The commands lock the VM first, if there is one, then the snapshot or volume, then the attachment or interface. Two
requests that took the same locks in different orders could deadlock.
"""

from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import NewOperation
from domain.data.models import Attachment, Interface, Snapshot, Volume
from domain.data.queries import fetch_one, insert_row
from domain.progress.resource_claims import kind_of
from domain.rules.errors import NotFoundError
from domain.rules.lifecycle import change_of
from domain.rules.resources import Kind

M = TypeVar("M", Snapshot, Volume, Attachment, Interface)


def about(kind: Kind, resource_id: UUID) -> dict[str, Any]:
    """The fields of a new operation that name the snapshot, volume or interface it acts on."""
    return {"resource_type": kind, "resource_id": resource_id}


async def lock_row(tx: AsyncConnection, model: type[M], statement: Select[M], id: UUID) -> M:
    """Lock the statement's only row and return it; NotFoundError if there is none."""
    row = await fetch_one(tx, statement.with_for_update())
    if row is None:
        raise NotFoundError(kind_of(model), id)
    return row


async def insert_claimed(tx: AsyncConnection, model: type[M], new: NewOperation, **values: Any) -> M:
    """Insert the resource that the operation creates, with the status that it has while the operation runs."""
    status = change_of(new.action, kind_of(model)).during
    return await insert_row(tx, model, status=status, operation_id=new.id, **values)
