"""Which requests may be sent again, and when."""

import random
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx

REPEATABLE_METHODS = frozenset({"GET", "HEAD", "PUT", "PATCH"})  # a change of these has the same effect a second time
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_LOST = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})  # a proxy did not hear the answer
# A proxy error is a refusal to connect to the service.
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
# What the service, or a proxy, may say without having looked at the Idempotency-Key.
_BEFORE_THE_KEY = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.INTERNAL_SERVER_ERROR}
)
_FIRST_DELAY = 0.25  # seconds
LONGEST_DELAY = 8.0
_LONGEST_WANTED = 86_400.0


def delays() -> Iterator[float]:
    """Yield seconds to wait before each further attempt. They grow, and chance keeps clients apart."""
    longest = _FIRST_DELAY
    while True:
        yield random.uniform(longest / 2, longest)  # noqa: S311 - not for secrets
        longest = min(2 * longest, LONGEST_DELAY)


def may_repeat_after(error: httpx.TransportError, *, repeatable: bool) -> bool:
    """Whether a request may be sent again that got no answer. One that never left may be sent again in any case."""
    return repeatable or isinstance(error, _NEVER_LEFT)


def is_passing(status: int) -> bool:
    """Whether an answer with this status may be another one soon, whoever gave it: the service, or a proxy."""
    return status in _BUSY | _LOST


def may_repeat_answered(response: httpx.Response, *, repeatable: bool) -> bool:
    """Whether a later attempt may get a better answer than this one."""
    if response.status_code == HTTPStatus.CONFLICT:
        return b'"idempotency_key_in_flight"' in response.content
    return repeatable and is_passing(response.status_code)


def doubt_after(end: httpx.Response | httpx.TransportError, reason: str) -> str:
    """The `reason` if the service may have carried out an attempt that ended like this; else an empty text."""
    if isinstance(end, httpx.Response):
        return reason if end.status_code in _LOST or _leaves_open(end) else ""
    return "" if isinstance(end, _NEVER_LEFT) else reason


def _leaves_open(response: httpx.Response) -> bool:
    """Whether a 503 leaves open if the request was carried out: a proxy's does, and two of the service's own."""
    if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
        return False
    is_of_service = "problem+json" in response.headers.get("Content-Type", "")
    codes = (b'"database_unavailable"', b'"shutting_down"')
    return not is_of_service or any(code in response.content for code in codes)


def says_nothing_of_earlier(response: httpx.Response, headers: Mapping[str, str]) -> bool:
    """Whether an earlier attempt, whose answer is lost, may have been carried out although this later one was refused.

    With an Idempotency-Key the service repeats its first answer, but not to a caller that it does not know, or has no
    time for. Without a key, an earlier attempt may be what has changed the resource.
    """
    if response.status_code == HTTPStatus.PRECONDITION_FAILED:
        return "If-Match" in headers and "Idempotency-Key" not in headers
    return response.status_code in _BEFORE_THE_KEY or may_repeat_answered(response, repeatable=True)


def wanted_delay(response: httpx.Response) -> float:
    """The seconds that the answer asks to wait, at most a day; 0 if it does not say."""
    value = response.headers.get("Retry-After", "")
    seconds = float(value) if value.isascii() and value.isdigit() else _seconds_until(value, response)
    return min(seconds, _LONGEST_WANTED)


def _seconds_until(date: str, response: httpx.Response) -> float:
    """The seconds from the answer's own date, so that our clock may be wrong; a proxy may send such a `Retry-After`."""
    try:
        later, sent = parsedate_to_datetime(date), parsedate_to_datetime(response.headers.get("Date", ""))
        return max((later - sent).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):  # no date, one without a time zone, or one beyond all calendars
        return 0.0
