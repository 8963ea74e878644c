"""`If-Match`: a change is made only if the resource is still as the client has seen it."""

from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Header
from sqlalchemy.ext.asyncio import AsyncConnection

from api.web.problems import ProblemError
from api.web.single import Resource, etag, names
from domain.data import views
from domain.data.views import View


def _if_match(resource: str) -> Any:
    return Header(
        alias="If-Match",
        max_length=1024,
        description=f"The ETag of the {resource} as you have seen it. If it has changed since, nothing is done (412).",
        examples=['"4d1f0c9f7a6b2e8d3c5a9b10"'],
    )


IfMatch = Annotated[str | None, _if_match("resource")]
IfMatchOfVM = Annotated[str | None, _if_match("VM")]


@dataclass(frozen=True, slots=True)
class Guard:
    """The condition that a resource has one of the ETags. `of_anybody`: the caller, an admin, need not have it."""

    resource: Resource
    view: View
    id: UUID
    condition: str
    of_anybody: bool = False

    async def check(self, tx: AsyncConnection, user_id: UUID) -> None:
        """Lock the resource until the transaction ends; ProblemError if it has another ETag."""
        await views.lock(tx, self.view, self.id)
        if self.of_anybody:
            found = await tx.execute(self.view.rows.where(self.view.id == self.id))
        else:
            found = await tx.execute(self.view.one_readable, {"id": self.id, "user_id": user_id})
        row = found.one_or_none()
        # If there is none, the command says so.
        if row is not None and not names(self.condition, etag(self.resource.render(row))):
            detail = f"The {self.resource.name} has changed since you read it. Read it again, and decide anew."
            raise ProblemError("precondition_failed", detail)
