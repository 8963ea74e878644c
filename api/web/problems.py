"""Answers every error as a problem (RFC 9457): the HTTP status of each code, and a handler for each exception."""

import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import quote

import asyncpg
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from api.web import logs
from api.web.admission import NoSlotError
from api.web.models import FieldError
from domain.data.accounts import owner_references
from domain.data.queries import violated_constraint
from domain.rules.errors import InvalidTransitionError, ServiceError

logger = logging.getLogger(__name__)

STATUS_OF_CODE = {
    "malformed_body": 400,
    "unauthenticated": 401,
    "invalid_token": 401,
    "invalid_credentials": 401,
    "admin_only": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "invalid_transition": 409,
    "attachment_in_progress": 409,
    "no_free_address": 409,
    "no_free_device": 409,
    "too_late": 409,
    "not_retryable": 409,
    "username_taken": 409,
    "email_taken": 409,
    "idempotency_key_in_flight": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "validation_failed": 422,
    "unknown_reference": 422,
    "same_flavor": 422,
    "flavor_too_small": 422,
    "invalid_cursor": 422,
    "page_too_deep": 422,
    "idempotency_key_reused": 422,
    "too_many_requests": 429,
    "internal_error": 500,
    "overloaded": 503,
    "database_unavailable": 503,
    "not_ready": 503,
}
RETRY_AFTER = {"Retry-After": "1"}
HEADERS_OF_CODE = {
    "unauthenticated": {"WWW-Authenticate": "Bearer"},
    "invalid_token": {"WWW-Authenticate": 'Bearer error="invalid_token"'},
    "invalid_credentials": {"WWW-Authenticate": "Bearer"},
    "idempotency_key_in_flight": RETRY_AFTER,
    "unsupported_media_type": {"Accept": "application/json"},
    "too_many_requests": RETRY_AFTER,
    "overloaded": RETRY_AFTER,
    "database_unavailable": RETRY_AFTER,
    "not_ready": RETRY_AFTER,
}
MAX_BODY = 64 * 1024  # bytes
MEDIA_TYPE = "application/problem+json"
_LONGEST_NAME = 64  # characters of a field's name in a pointer; the caller may send a name of any length

_DATABASE_AWAY = (
    OSError,  # includes TimeoutError; requests call nothing over the network but the database
    PoolTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server has closed the connection, but asyncpg has not noticed yet
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


class ProblemError(Exception):
    """An error that the API itself finds, not a command; it is answered as a problem."""

    def __init__(self, code: str, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.code = code
        self.errors = errors


def problem(code: str, detail: str, path: str, **members: Any) -> Response:
    """The answer for a code of STATUS_OF_CODE; `members` are further members of the problem."""
    status = STATUS_OF_CODE[code]
    body = {
        "type": f"urn:openstack-vm-api:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": quote(path),
        "code": code,
        "request_id": logs.request_id.get(),
        **members,
    }
    return Response(json.dumps(body), status, HEADERS_OF_CODE.get(code), MEDIA_TYPE)


def body_too_large(path: str) -> Response:
    """The answer to a body of more than MAX_BODY bytes."""
    return problem("body_too_large", f"A body has at most {MAX_BODY} bytes.", path)


def refusal(code: str, path: str) -> Response:
    """The answer to a request that gets no slot: its caller has `too_many_requests`, or the service is `overloaded`."""
    detail = "The service has too many requests at the moment. Try again."
    if code == "too_many_requests":
        detail = "You have too many requests open at once. Wait until some are answered, then try again."
    return problem(code, detail, path)


async def _on_refused(request: Request, error: NoSlotError) -> Response:
    return refusal(error.code, request.url.path)


async def _on_problem(request: Request, error: ProblemError) -> Response:
    return problem(error.code, str(error), request.url.path, **_members(error.errors))


async def _on_service_error(request: Request, error: ServiceError) -> Response:
    fields = [FieldError(code=issue.code, detail=issue.detail, pointer=f"#/{issue.field}") for issue in error.fields]
    return problem(error.code, str(error), request.url.path, **_members(fields))


async def _on_invalid_transition(request: Request, error: InvalidTransitionError) -> Response:
    return problem(
        error.code,
        str(error),
        request.url.path,
        current_status=error.status,
        task_state=error.task_state,
        allowed_actions=error.allowed_actions,
    )


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    issues = error.errors()
    if any(issue["type"] == "json_invalid" for issue in issues):
        return problem("malformed_body", "The body is not JSON.", request.url.path)
    if isinstance(error.body, bytes):  # FastAPI decodes a body only if its Content-Type is JSON
        detail = "Send the body as JSON, with the header Content-Type: application/json."
        return problem("unsupported_media_type", detail, request.url.path)
    errors = [_field_error(issue["loc"], issue["type"], issue["msg"]) for issue in issues]
    detail = "The request does not have the expected form; `errors` says where."
    return problem("validation_failed", detail, request.url.path, **_members(errors))


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    match error.status_code:
        case 404:
            return problem("not_found", "There is nothing at this path.", path)
        case 405:
            allow = ", ".join(_methods(request))
            answer = problem("method_not_allowed", f"The methods of this path are: {allow}.", path)
            answer.headers["Allow"] = allow
            return answer
    # What is left is FastAPI's 400: it could not parse the body, for example because it is nested too deeply.
    return problem("malformed_body", "The body is not JSON.", path)


async def _on_database_error(request: Request, error: Exception) -> Response:
    if isinstance(error, IntegrityError) and violated_constraint(error) in owner_references():
        # The foreign key to the owner failed: the account was deleted, but its token has not expired.
        return problem("invalid_token", "This account no longer exists.", request.url.path)
    if not _is_away(error):
        raise error
    detail = "The database cannot be reached right now; try again."
    logger.warning("the database is unavailable: %s", getattr(error, "orig", None) or repr(error))
    return problem("database_unavailable", detail, request.url.path)


def _methods(request: Request) -> list[str]:
    routes = (route for route in request.app.router.routes if isinstance(route, Route))
    here = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in here for method in route.methods or ()})


def _is_away(error: Exception) -> bool:
    if not isinstance(error, DBAPIError):
        return True
    # SQLAlchemy wraps an error of asyncpg twice. The cause of `orig` is the original error.
    return error.connection_invalidated or isinstance(getattr(error.orig, "__cause__", None), _DATABASE_AWAY)


def _members(errors: Sequence[FieldError]) -> dict[str, Any]:
    return {"errors": [error.model_dump(exclude_none=True) for error in errors]} if errors else {}


def _field_error(loc: Sequence[str | int], code: str, detail: str) -> FieldError:
    where, *rest = loc
    if where == "body":
        # pydantic adds "[key]" if the key itself is invalid.
        steps = [_escape(step) for step in rest if step != "[key]"]
        return FieldError(code=code, detail=detail, pointer="/".join(["#", *steps]))
    if where == "header":
        return FieldError(code=code, detail=detail, header=str(rest[0]))
    return FieldError(code=code, detail=detail, parameter=str(rest[0]))


def _escape(step: str | int) -> str:
    """One step of a JSON pointer in a URI fragment (RFC 6901, section 6)."""
    name = str(step)[:_LONGEST_NAME].replace("~", "~0").replace("/", "~1")
    return quote(name, safe="~")


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ProblemError: _on_problem,
    NoSlotError: _on_refused,
    ServiceError: _on_service_error,
    InvalidTransitionError: _on_invalid_transition,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_exception,
    DBAPIError: _on_database_error,
    **dict.fromkeys(_DATABASE_AWAY, _on_database_error),
}
