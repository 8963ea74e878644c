"""Answers every error as a problem (RFC 9457): the HTTP status of each code, and a handler for each exception."""

import json
from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, IntegrityError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from api.web import field_errors
from api.web.admission import NoSlotError
from api.web.field_errors import MAX_ERRORS
from api.web.models import FieldError
from domain import logs
from domain.data import outages
from domain.data.accounts import owner_references
from domain.data.queries import violated_constraint
from domain.rules.errors import InvalidTransitionError, ServiceError

STATUS_OF_CODE = {
    "malformed_body": 400,
    "malformed_request": 400,
    "unauthenticated": 401,
    "invalid_token": 401,
    "invalid_credentials": 401,
    "admin_only": 403,
    "insufficient_scope": 403,
    "login_required": 403,
    "preflight_refused": 403,
    "quota_exceeded": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "invalid_transition": 409,
    "attachment_in_progress": 409,
    "no_free_address": 409,
    "address_in_use": 409,
    "no_free_device": 409,
    "no_console": 409,
    "not_supported_by_cloud": 409,
    "root_volume": 409,
    "volume_backed": 409,
    "too_late": 409,
    "not_retryable": 409,
    "name_taken": 409,
    "not_adoptable": 409,
    "username_taken": 409,
    "email_taken": 409,
    "idempotency_key_in_flight": 409,
    "precondition_failed": 412,
    "body_too_large": 413,
    "query_too_long": 414,
    "uri_too_long": 414,
    "unsupported_encoding": 415,
    "unsupported_media_type": 415,
    "unknown_parameter": 422,
    "validation_failed": 422,
    "unknown_reference": 422,
    "ambiguous_name": 422,
    "same_flavor": 422,
    "flavor_too_small": 422,
    "invalid_address": 422,
    "user_data_too_large": 422,
    "volume_too_small": 422,
    "not_bootable": 422,
    "invalid_cursor": 422,
    "page_too_deep": 422,
    "idempotency_key_reused": 422,
    "too_many_requests": 429,
    "too_many_waiting": 429,
    "too_many_failed_logins": 429,
    "head_too_large": 431,
    "internal_error": 500,
    "not_implemented": 501,
    "cloud_unavailable": 503,
    "worker_unavailable": 503,
    "overloaded": 503,
    "database_unavailable": 503,
    "not_ready": 503,
    "shutting_down": 503,
    "http_version_not_supported": 505,
}
RETRY_AFTER = {"Retry-After": "1"}
HEADERS_OF_CODE = {
    "unauthenticated": {"WWW-Authenticate": "Bearer"},
    "invalid_token": {"WWW-Authenticate": 'Bearer error="invalid_token"'},
    "invalid_credentials": {"WWW-Authenticate": "Bearer"},
    "insufficient_scope": {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="write"'},
    "idempotency_key_in_flight": RETRY_AFTER,
    "unsupported_encoding": {"Accept-Encoding": "identity"},
    "body_too_large": {"Connection": "close"},  # the rest of the body is not read
    "unsupported_media_type": {"Accept": "application/json"},
    "too_many_requests": RETRY_AFTER,
    "too_many_waiting": RETRY_AFTER,
    "too_many_failed_logins": RETRY_AFTER,
    "cloud_unavailable": RETRY_AFTER,
    "worker_unavailable": RETRY_AFTER,
    "overloaded": RETRY_AFTER,
    "database_unavailable": RETRY_AFTER,
    "not_ready": RETRY_AFTER,
    "shutting_down": RETRY_AFTER | {"Connection": "close"},
}
# Bytes. The longest legal body is a new VM with all labels, interfaces, groups and user data that are allowed, and an
# escape for each character.
MAX_BODY = 768 * 1024
MEDIA_TYPE = "application/problem+json"
_LONGEST_INSTANCE = 512  # characters; the paths of the service are shorter, but a caller may send one of any length


class ProblemError(Exception):
    """An error that the API itself finds, not a command; it is answered as a problem."""

    def __init__(
        self, code: str, detail: str, errors: Sequence[FieldError] = (), *, retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.errors = errors
        self.retry_after = retry_after


def problem(code: str, detail: str, path: str, **members: Any) -> Response:
    """The answer for a code of STATUS_OF_CODE; `members` are further members of the problem."""
    status = STATUS_OF_CODE[code]
    body = {
        "type": f"urn:openstack-vm-api:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": quote(path[:_LONGEST_INSTANCE]),
        "code": code,
        "request_id": logs.request_id.get(),
        **members,
    }
    return Response(json.dumps(body), status, HEADERS_OF_CODE.get(code), MEDIA_TYPE)


def shutting_down(path: str) -> Response:
    """The answer to a request that this process has no time to finish."""
    detail = "This process is shutting down. It may have carried out the request; repeat it with its Idempotency-Key."
    return problem("shutting_down", detail, path)


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
    answer = _with_errors(error.code, str(error), request.url.path, error.errors)
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


async def _on_service_error(request: Request, error: ServiceError) -> Response:
    return _with_errors(error.code, str(error), request.url.path, _field_errors(error))


def _field_errors(error: ServiceError) -> list[FieldError]:
    return [
        FieldError(
            code=issue.code,
            detail=issue.detail,
            pointer=f"#/{issue.field}",
            candidates=[str(id) for id in issue.candidates] or None,
        )
        for issue in error.fields[: MAX_ERRORS + 1]
    ]


async def _on_invalid_transition(request: Request, error: InvalidTransitionError) -> Response:
    errors = [issue.model_dump(exclude_none=True) for issue in _field_errors(error)]
    answer = problem(
        error.code,
        str(error),
        request.url.path,
        current_status=error.status,
        task_state=error.task_state,
        allowed_actions=error.allowed_actions,
        **({"errors": errors} if errors else {}),
        **({"operation_id": str(error.operation_id)} if error.operation_id else {}),
    )
    if error.operation_id:
        answer.headers.update(RETRY_AFTER)
    return answer


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    errors = [field_errors.from_pydantic(issue) for issue in error.errors()[: MAX_ERRORS + 1]]
    detail = "The request does not have the expected form; `errors` says where."
    return _with_errors("validation_failed", detail, request.url.path, errors)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    if error.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
        return problem("not_found", "There is nothing at this path.", path)
    allow = ", ".join(_methods(request))
    answer = problem("method_not_allowed", f"The methods of this path are: {allow}.", path)
    answer.headers["Allow"] = allow
    return answer


async def _on_database_error(request: Request, error: Exception) -> Response:
    if isinstance(error, IntegrityError) and violated_constraint(error) in owner_references():
        # The foreign key to the owner failed: the account was deleted, but its token has not expired.
        return problem("invalid_token", "This account no longer exists.", request.url.path)
    if not outages.is_outage(error):
        raise error
    request.app.state.vmapi.readiness.note_database_error(error)
    return problem("database_unavailable", "The database cannot do this right now; try again.", request.url.path)


def _with_errors(code: str, detail: str, path: str, errors: Sequence[FieldError]) -> Response:
    if not errors:
        return problem(code, detail, path)
    if len(errors) > MAX_ERRORS:
        detail = f"{detail} Only the first {MAX_ERRORS} errors are shown."
    return problem(code, detail, path, errors=[error.model_dump(exclude_none=True) for error in errors[:MAX_ERRORS]])


def _methods(request: Request) -> list[str]:
    routes = (route for route in request.app.router.routes if isinstance(route, Route))
    here = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    # The only path without a route is the folder of the documentation's files.
    methods = {method for route in here for method in route.methods or ()} or {"GET"}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ProblemError: _on_problem,
    NoSlotError: _on_refused,
    ServiceError: _on_service_error,
    InvalidTransitionError: _on_invalid_transition,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_exception,
    DBAPIError: _on_database_error,
    **dict.fromkeys(outages.UNREACHABLE, _on_database_error),
}
