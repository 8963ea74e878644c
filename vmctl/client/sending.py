"""What a request consists of: its headers, its parameters and its time limits."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID, uuid4

import httpx

from vmctl.client.errors import EmptyFilterError, NoTrialError, UnusableError

Filter = str | int | bool | UUID | datetime | Sequence[str] | None
_SURROGATE = re.compile("[\ud800-\udfff]")


def filters_of_trial(method: str, path: str, filters: Mapping[str, Filter]) -> Mapping[str, Filter]:
    """The parameters with which a change is only tried; NoTrialError if it cannot be."""
    if method != "POST" or path.startswith("/auth/"):
        raise NoTrialError("This cannot be tried: only what makes something or acts on it can")
    return {**filters, "validate_only": True}


def timeout_of(wait: Filter, left: float) -> httpx.Timeout:
    """The limits of one request, which the service may hold back as long as its parameter `wait` says.

    `left` are the seconds that the caller has for it, at most.
    """
    return httpx.Timeout(min(30 + (wait if isinstance(wait, int) else 0), left), connect=min(5, left))


def headers_of(method: str, path: str, body: object, key: str | None, if_match: str | None) -> dict[str, str]:
    """The headers of a request. Each change has a key of its own, if its caller gives none.

    UnusableError for a key or an ETag that no header can have.
    """
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if method in {"POST", "DELETE"} and not path.startswith("/auth/"):
        headers["Idempotency-Key"] = str(uuid4()) if key is None else key
    if if_match is not None:
        headers["If-Match"] = if_match
    check_headers(headers)
    return headers


def check_headers(headers: Mapping[str, str]) -> None:
    """UnusableError for a value that no header can have."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise UnusableError(f"{name} has a character that it cannot have, such as a line end or a space at an end.")


def parameters_of(filters: Mapping[str, Filter]) -> list[tuple[str, str]]:
    """The query parameters. A list is a parameter that is repeated; what is None is left out."""
    pairs: list[tuple[str, str]] = []
    for name, value in filters.items():
        if value is None:
            continue
        values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        if not values or "" in values:
            raise EmptyFilterError(f"The filter `{name}` is empty. Give it a value, or leave it out.")
        pairs += [(name, _text(item)) for item in values]
    if any(_SURROGATE.search(text) for _, text in pairs):
        raise UnusableError("A filter has half of a surrogate pair alone, which no text has.")
    return pairs


def _text(value: Filter) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)
