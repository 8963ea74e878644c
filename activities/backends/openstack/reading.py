"""Reads from the cloud: one thing by its path, or all pages of a list."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from activities.backends.openstack.bodies import Body
from activities.backends.openstack.errors import Service
from activities.backends.protocol import BackendError

Query = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A readable answer of a service, and the cloud's time in it."""

    body: Body
    date: datetime


class Fetch(Protocol):
    """Reads from a service of the cloud; BackendError `not_found` for its own 404.

    While a cell of the cloud is down, each list takes a minute. With a shorter timeout, all waiting would stop then.
    """

    async def __call__(self, service: Service, path: str, query: Query) -> Answer:
        """Send one GET."""


async def pages(fetch: Fetch, service: Service, path: str, query: Query, name: str) -> AsyncIterator[Answer]:
    """Yield the pages of a list; `name` is the key of its rows. BackendError if a page comes a second time."""
    asked = set[tuple[tuple[str, str], ...]]()
    while True:
        asked.add(tuple(query))
        answer = await fetch(service, path, query)
        yield answer
        following = next_page(answer.body, name)
        if following is None:
            return
        if tuple(following) in asked:
            message = f"The list {path} of the cloud has no end: a page names an earlier one or itself as the next."
            raise BackendError("cloud_unavailable", message, retryable=True)
        query = following


def next_page(body: Body, name: str) -> Query | None:
    """Return the query of the page after this one; None if it is the last."""
    links = body.get(f"{name}_links") or ()
    following = body.get("next") or next((link["href"] for link in links if link["rel"] == "next"), None)
    return parse_qsl(urlsplit(following).query) if following else None


async def read_one(fetch: Fetch, service: Service, path: str) -> Answer | None:
    """Return the answer about one thing; None if the cloud does not have it."""
    try:
        return await fetch(service, path, ())
    except BackendError as error:
        if error.code == "not_found":
            return None
        raise
