# Generated from aio/transport.py by `python -m tests.vmctl.generated`.

"""Sends requests: again where that is safe, with a fresh token where the old one has expired."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from itertools import count
from math import inf
from time import monotonic, sleep
from typing import Any, TypeVar

import httpx
from httpx_sse import ServerSentEvent, connect_sse
from pydantic import BaseModel

from vmctl.client import retries
from vmctl.client.base import AnyPage
from vmctl.client.errors import (
    ClientError,
    ProblemError,
    UnreachableError,
    UnusableError,
    answer_of,
    error_of,
    error_of_trial,
    foreign,
    in_doubt,
    item_of,
    unreadable,
)
from vmctl.client.models import TokenPair
from vmctl.client.sending import RENEWAL, RENEWAL_WITHIN, Filter, Prepared, check_headers, headers_of, prepared
from vmctl.client.service import check_path
from vmctl.client.sync.bounded_events import events_of
from vmctl.client.sync.renewals import Renewals
from vmctl.client.tokens import MemoryTokens, TokenStore

M = TypeVar("M", bound=BaseModel)
# The service sends a comment every 15 seconds. A longer silence means that the connection is dead.
_STREAM_TIMEOUT = httpx.Timeout(5, read=40)
MAX_ANSWER = 2**26  # bytes; a page of a hundred VMs with the longest labels is a tenth of it
_OF_THE_STREAM = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
_WITHOUT_CONTENT = frozenset({HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT})  # statuses of answers that may be empty
_IS_TRIAL = ContextVar("is_trial", default=False)


class AcceptableError(Exception):
    """A trial has ended: the service would accept the change."""


class Transport:
    """One connection pool, with what each request needs."""

    def __init__(
        self,
        http: httpx.Client,
        *,
        token: str | None = None,
        tokens: TokenStore | None = None,
        patience: float = 30.0,
        on_retry: Callable[[str, float], None] | None = None,
    ) -> None:
        self._http = http
        self._token = token
        self.tokens: TokenStore = tokens or MemoryTokens()
        self._patience = patience
        self._on_retry = on_retry
        self._renewals = Renewals(self.tokens, patience, self._ask_for_tokens)
        self._page_size: int | None = 100

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, model: type[M], **filters: Filter) -> M:
        """Read one resource."""
        return answer_of(self.send("GET", path, filters=filters), model)

    def items(self, path: str, model: type[M], filters: Mapping[str, Filter], *, within: float = inf) -> Iterator[M]:
        """Yield all items of a list, page by page. Each page may take `within` seconds."""
        wanted = dict(filters)
        remembered: str | None = None
        for number in count(1):
            response = self._send_for_page(path, wanted, within)
            page = answer_of(response, AnyPage)
            for item in page.items:
                yield item_of(response, item, model)
            if page.next_cursor is None:
                return
            if page.next_cursor in {"", remembered}:
                raise unreadable(response.request.url, "the list has no end, its cursors come again or are empty")
            if number.bit_count() == 1:  # only at powers of two: so one cursor is enough for a circle of any length
                remembered = page.next_cursor
            wanted = {**wanted, "cursor": page.next_cursor}

    def _send_for_page(self, path: str, filters: Mapping[str, Filter], within: float) -> httpx.Response:
        """Ask for a large page. A service whose pages must be smaller chooses their size itself."""
        try:
            return self.send("GET", path, filters={"page_size": self._page_size, **filters}, within=within)
        except ProblemError as error:
            if self._page_size is None or "page_size" not in [item.parameter for item in error.problem.errors]:
                raise
        self._page_size = None
        return self.send("GET", path, filters=filters, within=within)

    def send(
        self,
        method: str,
        path: str,
        *,
        filters: Mapping[str, Filter] | None = None,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        if_match: str | None = None,
        within: float = inf,
    ) -> httpx.Response:
        """Send a request, and return its answer if that is a success.

        `key` is the Idempotency-Key of a change; without it each call gets a new one. All attempts have the same key,
        so the change is made once. `if_match` is the ETag that the resource must still have. The attempts may take
        `within` seconds together; to renew the token may take longer. If the caller is stopped, a renewal goes on.
        """
        check_path(path)
        headers = headers_of(method, path, body, key, if_match)
        is_trial = _IS_TRIAL.get() and method != "GET" and path != RENEWAL
        request = prepared(method, path, filters or {}, body, headers, within=within, is_trial=is_trial)
        token = self._current_token(path)
        response, doubt = self._send_patiently(request, token)
        if response.status_code == HTTPStatus.UNAUTHORIZED and token and not self._token:
            try:
                token = self._renewals.renew(token)
            except ClientError as error:
                if doubt and request.is_change:
                    raise in_doubt(doubt, error) from error
                raise
            response, doubt = self._send_patiently(request, token, doubt)
        if not response.is_success:
            refused = error_of_trial(response) if is_trial else error_of(response)
            if doubt and request.is_change and retries.says_nothing_of_earlier(response, headers):
                raise in_doubt(doubt, refused) from refused
            raise refused
        is_empty = not response.content and response.status_code in _WITHOUT_CONTENT
        if not is_empty and "json" not in response.headers.get("Content-Type", ""):
            raise foreign(response)
        if is_trial:
            raise AcceptableError
        return response

    def events(self, path: str, last_event_id: str | None) -> Iterator[ServerSentEvent]:
        """Yield the events of one connection, until it ends. The service begins at once, with one that has no name."""
        check_path(path)
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        check_headers(headers)
        token = self._current_token(path)
        renewed = False
        while True:
            authorized = headers | ({"Authorization": f"Bearer {token}"} if token else {})
            with connect_sse(self._http, "GET", path, headers=authorized, timeout=_STREAM_TIMEOUT) as source:
                if source.response.is_success:
                    if "text/event-stream" not in source.response.headers.get("Content-Type", ""):
                        raise foreign(source.response)
                    for event in events_of(source.response, MAX_ANSWER):
                        yield event
                    return
                response = _read(source.response)
            if response.status_code != HTTPStatus.UNAUTHORIZED or not token or self._token or renewed:
                raise error_of(response)
            token, renewed = self._renewals.renew(token), True

    def _current_token(self, path: str) -> str | None:
        """The access token for a request; a login and its like need none."""
        if path in {"/auth/login", "/auth/register", RENEWAL}:
            return None
        if self._token:
            return self._token
        kept = self.tokens.read()
        return kept.access_token if kept else None

    def _ask_for_tokens(self, refresh_token: str) -> TokenPair:
        body = {"refresh_token": refresh_token}
        return answer_of(self.send("POST", RENEWAL, body=body, within=RENEWAL_WITHIN), TokenPair)

    def _send_patiently(self, request: Prepared, token: str | None, doubt: str = "") -> tuple[httpx.Response, str]:
        """Send a request until it has an answer that is worth having, or the patience is over.

        The patience begins with the first failure: until then the service may have held its answer back. Return the
        answer, and why an earlier attempt may have been carried out; an empty text if none was.
        """
        give_up_at = inf
        for delay in retries.delays():
            try:
                attempt = request.attempt(token)
                with self._http.stream(**attempt.arguments) as stream:
                    response = _read(stream, attempt.ends_at)
            except httpx.InvalidURL as error:
                raise UnusableError(f"No request can have so long a name, filter or id: {error}") from error
            except httpx.DecodingError as error:
                raise UnreachableError(self.reason(error)) from error
            except httpx.TransportError as error:
                reason, wanted = self.reason(error), request.pause(delay)
                give_up_at = min(give_up_at, monotonic() + self._patience)
                again = retries.may_repeat_after(error, repeatable=request.is_repeatable)
                if not again or wanted is None or monotonic() + wanted > give_up_at:
                    raise UnreachableError(reason) from error
                doubt = doubt or retries.doubt_after(error, reason)
            else:
                reason = f"{self._http.base_url.host} answered {response.status_code}"
                wanted = request.pause(max(delay, retries.wanted_delay(response)))
                give_up_at = min(give_up_at, monotonic() + self._patience)
                again = retries.may_repeat_answered(response, repeatable=request.is_repeatable)
                if not again or wanted is None or monotonic() + wanted > give_up_at:
                    return response, doubt
                doubt = doubt or retries.doubt_after(response, reason)
            self.pause(reason, wanted)
        raise AssertionError  # the delays have no end

    def reason(self, error: Exception) -> str:
        """Why a request has failed, in words."""
        if isinstance(error, httpx.DecodingError):
            return f"{self._http.base_url} answered what cannot be decoded: {error}"
        if isinstance(error, httpx.TransportError):
            return f"Cannot reach {self._http.base_url}: {str(error) or type(error).__name__}"
        return str(error)

    def pause(self, reason: str, seconds: float) -> None:
        """Wait until the next attempt, and say why there is one, if there is a reason."""
        if reason and self._on_retry:
            self._on_retry(reason, seconds)
        sleep(seconds)


@contextmanager
def trial() -> Iterator[None]:
    """Send the next change as a trial, which changes nothing. What the service would accept ends the block."""
    token = _IS_TRIAL.set(True)
    try:
        yield
    except AcceptableError:
        pass
    finally:
        _IS_TRIAL.reset(token)


def _read(stream: httpx.Response, ends_at: float = inf) -> httpx.Response:
    """Read an answer. What is compressed may be a thousand times as long as what was sent."""
    content = bytearray()
    for part in stream.iter_bytes():
        if monotonic() > ends_at:
            raise httpx.ReadTimeout("its answer has not ended in time", request=stream.request)
        content += part
        if len(content) > MAX_ANSWER:
            raise unreadable(stream.request.url, f"it is longer than {MAX_ANSWER:,} bytes")
    # As bytes: a proxy may have added a header that is not ASCII.
    headers = [(name, value) for name, value in stream.headers.raw if name.lower() not in _OF_THE_STREAM]
    more: dict[str, Any] = {"extensions": stream.extensions, "request": stream.request}
    return httpx.Response(stream.status_code, headers=headers, content=bytes(content), **more)
