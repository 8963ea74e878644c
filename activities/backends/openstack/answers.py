"""Reads answers of the cloud: the error in a body of any service's shape, Retry-After, and how an answer was lost."""

import html
import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import requests
import urllib3
from keystoneauth1 import exceptions as keystone

from activities.backends.openstack.errors import Failure, Lost, Service

LONGEST_PAUSE: Final = 600.0  # seconds; a cloud that asks for a longer pause does not get it
LONGEST_TEXT: Final = 10_000  # characters of a body that are searched for an error
REQUEST_ID: Final = "X-Openstack-Request-Id"
# TLS 1.3 reports a missing client certificate only after the request, but the server has not read that.
_HANDSHAKE: Final = re.compile("CERTIFICATE|HANDSHAKE|VERSION|UNSUPPORTED|CIPHER")
_TAG: Final = re.compile(r"<(style|script|title)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_TITLE: Final = re.compile(r"<title>(.*?)</title>", re.DOTALL | re.IGNORECASE)


def failure_of(response: requests.Response, service: Service, method: str, path: str) -> Failure:
    """Return the failure that an answer with an error status reports."""
    body = _json(response)
    kind, words = _error_of_json(body) if body is not None else ("", _text(response))
    request_id = response.headers.get(REQUEST_ID)
    # Glance's own errors are HTML; those of the other services are JSON.
    is_own = request_id is not None and (service is Service.IMAGE or (bool(kind or words) and body is not None))
    return Failure(service, method, path, response.status_code, kind, words, retry_after(response), request_id, is_own)


def is_html(response: requests.Response) -> bool:
    """Return whether the body is a page for people. An answer of a service never is, unless it is an error."""
    return "html" in response.headers.get("Content-Type", "")


def date_of(response: requests.Response) -> datetime | None:
    """Return the cloud's time, in whole seconds."""
    return _http_date(response.headers.get("Date", ""))


def retry_after(response: requests.Response) -> float | None:
    """Return the pause in seconds that the answer asks for, by a number or by a date; None if it asks for none."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return min(float(value), LONGEST_PAUSE)
    until = _http_date(value)
    if until is None:
        return None
    pause = (until - (date_of(response) or datetime.now(UTC))).total_seconds()
    return min(max(pause, 0.0), LONGEST_PAUSE)


def _http_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def json_of(response: requests.Response) -> Any:
    """Return the body without NUL characters, which PostgreSQL cannot keep; ValueError if it is not JSON."""
    body = response.json()
    return _without_nul(body) if b"\\u0000" in response.content else body


def _without_nul(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nul(inner) for inner in value]
    return value.replace("\0", "") if isinstance(value, str) else value


def _json(response: requests.Response) -> Any | None:
    try:
        return json_of(response)
    except ValueError:
        return None


def _error_of_json(body: Any) -> tuple[str, str]:
    """Return the type and the text of the error in a body.

    Nova and Cinder: `{"conflictingRequest": {"message": ...}}`. Neutron: `{"NeutronError": {"type": ..., "message":
    ...}}`. Keystone: `{"error": {"title": ..., "message": ...}}`. Others have the message at the top.
    """
    if not isinstance(body, dict):
        return "", ""
    for key, value in body.items():
        if isinstance(value, dict) and "message" in value:
            return str(value.get("type") or value.get("title") or key), str(value["message"])
        if key == "NeutronError":
            return key, str(value)
    return "", str(body.get("message") or body.get("faultstring") or "")


def _text(response: requests.Response) -> str:
    """Return the text of a body that is not JSON. Of an HTML page it is the text without tags, or else the title."""
    text = response.text[:LONGEST_TEXT]
    if not is_html(response):
        return text
    said = " ".join(html.unescape(_TAG.sub(" ", text)).split())
    title = _TITLE.search(text)
    return said or (html.unescape(title[1]).strip() if title else "")


def how_it_was_lost(error: Exception) -> Lost:
    """Return how a request ended that met this error after it had begun to connect."""
    if not isinstance(error, keystone.ConnectionError):
        return Lost.UNREADABLE
    # Keystoneauth calls a timeout and a cut connection ConnectTimeout and ConnectFailure, whether or not the request
    # was sent. The library below it knows better.
    for inner in _causes(error):
        if isinstance(inner, requests.ConnectTimeout | urllib3.exceptions.NewConnectionError):
            return Lost.UNREACHABLE
        if isinstance(inner, ssl.SSLError) and _HANDSHAKE.search(inner.reason or ""):
            return Lost.UNREACHABLE
    return Lost.CUT


def reason_of(error: Exception) -> str:
    """Return what the operating system or TLS says about the connection, without the address; empty if nothing."""
    said = [inner.strerror for inner in _causes(error) if isinstance(inner, OSError) and inner.strerror]
    return said[-1] if said else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that requests, urllib3 and ssl wrapped one in another, from the outside to the inside."""
    inner = error.__context__
    while inner is not None:
        yield inner
        wrapped = (getattr(inner, "reason", None), getattr(inner, "original_error", None), inner.__cause__, *inner.args)
        inner = next((each for each in wrapped if isinstance(each, BaseException)), None)
