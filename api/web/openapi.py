"""The OpenAPI description: what FastAPI finds out by itself, and the problems and headers that it cannot know."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api import PREFIX
from api.web.models import Problem
from api.web.problems import HEADERS_OF_CODE, MEDIA_TYPE, RETRY_AFTER, STATUS_OF_CODE
from domain.settings import Settings

DESCRIPTION = """
Virtual machines on OpenStack, with their snapshots, volumes and interfaces.

**Operations.** What changes the cloud is accepted at once (202, or 204 for a delete) and done in the background. The
answer's `Operation-Location` names the operation to follow; `status`, and a VM's `task_state`, say the same in short.

**Errors** are problems as in [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457): a stable `code` for programs, a
`detail` for people, the `request_id` for support. Each of an invalid request's `errors` has the JSON pointer, parameter
or header it is about. A refused action has the `current_status` of what refuses, `task_state` and `allowed_actions`.

**Too much.** 429 says that too many requests of yours are under way at once, 503 that everybody's are. Wait for
`Retry-After` seconds, longer each time, and send the request again: a request that was refused so has done nothing.

**Repeating.** A POST or DELETE with an `Idempotency-Key` may be sent again without fear: the first answer comes back,
marked `Idempotency-Replayed`, and nothing is done twice.

**Pages.** Follow `Link: rel="next"`, or pass `next_cursor` as `cursor`: unlike counting `page` up, this neither skips
nor repeats an item when others come and go.
"""
TAGS = [
    {"name": "Health", "description": "For load balancers, and people in a hurry."},
    {"name": "Authentication", "description": "Accounts, and the tokens that everything else wants."},
    {"name": "VMs", "description": "Virtual machines, and what can be asked of them."},
    {"name": "Snapshots", "description": "What a VM was, to go back to; they outlive it."},
    {"name": "Volumes", "description": "Block devices, attached to one VM at a time."},
    {"name": "Interfaces", "description": "A VM's addresses in networks."},
    {"name": "Operations", "description": "What was asked, how far it is, and why it failed."},
    {"name": "Administration", "description": "What needs a person's attention, and what to do about it."},
    {"name": "Catalogue", "description": "What a VM can be made of."},
]

_PROBLEMS = "x-problem-codes"
_FASTAPIS_OWN = {"HTTPValidationError", "ValidationError"}  # problems take their place
_TEXT = {"type": "string"}
_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "X-Request-Id": ("The id that the request came with, or was given.", _TEXT),
    "Location": ("Path of what was made.", _TEXT),
    "Operation-Location": ("Path of the operation to follow.", _TEXT),
    "Retry-After": ("Seconds until it makes sense to look, or try, again.", {"type": "integer"}),
    "Idempotency-Replayed": ("On an answer that an earlier request with the same key got first.", {"const": "true"}),
    "Link": ("The first, previous, next and last page (RFC 8288).", _TEXT),
    "WWW-Authenticate": ("How to authenticate (RFC 6750).", _TEXT),
}


def problems(*codes: str) -> dict[str, Any]:
    """A route's `openapi_extra`: the problems it answers with beyond those its parameters and body imply."""
    return {_PROBLEMS: list(codes)}


def headers(status: int, *names: str) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: the headers of its answer with `status`."""
    return {status: {"headers": {name: _reference("headers", name) for name in names}}}


def install(app: FastAPI, settings: Settings) -> None:
    """Let the app describe itself completely."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app, settings)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign] # FastAPI's documented way


def _describe(app: FastAPI, settings: Settings) -> dict[str, Any]:
    description = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, tags=TAGS, routes=app.routes
    )
    components = description["components"]
    _, extra = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
    schemas = components["schemas"] | extra["$defs"]
    components["schemas"] = {name: schema for name, schema in sorted(schemas.items()) if name not in _FASTAPIS_OWN}
    components["headers"] = {name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()}
    for path, item in description["paths"].items():
        for operation in item.values():
            _complete(path, operation, settings)
    return description


def _complete(path: str, operation: dict[str, Any], settings: Settings) -> None:
    operation["summary"] = operation["summary"].replace("Vm", "VM")
    responses: dict[str, Any] = operation["responses"]
    parameters = {parameter["name"]: parameter for parameter in operation.get("parameters", [])}
    succeeds = next(iter(responses.values()))
    if "page_size" in parameters:
        bounds = {"type": "integer", "minimum": 1, "maximum": settings.max_page_size}
        parameters["page_size"]["schema"] = {**bounds, "default": settings.default_page_size}
        _add_header(succeeds, "Link")
    if "Idempotency-Key" in parameters:
        _add_header(succeeds, "Idempotency-Replayed")
    codes = dict.fromkeys([*operation.get(_PROBLEMS, []), *_implied(path, operation, parameters)])
    operation[_PROBLEMS] = list(codes)
    for status in {STATUS_OF_CODE[code] for code in codes}:
        responses[str(status)] = _problem(status, [code for code in codes if STATUS_OF_CODE[code] == status])
    operation["responses"] = dict(sorted(responses.items()))
    for response in responses.values():
        _add_header(response, "X-Request-Id")


def _implied(path: str, operation: dict[str, Any], parameters: dict[str, Any]) -> Iterator[str]:
    if "security" in operation:
        yield from ("unauthenticated", "invalid_token")
    if "{" in path:
        yield "not_found"
    if "requestBody" in operation:
        yield from ("malformed_body", "body_too_large", "unsupported_media_type")
    if "requestBody" in operation or parameters:
        yield "validation_failed"
    if "cursor" in parameters:
        yield "invalid_cursor"
    if "Idempotency-Key" in parameters:
        yield from ("idempotency_key_in_flight", "idempotency_key_reused")
    if not path.startswith(f"{PREFIX}/health"):
        yield from ("too_many_requests", "overloaded")
    yield from ("internal_error", "database_unavailable")


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}",
        "content": {MEDIA_TYPE: {"schema": _reference("schemas", Problem.__name__)}},
    }
    if status == HTTPStatus.UNAUTHORIZED:
        _add_header(response, "WWW-Authenticate")
    if RETRY_AFTER in [HEADERS_OF_CODE.get(code) for code in codes]:
        _add_header(response, "Retry-After")
    return response


def _add_header(response: dict[str, Any], name: str) -> None:
    response.setdefault("headers", {})[name] = _reference("headers", name)


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
