"""The OpenAPI description: FastAPI's own, completed with the problems and headers that FastAPI cannot know."""

import asyncio
import json
from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from api import PREFIX
from api.web import openapi_examples, openapi_links, openapi_schemas
from api.web.models import Problem, Validity
from api.web.problems import HEADERS_OF_CODE, MEDIA_TYPE, RETRY_AFTER, STATUS_OF_CODE
from domain.settings import Settings

DESCRIPTION = """
Virtual machines on OpenStack, with their snapshots, volumes and interfaces.

**Operations.** A request that changes the cloud is accepted at once (202, or 204 for a delete) and carried out in the
background. The header `Operation-Location` of the answer is the path of its operation, which reports the progress. The
`status` of a resource and the `task_state` of a VM report it in short.

**Errors** are problem documents ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)). A problem has a stable `code` for
programs, a `detail` for people, and the `request_id` for support. Its `type` is the path of a page that says what to do
([all problems](/api/v1/docs/problems)). If a request is invalid, each item of `errors` names its place: a JSON pointer
into the body, a parameter or a header. If a resource's state does not allow an action, the problem has the resource's
`current_status` and `task_state` and the `allowed_actions`.

**Strictness.** An unknown field or query parameter is an error. So is an empty parameter, and one that is repeated but
has one value. `errors` has at most 20 items.

**Overload.** 429 means that you have sent too many requests, or have too many in progress. 503 means that all clients
together have. A request refused in this way has changed nothing. Send it again after `Retry-After` seconds, and wait
longer after each refusal. Every answer says in `RateLimit` how many requests you have left.

**Repeated requests.** You can safely send a POST or DELETE again if it has an `Idempotency-Key`. The service returns
the first answer with the header `Idempotency-Replayed`, and does nothing twice.

**Trials.** With `validate_only=true` a POST changes nothing. The answer is 200, or the problem that the request would
get.

**Pages.** Follow `Link: rel="next"`, or pass `next_cursor` as `cursor`. Unlike page numbers, cursors neither skip nor
repeat items when other items are added or removed, and they reach the items of a list of any length: `total`, `pages`
and page numbers end at 10,000 items. In a longer list, `total_is_exact` is false. In an order by a field that changes
(`updated_at`, `name`, `status`), `items_moved` says whether items have moved since you read the first page.
"""
TAGS = [
    {"name": "health", "description": "Checks for load balancers and monitoring."},
    {"name": "auth", "description": "Accounts, and the tokens that all other requests need."},
    {"name": "vms", "description": "Virtual machines and their actions."},
    {"name": "events", "description": "Streams that tell of each change as soon as it is committed."},
    {"name": "consoles", "description": "What a VM's console has shown, and ways to use it."},
    {"name": "snapshots", "description": "Images of a VM, to restore it from. A snapshot outlives its VM."},
    {"name": "volumes", "description": "Block devices. A volume is attached to at most one VM."},
    {"name": "interfaces", "description": "The connections of a VM to networks, with their addresses."},
    {"name": "operations", "description": "Requested changes, their progress, and why they failed."},
    {"name": "tokens", "description": "Tokens for programs, which need no password and no refresh."},
    {"name": "projects", "description": "Groups of resources that several users share, each with a role."},
    {"name": "quotas", "description": "How much a project may have, and how much it has."},
    {"name": "sshkeys", "description": "Public keys, for logins in new VMs."},
    {"name": "admin", "description": "For the admin: problems that need a person, and ways to solve them."},
    {"name": "catalogue", "description": "Flavors, images and networks for VMs."},
]

# What is below these paths belongs to a user or to the service, and to no project.
_OF_NO_PROJECT = tuple(f"{PREFIX}/{part}" for part in ("auth", "tokens", "ssh-keys", "admin"))
_PROBLEM_CODES = "x-problem-codes"
_FASTAPI_ERRORS = {"HTTPValidationError", "ValidationError"}  # the service answers with problems instead
_RATE_LIMITED = "rate_limited"
_TEXT = {"type": "string"}
_SUCCESSES = {
    "200": "The answer.",
    "201": "It has been made.",
    "202": "Accepted. `Operation-Location` is the path of the operation that carries the request out.",
    "204": "Accepted, or done at once. If there is an `Operation-Location`, that operation carries the request out.",
}
_VALID = "With `validate_only=true`: the request would be accepted. Nothing has changed."
_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ETag": (
        "Names the state of the resource. It changes exactly when the answer does; `If-None-Match` then gets a 304.",
        _TEXT,
    ),
    "X-Request-Id": ("The id of the request: the one it was sent with, or a new one.", _TEXT),
    "Location": ("The path of the new resource.", _TEXT),
    "Operation-Location": ("The path of the operation that carries the request out.", _TEXT),
    "RateLimit": ("For each limit: requests that are left (`r`), and seconds until there is one more (`t`).", _TEXT),
    "RateLimit-Policy": (
        "Your limits: `q` requests at once, and as many in each `w` seconds; `concurrent` is for those in progress.",
        _TEXT,
    ),
    "Retry-After": ("Seconds to wait before the next request for progress, or the next attempt.", {"type": "integer"}),
    "Idempotency-Replayed": ("Marks the stored answer of an earlier request with the same key.", {"const": "true"}),
    "Link": ("Links to the first, previous, next and last page (RFC 8288).", _TEXT),
    "WWW-Authenticate": ("How to authenticate (RFC 6750).", _TEXT),
}


def problems(*codes: str) -> dict[str, Any]:
    """The `openapi_extra` of a route: its problem codes, except those that `_implied_codes` finds."""
    return {_PROBLEM_CODES: list(codes)}


def headers(status: int, *names: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: the headers of its answer with this status."""
    return {status: {"headers": {name: _reference("headers", name) for name in names}}}


def one_resource(*names: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with one resource, with further headers."""
    # Without 304: generated clients never send If-None-Match, and an answer without a body would cost them the type.
    return headers(200, "ETag", *names)


def install(app: FastAPI, settings: Settings) -> None:
    """Make the app serve the completed description."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app, settings)
        return app.openapi_schema

    @cache  # FastAPI would render it for each request, and anybody may ask for it
    def rendered() -> bytes:
        return json.dumps(app.openapi(), ensure_ascii=False, separators=(",", ":")).encode()

    rendering = asyncio.Lock()

    async def openapi(_request: Request) -> Response:
        async with rendering:  # once, and beside other requests: it takes a second
            document = await asyncio.to_thread(rendered)
        return Response(document, media_type="application/json")

    app.openapi = describe  # type: ignore[method-assign] # FastAPI documents this way to replace it
    app.add_route(f"{PREFIX}/openapi.json", openapi, include_in_schema=False)


def _describe(app: FastAPI, settings: Settings) -> dict[str, Any]:
    description = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        tags=TAGS,
        routes=app.routes,
        servers=[{"url": "/", "description": "This service"}],
        contact={"name": "The operator of this service"},
        license_info={"name": "MIT", "identifier": "MIT"},
    )
    components = description["components"]
    _, extra = models_json_schema(
        [(Problem, "serialization"), (Validity, "serialization")], ref_template="#/components/schemas/{model}"
    )
    schemas = components["schemas"] | extra["$defs"]
    components["schemas"] = {name: schema for name, schema in sorted(schemas.items()) if name not in _FASTAPI_ERRORS}
    components["headers"] = {name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()}
    for path, item in description["paths"].items():
        for method, operation in item.items():
            _complete(path, method, operation, settings)
    openapi_schemas.rewrite(description)
    openapi_links.add(description)
    openapi_examples.add(description)
    return description


def _complete(path: str, method: str, operation: dict[str, Any], settings: Settings) -> None:
    operation["summary"] = operation["summary"].replace("Vm", "VM")  # FastAPI makes it from the function's name
    responses: dict[str, Any] = operation["responses"]
    parameters = {parameter["name"]: parameter for parameter in operation.get("parameters", [])}
    success_status, success = next(iter(responses.items()))
    success["description"] = _SUCCESSES[success_status]
    operation.setdefault("security", [])
    if "page_size" in parameters:
        # The bounds are settings, which are not known where the parameter is declared.
        bounds = {"type": "integer", "minimum": 1, "maximum": settings.max_page_size}
        parameters["page_size"]["schema"] = {**bounds, "default": settings.default_page_size}
        _add_header(success, "Link")
    if "Idempotency-Key" in parameters:
        _add_header(success, "Idempotency-Replayed")
    if "validate_only" in parameters:
        schema = {"schema": _reference("schemas", Validity.__name__)}
        responses["200"] = {"description": _VALID, "content": {"application/json": schema}}
    codes = dict.fromkeys([*operation.get(_PROBLEM_CODES, []), *_implied_codes(path, method, operation, parameters)])
    operation[_PROBLEM_CODES] = list(codes)
    for status in {STATUS_OF_CODE[code] for code in codes}:
        responses[str(status)] = _problem(status, [code for code in codes if STATUS_OF_CODE[code] == status])
    operation["responses"] = dict(sorted(responses.items()))
    told = ("X-Request-Id", "RateLimit", "RateLimit-Policy") if _RATE_LIMITED in codes else ("X-Request-Id",)
    for response in responses.values():
        for name in told:
            _add_header(response, name)


def _implied_codes(path: str, method: str, operation: dict[str, Any], parameters: dict[str, Any]) -> Iterator[str]:
    """The problem codes that follow from the path, method, parameters, body and security of an operation."""
    yield "malformed_request"
    if operation["security"]:
        yield from ("unauthenticated", "invalid_token", "identity_provider_unavailable")
        yield from _codes_of_changes(path) if method != "get" else ()
    if "{" in path or "project_id" in parameters:
        yield "not_found"
    if "requestBody" in operation:
        yield from ("malformed_body", "body_too_large", "unsupported_encoding", "unsupported_media_type")
    if "requestBody" in operation or parameters:
        yield "validation_failed"
    if "cursor" in parameters:
        yield from ("invalid_cursor", "page_too_deep", "search_too_slow")
    if "If-Match" in parameters:
        yield "precondition_failed"
    if "Idempotency-Key" in parameters:
        yield from ("idempotency_key_in_flight", "idempotency_key_reused")
    if not path.startswith(f"{PREFIX}/health"):
        yield from ("query_too_long", "unknown_parameter", "too_many_requests", _RATE_LIMITED, "overloaded")
    yield from ("internal_error", "database_unavailable", "shutting_down")


def _codes_of_changes(path: str) -> tuple[str, ...]:
    return ("insufficient_scope",) if path.startswith(_OF_NO_PROJECT) else ("insufficient_scope", "forbidden")


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}",
        "content": {MEDIA_TYPE: {"schema": _reference("schemas", Problem.__name__)}},
    }
    if any("WWW-Authenticate" in HEADERS_OF_CODE.get(code, {}) for code in codes):
        _add_header(response, "WWW-Authenticate")
    if RETRY_AFTER in [HEADERS_OF_CODE.get(code) for code in codes]:
        _add_header(response, "Retry-After")
    return response


def _add_header(response: dict[str, Any], name: str) -> None:
    response.setdefault("headers", {})[name] = _reference("headers", name)


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
