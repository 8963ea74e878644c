"""Answers with one resource, with an ETag: the resource as it is, or once it has changed as the client wants."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request, Response
from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute

from api.web.dependencies import CurrentUser, Process
from api.web.models import Answer
from api.web.waiting import Rows, Until, wait_for
from domain.rules.errors import NotFoundError

AT_ONCE = Until()
_TAG_SIZE = 12  # bytes


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of resource: its name, its table, the column with its project, and the shape of an answer with it.

    `is_at_rest` says of a row whether no operation changes the resource. `headers` are further headers of an answer.
    """

    name: str
    table: str
    owner_id: InstrumentedAttribute[UUID]
    shape: type[Answer]
    is_at_rest: Callable[[Any], bool]
    headers: Callable[[Any], Mapping[str, str]] = lambda _: {}

    def render(self, row: Any) -> bytes:
        """The body of an answer."""
        return self.shape.model_validate(row).model_dump_json().encode()


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one resource for a request."""

    process: Process
    request: Request
    caller: CurrentUser

    async def __call__(
        self, resource: Resource, id: UUID, *where: ColumnElement[bool], until: Until = AT_ONCE
    ) -> Response:
        """Answer with the resource; NotFoundError if there is none that the caller may read."""

        async def read() -> Rows:
            return {id: await self._read(resource, id, where)}

        def has_come(rows: Rows) -> bool:
            return until.has_come(rows[id], is_at_rest=resource.is_at_rest(rows[id]))

        if until.seconds:
            user = self.caller.id
            rows = await wait_for(self.process, self.request, user, until.seconds, [id], read, has_come)
            if rows[id].owner_id != user:  # whose membership may have ended meanwhile
                await self.request.scope["take_slot"]()
                rows = await read()
        else:
            rows = await read()
        return tagged(self.request, resource.render(rows[id]), resource.headers(rows[id]))

    async def _read(self, resource: Resource, id: UUID, where: tuple[ColumnElement[bool], ...]) -> Any:
        view = self.process.changes.views[resource.table]
        values = {"id": id, "user_id": self.caller.id}
        rows: Sequence[Any]
        if where:
            async with self.process.autocommit.connect() as connection:
                rows = (await connection.execute(view.one_readable.where(*where), values)).all()
        else:
            rows = await view.prepared.fetch(self.process.engine, values)
        if not rows:
            raise NotFoundError(resource.name, id)
        return rows[0]


async def _reader(process: Process, request: Request, caller: CurrentUser) -> Reader:
    return Reader(process, request, caller)


ReadOne = Annotated[Reader, Depends(_reader)]


def etag(body: bytes) -> str:
    """The ETag of a body. It changes exactly when the body does."""
    return f'"{hashlib.blake2b(body, digest_size=_TAG_SIZE).hexdigest()}"'


def tagged(request: Request, body: bytes, headers: Mapping[str, str]) -> Response:
    """Answer 200 with the body and its ETag, or 304 if the client says that it has this body already."""
    tag = etag(body)
    if names(request.headers.get("If-None-Match", ""), tag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag})
    return Response(body, HTTPStatus.OK, {"ETag": tag, **headers}, "application/json")


def names(condition: str, tag: str) -> bool:
    """Whether the header If-Match or If-None-Match names the tag (RFC 9110, section 13.1)."""
    # Weak tags name it, too: a proxy that compresses an answer may have weakened the tag, and the resource is the same.
    named = {part.strip().removeprefix("W/") for part in condition.split(",")}
    return bool(named & {tag, "*"})
