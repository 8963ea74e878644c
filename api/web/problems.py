"""Answers every error as a problem (RFC 9457): a handler for each exception. `problem_types` has what codes mean."""

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

from api.background.rate_uses import WINDOW
from api.web import field_errors
from api.web.field_errors import MAX_ERRORS
from api.web.models import FieldError
from api.web.problem_types import PROBLEM_TYPES, type_of
from api.web.slots import NoSlotError
from domain import logs
from domain.data import outages, quotas
from domain.data.accounts import owner_references
from domain.data.queries import violated_constraint
from domain.data.time_limit import TooSlowError
from domain.rules.errors import InvalidTransitionError, NotFoundError, ServiceError

STATUS_OF_CODE = {code: kind.status for code, kind in PROBLEM_TYPES.items()}
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
    "rate_limited": RETRY_AFTER,
    "too_many_waiting": RETRY_AFTER,
    "too_many_failed_logins": RETRY_AFTER,
    "api_unavailable": RETRY_AFTER,
    "cloud_unavailable": RETRY_AFTER,
    "worker_unavailable": RETRY_AFTER,
    "identity_provider_unavailable": RETRY_AFTER,
    "overloaded": RETRY_AFTER,
    "search_too_slow": {"Retry-After": "10"},
    "database_unavailable": RETRY_AFTER,
    "not_ready": RETRY_AFTER,
    "shutting_down": RETRY_AFTER | {"Connection": "close"},
}
# Bytes. The longest legal body is a new VM with all labels, interfaces, groups and user data that are allowed, and an
# escape for each character.
MAX_BODY = 832 * 1024
MAX_BODY_OF_LOGINS = 64 * 1024  # bytes; anybody may send these, and their bodies are parsed
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
    """The answer for a code of PROBLEM_TYPES; `members` are further members of the problem."""
    kind = PROBLEM_TYPES[code]
    body = {
        "type": type_of(code),
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": quote(path[:_LONGEST_INSTANCE]),
        "code": code,
        "request_id": logs.request_id.get(),
        **members,
    }
    return Response(json.dumps(body), kind.status, HEADERS_OF_CODE.get(code), MEDIA_TYPE)


def shutting_down(path: str) -> Response:
    """The answer to a request that this process has no time to finish."""
    detail = "This process is shutting down. It may have carried out the request; repeat it with its Idempotency-Key."
    return problem("shutting_down", detail, path)


def body_too_large(path: str, most: int) -> Response:
    """The answer to a body of more bytes than the path takes."""
    return problem("body_too_large", f"A body has at most {most} bytes.", path)


def refusal(code: str, path: str) -> Response:
    """The answer to a request that gets no slot: its caller has `too_many_requests`, or the service is `overloaded`."""
    detail = "The service has too many requests at the moment. Try again."
    if code == "too_many_requests":
        detail = "You have too many requests open at once. Wait until some are answered, then try again."
    return problem(code, detail, path)


def rate_limited(limit: str, quota: int, retry_after: int, path: str) -> Response:
    """The answer to a request whose caller has used up a rate limit."""
    detail = (
        f"You have used up the limit {limit}: {quota} requests, and then {quota / WINDOW:.3g} per second. "
        f"Try again in {retry_after} s."
    )
    answer = problem("rate_limited", detail, path)
    answer.headers["Retry-After"] = str(retry_after)
    return answer


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


async def _on_too_slow(request: Request, _: TooSlowError) -> Response:
    detail = (
        "The service would have to look at too many items for this page. Name one project with `project_id`, ask for "
        "labels that the items have and not only for some that they lack, or give a longer part of the name."
    )
    return problem("search_too_slow", detail, request.url.path)


async def _on_database_error(request: Request, error: Exception) -> Response:
    refusal = quotas.refusal_of(error) if isinstance(error, IntegrityError) else None
    if isinstance(refusal, NotFoundError):
        return problem(refusal.code, str(refusal), request.url.path)
    if refusal is not None:
        numbers = {"quota": refusal.quota, "limit": refusal.limit, "used": refusal.used}
        return problem(refusal.code, str(refusal), request.url.path, **numbers)
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
    # The only paths without a route are the folders of the documentation's files.
    methods = {method for route in here for method in route.methods or ()} or {"GET"}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ProblemError: _on_problem,
    NoSlotError: _on_refused,
    TooSlowError: _on_too_slow,
    ServiceError: _on_service_error,
    InvalidTransitionError: _on_invalid_transition,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_exception,
    DBAPIError: _on_database_error,
    **dict.fromkeys(outages.UNREACHABLE, _on_database_error),
}
