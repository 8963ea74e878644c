"""What the kinds of resources have in common: lists, reads, names instead of ids, and accepted changes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar
from uuid import UUID

import httpx

from vmctl.client.aio.transport import Transport
from vmctl.client.aio.waiting import Accepted
from vmctl.client.base import Answer, as_id, tidy
from vmctl.client.errors import AmbiguousNameError, NotFoundError, answer_of, unreadable
from vmctl.client.sending import Filter

Id = UUID | str


class NamedAnswer(Answer):
    """The least that is known of a resource with a name."""

    id: UUID
    name: str


M = TypeVar("M", bound=Answer)


class Collection(Generic[M]):
    """All resources of one kind that the caller may see."""

    def __init__(self, transport: Transport, path: str, model: type[M], *, filters_names: bool = False) -> None:
        self.transport = transport
        self.path = path
        self.model = model
        self._filters_names = filters_names

    def list(self, **filters: Filter) -> AsyncIterator[M]:
        """Yield all resources, page by page. The filters are the query parameters of the API."""
        return self.transport.items(self.path, self.model, filters)

    async def get(self, id: Id) -> M:
        """Read one resource by its id."""
        return await self.transport.get(f"{self.path}/{id}", self.model)

    async def find_id(self, name_or_id: Id) -> UUID:
        """Return the id of the only resource with this name. What looks like an id is one."""
        return as_id(name_or_id) or await self._id_of(tidy(str(name_or_id)), {})

    async def find(self, name_or_id: Id) -> M:
        """Read the only resource with this name, or the one with this id."""
        return await self.get(await self.find_id(name_or_id))

    async def _id_of(self, name: str, filters: Mapping[str, Filter]) -> UUID:
        kind = self.path.strip("/")
        # The filter finds parts of names, too, so the names are compared here.
        wanted = {**filters, "name": name} if self._filters_names else filters
        named = self.transport.items(self.path, NamedAnswer, wanted)
        ids = [item.id async for item in named if tidy(item.name) == name]
        if not ids:
            raise NotFoundError(f"None of your {kind} has the name {name}.")
        if len(ids) > 1:
            raise AmbiguousNameError(kind, name, ids)
        return ids[0]


class TaggedCollection(Collection[M]):
    """All resources of a kind that has ETags, which `if_match` of a change takes."""

    async def get_with_etag(self, id: Id) -> tuple[M, str]:
        """Read one resource by its id, and its ETag, which changes exactly when the resource does."""
        response = await self.transport.send("GET", f"{self.path}/{id}")
        if "ETag" not in response.headers:
            raise unreadable(response.request.url, "it has no ETag")
        return answer_of(response, self.model), response.headers["ETag"]


class SharedCollection(TaggedCollection[M]):
    """All resources of a kind that belongs to projects. Others may give theirs the names of yours."""

    async def find_id(self, name_or_id: Id, *, project_id: Id | None = None) -> UUID:
        """Return the id of the only resource with this name, in this project or in all of yours.

        What looks like an id is one, whatever its project.
        """
        return as_id(name_or_id) or await self._id_of(tidy(str(name_or_id)), {"project_id": project_id})

    async def find(self, name_or_id: Id, *, project_id: Id | None = None) -> M:
        """Read the only resource with this name, in this project or in all of yours, or the one with this id."""
        return await self.get(await self.find_id(name_or_id, project_id=project_id))


async def change(
    transport: Transport,
    path: str,
    model: type[M],
    read: Callable[[M], Awaitable[M]],
    *,
    body: Mapping[str, Any] | None = None,
    key: str | None = None,
    if_match: str | None = None,
) -> Accepted[M]:
    """Send a change that answers with its resource. `read` reads the resource anew, after the change."""
    response = await transport.send("POST", path, body=body, key=key, if_match=if_match)
    return accepted(transport, answer_of(response, model), operation_of(response), read)


def accepted(
    transport: Transport, resource: M, operation_id: UUID | None, read: Callable[[M], Awaitable[M]]
) -> Accepted[M]:
    """The change of a resource, which can be waited for."""

    async def read_again() -> M:
        return await read(resource)

    return Accepted(transport, resource, operation_id, read_again)


async def remove(
    transport: Transport, path: str, *, key: str | None = None, if_match: str | None = None
) -> Accepted[None]:
    """Send a delete."""
    response = await transport.send("DELETE", path, key=key, if_match=if_match)

    async def nothing() -> None:
        return None

    return Accepted(transport, None, operation_of(response), nothing)


def operation_of(response: httpx.Response) -> UUID | None:
    """The operation that an answer names."""
    location = response.headers.get("Operation-Location")
    try:
        return UUID(location.rpartition("/")[2]) if location else None
    except ValueError as error:
        raise unreadable(response.request.url, f"Operation-Location {location!r}") from error
