"""What the commands on snapshots, volumes and interfaces share: locking a row, and inserting a new one.

Locks are taken in the order VM, snapshot, volume, attachment: every command locks the VM first.
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
    """The fields of a new operation that say which snapshot, volume or interface it is about."""
    return {"resource_type": kind, "resource_id": resource_id}


async def lock_row(tx: AsyncConnection, model: type[M], statement: Select[M], id: UUID) -> M:
    """Lock the statement's only row and return it; NotFoundError where there is none."""
    row = await fetch_one(tx, statement.with_for_update())
    if row is None:
        raise NotFoundError(kind_of(model), id)
    return row


async def insert_claimed(tx: AsyncConnection, model: type[M], new: NewOperation, **values: Any) -> M:
    """Insert the resource that the operation makes, in the status that the lifecycle table gives it meanwhile."""
    status = change_of(new.action, kind_of(model)).during
    return await insert_row(tx, model, status=status, operation_id=new.id, **values)
