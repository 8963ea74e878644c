"""What a request consists of: its headers, its parameters and its time limits."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import httpx

from vmctl.client.errors import NO_TRIAL, EmptyFilterError, NoTrialError, UnusableError
from vmctl.client.retries import REPEATABLE_METHODS

RENEWAL = "/auth/refresh"
Filter = str | int | bool | UUID | datetime | Sequence[str] | None
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST = 30.0  # seconds of one attempt, without the time that the service holds its answer back
# The service takes a refresh token again for 30 seconds. All attempts must be over by then, or the login ends. The
# first one leaves time for another, in case its answer is lost, and the last one has all that is left.
_FIRST_OF_RENEWAL = 9.0
RENEWAL_WITHIN = 25.0
_SHORTEST = 1.0


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to be sent, several times if need be."""

    method: str
    path: str
    parameters: list[tuple[str, str]]
    content: str | None
    headers: Mapping[str, str]
    held_back: float  # seconds that the service may hold its answer back
    ends_at: float  # time of the monotonic clock after which no attempt goes on
    is_trial: bool

    @property
    def is_repeatable(self) -> bool:
        """Whether several attempts have the effect of one."""
        has_key = "Idempotency-Key" in self.headers or self.path == RENEWAL
        return has_key or self.is_trial or self.method in REPEATABLE_METHODS

    @property
    def is_change(self) -> bool:
        """Whether it changes something, so that it matters if it was carried out."""
        return self.method != "GET" and not self.is_trial and not self.path.startswith("/auth/")

    def left(self) -> float:
        """The seconds that are left for attempts."""
        return max(self.ends_at - monotonic(), 0.0)

    def pause(self, seconds: float) -> float | None:
        """The pause before the next attempt, if one of `seconds` is due; None if there is no time for another attempt.

        A wait looks once more when its time is over. A renewal does not come back before the service wants it.
        """
        left = self.left()
        if not left or (self.path == RENEWAL and seconds > left):
            return None
        return min(seconds, left)

    def attempt(self, token: str | None) -> "Attempt":
        """An attempt that begins now."""
        left = max(self.left(), _SHORTEST)
        longest = _LONGEST
        if self.path == RENEWAL and left > 2 * _FIRST_OF_RENEWAL:
            longest = _FIRST_OF_RENEWAL
        arguments = {
            "method": self.method,
            "url": self.path,
            "params": self.parameters,
            "content": self.content,
            "headers": {**self.headers, **({"Authorization": f"Bearer {token}"} if token else {})},
            "timeout": httpx.Timeout(min(longest + self.held_back, left), connect=min(5.0, left)),
        }
        return Attempt(arguments, monotonic() + left)


@dataclass(frozen=True)
class Attempt:
    """What httpx is told of one attempt, and the time of the monotonic clock at which it ends at the latest."""

    arguments: dict[str, Any]
    ends_at: float


def prepared(  # noqa: PLR0913 - what a request has
    method: str,
    path: str,
    filters: Mapping[str, Filter],
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str],
    *,
    within: float,
    is_trial: bool,
) -> Prepared:
    """The request, whose attempts may take `within` seconds from now; NoTrialError if it is to be tried and cannot."""
    if is_trial:
        filters = _filters_of_trial(method, path, filters)
        headers = {name: value for name, value in headers.items() if name != "Idempotency-Key"}
    wait = filters.get("wait")
    return Prepared(
        method,
        path,
        _parameters_of(filters),
        None if body is None else json.dumps(body, default=str),
        headers,
        held_back=wait if isinstance(wait, int) else 0,
        ends_at=monotonic() + within,
        is_trial=is_trial,
    )


def _filters_of_trial(method: str, path: str, filters: Mapping[str, Filter]) -> Mapping[str, Filter]:
    """The parameters with which a change is only tried; NoTrialError if it cannot be."""
    if method != "POST" or path.startswith("/auth/"):
        raise NoTrialError(NO_TRIAL)
    return {**filters, "validate_only": True}


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


def _parameters_of(filters: Mapping[str, Filter]) -> list[tuple[str, str]]:
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
