"""The table of errors, line by line, over HTTP: what the cloud answers and what that means."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import uuid4

import pytest
import requests

from activities.backends.openstack import answers
from activities.backends.openstack.connection import Cloud
from activities.backends.openstack.errors import RULES, CloudError, Failure, Lost, Service, cloud_error
from tests.backends.openstack.cloud_server import HTML, REQUEST_ID, CloudServer, Reply

SERVER, PORT, VOLUME, NETWORK = (str(uuid4()) for _ in range(4))
ACTION = f"/servers/{SERVER}/action"
COMPUTE, IMAGE = Service.COMPUTE, Service.IMAGE


def nova(kind: str, message: str) -> dict[str, Any]:
    """An error of Nova or Cinder."""
    return {kind: {"code": 0, "message": message}}


def neutron(kind: str, message: str = "") -> dict[str, Any]:
    """An error of Neutron."""
    return {"NeutronError": {"type": kind, "message": message, "detail": ""}}


@dataclass(frozen=True)
class Line:
    """An answer and what it means."""

    status: int
    body: Any
    code: str
    retryable: bool = False
    ambiguous: bool = False
    service: Service = COMPUTE
    request: str = "POST /servers"
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    has_request_id: bool = True


AGAIN: Mapping[str, Any] = {"retryable": True}
UNSURE: Mapping[str, Any] = {"retryable": True, "ambiguous": True}
CINDER: Mapping[str, Any] = {"service": Service.VOLUME, "request": "POST /volumes"}
NEUTRON: Mapping[str, Any] = {"service": Service.NETWORK, "request": "POST /ports"}
PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
LIMIT = "VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded for quota 'volumes'."
TASK = "Cannot 'stop' instance 1 while it is in task_state powering-off"
STATE = "Cannot 'stop' instance 1 while it is in vm_state stopped"
NOT_ALLOWED = "rule:create_port and (rule:create_port:fixed_ips:ip_address) is disallowed by policy"
NO_KEYSTONE = (
    'Failed to delete allocations for consumer 1. Error: {"message": "The server is currently unavailable. Please try '
    'again at a later time.<br /><br />\\nThe Keystone service is temporarily unavailable.\\n\\n", "code": "503 '
    'Service Unavailable", "title": "Service Unavailable"}'
)

LINES = {
    "a proxy without its service": Line(502, PAGE.format("502 Bad Gateway"), "cloud_timeout", **UNSURE, headers=HTML),
    "a proxy that waited": Line(504, PAGE.format("504 Gateway Time-out"), "cloud_timeout", **UNSURE, headers=HTML),
    "a timeout of a proxy": Line(408, PAGE.format("408"), "cloud_timeout", **UNSURE, headers=HTML),
    "unavailable": Line(503, None, "cloud_unavailable", **AGAIN),
    "unavailable for 7 s": Line(503, None, "cloud_unavailable", **AGAIN, headers={"Retry-After": "7"}, retry_after=7.0),
    "unavailable for a day": Line(
        503, None, "cloud_unavailable", **AGAIN, headers={"Retry-After": "86400"}, retry_after=600.0
    ),
    "unavailable, nonsense": Line(503, None, "cloud_unavailable", **AGAIN, headers={"Retry-After": "soon"}),
    "too many requests": Line(429, None, "rate_limited", **AGAIN, headers={"Retry-After": "3"}, retry_after=3.0),
    "rate limit of old": Line(
        413,
        nova("overLimit", "This request was rate-limited."),
        "rate_limited",
        **AGAIN,
        headers={"Retry-After": "9"},
        retry_after=9.0,
    ),
    "quota of volumes": Line(413, nova("overLimit", LIMIT), "quota_exceeded", **CINDER, headers={"Retry-After": "0"}),
    "quota of gigabytes": Line(
        413, nova("overLimit", "VolumeSizeExceedsAvailableQuota: 5G over."), "quota_exceeded", **CINDER
    ),
    "limit without words": Line(
        413, nova("overLimit", "No."), "quota_exceeded", **CINDER, headers={"Retry-After": "0"}
    ),
    "a body that is too large": Line(413, "Request is too large.", "bad_request"),
    "quota of cores": Line(403, nova("forbidden", "Quota exceeded for cores: Requested 2"), "quota_exceeded"),
    "quota of ports": Line(403, nova("forbidden", "Maximum number of ports exceeded"), "quota_exceeded"),
    "quota of Neutron": Line(409, neutron("OverQuota", "Quota exceeded for resources"), "quota_exceeded", **NEUTRON),
    "too much metadata": Line(403, nova("forbidden", "Maximum number of metadata items exceeds 128"), "bad_request"),
    "policy of Nova": Line(403, nova("forbidden", "Policy doesn't allow it to be performed."), "forbidden"),
    "policy of Neutron": Line(
        403, neutron("PolicyNotAuthorized", "rule:create_port is disallowed"), "forbidden", **NEUTRON
    ),
    "a chosen address": Line(403, neutron("PolicyNotAuthorized", NOT_ALLOWED), "not_supported_by_cloud", **NEUTRON),
    "unknown flavor": Line(400, nova("badRequest", "Flavor x could not be found."), "bad_request"),
    "inactive image": Line(400, nova("badRequest", "Image x is not active."), "invalid_image"),
    "unknown image": Line(400, nova("badRequest", "Can not find requested image"), "invalid_image"),
    "large image": Line(400, nova("badRequest", "Flavor's disk is too small for requested image."), "invalid_image"),
    "address in use, Nova": Line(
        400, nova("badRequest", "Fixed IP address 10.0.0.5 is already in use on instance x."), "address_in_use"
    ),
    "attached elsewhere": Line(400, nova("badRequest", "volume x is already attached to instances: y"), "conflict"),
    "root volume": Line(400, nova("badRequest", "Cannot detach a root device volume"), "conflict"),
    "name of user data": Line(400, nova("badRequest", "Invalid input for field/attribute user_data."), "bad_request"),
    "unknown request": Line(415, None, "bad_request"),
    "the server is not there": Line(
        404, nova("itemNotFound", f"Instance {SERVER} could not be found."), "not_found", request=f"POST {ACTION}"
    ),
    "the volume is not there": Line(
        404,
        nova("itemNotFound", f"Volume {VOLUME} could not be found."),
        "not_found",
        request=f"DELETE /volumes/{VOLUME}",
        service=Service.VOLUME,
    ),
    "an attachment is not there": Line(
        404,
        nova("itemNotFound", f"Volume {VOLUME} is not attached"),
        "not_found",
        request=f"DELETE /servers/{SERVER}/os-interface/{PORT}",
    ),
    "the network of a port is not there": Line(
        404, neutron("NetworkNotFound", f"Network {NETWORK} could not be found."), "bad_request", **NEUTRON
    ),
    "the type of a volume is not there": Line(
        404, nova("itemNotFound", "Volume type x not found."), "bad_request", **CINDER
    ),
    "the volume to attach is not there": Line(
        404,
        nova("itemNotFound", f"Volume {VOLUME} could not be found."),
        "bad_request",
        request=f"POST /servers/{SERVER}/os-volume_attachments",
    ),
    "an image is not there, in HTML": Line(
        404, PAGE.format("404 Not Found"), "not_found", request="DELETE /images/1", service=IMAGE, headers=HTML
    ),
    "a 404 of a proxy": Line(
        404,
        PAGE.format("404"),
        "cloud_unavailable",
        **AGAIN,
        headers=HTML,
        has_request_id=False,
        request=f"GET /servers/{SERVER}",
    ),
    "a 404 of a proxy before Glance": Line(
        404,
        PAGE.format("404"),
        "cloud_unavailable",
        **AGAIN,
        service=IMAGE,
        headers=HTML,
        has_request_id=False,
        request="GET /images/1",
    ),
    "microversion": Line(406, nova("computeFault", "Version 2.95 is not supported"), "not_supported_by_cloud"),
    "not implemented": Line(501, nova("notImplemented", "No."), "not_supported_by_cloud"),
    "busy": Line(409, nova("conflictingRequest", TASK), "busy", **AGAIN, request=f"POST {ACTION}"),
    "a host that is away": Line(
        409,
        nova("conflictingRequest", "Service is unavailable at this time."),
        "cloud_unavailable",
        **AGAIN,
        request=f"POST {ACTION}",
    ),
    "a delete without Keystone": Line(
        409,
        nova("conflictingRequest", NO_KEYSTONE),
        "cloud_unavailable",
        **AGAIN,
        request=f"DELETE /servers/{SERVER}",
    ),
    "already so": Line(409, nova("conflictingRequest", STATE), "conflict", request=f"POST {ACTION}"),
    "locked": Line(409, nova("conflictingRequest", "Instance 1 is locked"), "locked", request=f"POST {ACTION}"),
    "address in use": Line(409, neutron("IpAddressAlreadyAllocated"), "address_in_use", **NEUTRON),
    "MAC in use": Line(409, neutron("MacAddressInUse"), "address_in_use", **NEUTRON),
    "no addresses": Line(409, neutron("IpAddressGenerationFailure"), "no_addresses", **NEUTRON),
    "port in use": Line(409, nova("conflictingRequest", "Port 1 is still in use."), "conflict"),
    "the id of an image, in HTML": Line(
        409, PAGE.format("409 Conflict"), "conflict", service=IMAGE, request="POST /images", headers=HTML
    ),
    "an action that met another": Line(500, nova("computeFault", "Error."), "busy", **AGAIN, request=f"POST {ACTION}"),
    "a quota of images": Line(500, nova("computeFault", "HTTPOverLimit"), "quota_exceeded", request=f"POST {ACTION}"),
    "an internal error": Line(500, nova("computeFault", "Unexpected API Error."), "cloud_error", **UNSURE),
    "a strange status": Line(599, None, "cloud_error", **UNSURE),
    "a login that ended": Line(
        401, {"error": {"title": "Unauthorized", "message": "No."}}, "cloud_auth_failed", **AGAIN, retry_after=30.0
    ),
    "a redirection to nowhere": Line(302, None, "cloud_error", **UNSURE),
}


def error_of(cloud: Cloud, server: CloudServer, line: Line) -> CloudError:
    """Send the request of the line, and return its error."""
    method, _, path = line.request.partition(" ")
    reply = Reply(line.status, line.body, line.headers, has_request_id=line.has_request_id)
    server.add(line.service, method, path, *[reply] * (2 if line.status == 401 else 1))  # after a new login again
    with pytest.raises(CloudError) as caught:
        cloud.request(line.service, method, path)
    return caught.value


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_an_answer_means_what_the_table_says(cloud: Cloud, server: CloudServer, line: Line) -> None:
    error = error_of(cloud, server, line)
    meaning = (error.code, error.retryable, error.ambiguous, error.retry_after)
    assert meaning == (line.code, line.retryable, line.ambiguous, line.retry_after)
    assert error.status == line.status
    assert error.request_id == (REQUEST_ID if line.has_request_id else None)


def test_retry_after_may_be_a_date_by_the_clock_of_the_cloud(cloud: Cloud, server: CloudServer) -> None:
    server.clock_ahead = 3600.0
    until = datetime.now(UTC) + timedelta(seconds=3600 + 40)
    headers = {"Retry-After": format_datetime(until, usegmt=True)}
    pause = error_of(cloud, server, Line(503, None, "", headers=headers)).retry_after
    assert pause is not None
    assert 35 < pause <= 41
    past = {"Retry-After": format_datetime(until - timedelta(hours=2), usegmt=True)}
    assert error_of(cloud, server, Line(503, None, "", headers=past)).retry_after == 0.0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            Line(403, nova("forbidden", "Quota exceeded for cores: Requested 2, but already used 9"), ""),
            (
                "The cloud's compute service refused the request: Quota exceeded for cores: Requested 2, but already "
                f"used 9 (HTTP 403, request {REQUEST_ID})"
            ),
        ),
        (
            Line(409, neutron("MacAddressInUse", "No."), "", **NEUTRON),
            f"The cloud's network service refused the request: No. (HTTP 409, request {REQUEST_ID})",
        ),
        (
            Line(502, PAGE.format("502 Bad Gateway"), "", **CINDER, headers=HTML, has_request_id=False),
            "The cloud's volume service failed: 502 Bad Gateway (HTTP 502)",
        ),
        (Line(503, None, "", has_request_id=False), "The cloud's compute service failed. (HTTP 503)"),
    ],
    ids=["nova", "neutron", "page", "nothing"],
)
def test_the_message_has_the_words_of_the_cloud_and_the_id_of_the_request(
    cloud: Cloud, server: CloudServer, line: Line, words: str
) -> None:
    assert str(error_of(cloud, server, line)) == words


def test_a_long_answer_becomes_one_short_line(cloud: Cloud, server: CloudServer) -> None:
    body = nova("badRequest", "Too\n  long. " * 10_000)
    message = str(error_of(cloud, server, Line(400, body, "")))
    assert len(message) < 700
    assert "\n" not in message


@pytest.mark.parametrize("lost", list(Lost))
def test_a_lost_answer_is_retryable_and_only_an_unreachable_service_is_clear(lost: Lost) -> None:
    error = cloud_error(Failure(COMPUTE, "POST", "/servers", lost))
    assert error.retryable
    assert error.ambiguous is (lost in {Lost.CUT, Lost.UNREADABLE})
    assert error.status is None


def deciding_row(failure: Failure) -> int:
    """The number of the row that decides."""
    return next(number for number, rule in enumerate(RULES) if rule.applies(failure))


def failure_of(line: Line) -> Failure:
    """The failure that the line's answer reports."""
    response = requests.Response()
    response.status_code = line.status
    response._content = line.body.encode() if isinstance(line.body, str) else json.dumps(line.body).encode()
    response.headers.update({"Content-Type": "application/json", **line.headers})
    if line.has_request_id:
        response.headers["X-Openstack-Request-Id"] = REQUEST_ID
    method, _, path = line.request.partition(" ")
    return answers.failure_of(response, line.service, method, path)


def test_every_row_of_the_table_decides_something() -> None:
    """A row behind one that always applies first would be dead."""
    lost = [Failure(COMPUTE, "POST", "/servers", lost) for lost in Lost]
    logins = [Failure(Service.IDENTITY, "POST", "/auth/tokens", status) for status in (401, 502)]
    failures = [*lost, *logins, *map(failure_of, LINES.values())]
    assert {deciding_row(failure) for failure in failures} == set(range(len(RULES)))


@pytest.mark.parametrize("service", Service)
def test_the_table_has_a_row_for_every_status(service: Service) -> None:
    for status in range(300, 600):
        assert deciding_row(Failure(service, "POST", "/things", status)) < len(RULES)
