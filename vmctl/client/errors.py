"""What can go wrong. Every exception is a ClientError, and its text is for people."""

from collections.abc import Sequence
from typing import Any, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, ValidationError

from vmctl.client import retries
from vmctl.client.models import Operation, Problem

M = TypeVar("M", bound=BaseModel)
NO_TRIAL = "This cannot be tried: only what makes something or acts on it can"


class ClientError(Exception):
    """The base of all errors of the client."""

    retry_after = 0.0  # seconds that the service asks to wait before the next attempt


class UnusableError(ClientError):
    """The client cannot send requests with what it was given: the URL, the token, or what the environment says."""


class UnusablePathError(UnusableError, ValueError):
    """A name or an id would lead to another path than the one that was meant."""


class EmptyFilterError(UnusableError, ValueError):
    """A filter is empty. Without it everything would be found; whoever wants that gives None, or no filter."""


class UnreachableError(ClientError):
    """No answer came, or none that this service gives. A change may have taken effect or not."""


class UnreadableError(UnreachableError):
    """The service is another one, or of another version: this client cannot read what it answered."""


class ProblemError(ClientError):
    """The service has refused the request; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        places = [f"{error.pointer or error.parameter or error.header}: {error.detail}" for error in problem.errors]
        super().__init__("\n".join([problem.detail, *(f"  {place}" for place in places)]))


class NotFoundError(ClientError):
    """Nothing has this name."""


class AmbiguousNameError(ClientError):
    """Several things have this name; `ids` are theirs."""

    def __init__(self, kind: str, name: str, ids: Sequence[UUID]) -> None:
        self.ids = ids
        listed = "".join(f"\n  {id}" for id in ids)
        super().__init__(f"{len(ids)} {kind} have the name {name}. Use an id:{listed}")


class NoTrialError(ClientError):
    """The change cannot be tried. Only a POST can."""


class OperationError(ClientError):
    """An operation has ended in another way than SUCCEEDED; `operation` says how."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        reason = operation.error.message if operation.error else operation.last_error
        what = f"{operation.action} of {operation.resource_type} {operation.resource_id}"
        super().__init__(f"{what}: {operation.status}" + (f". {reason}" if reason else ""))


class WaitTimeoutError(ClientError):
    """The time for waiting is over. The operations go on; `operation_ids` are those that have not ended."""

    def __init__(self, operation_ids: Sequence[UUID]) -> None:
        self.operation_ids = operation_ids
        super().__init__(f"Still in progress: {', '.join(map(str, operation_ids))}")


def answer_of(response: httpx.Response, model: type[M]) -> M:
    """The answer in its model; UnreadableError if it is none of this service."""
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise unreadable(response.request.url, error) from error


def item_of(response: httpx.Response, item: Any, model: type[M]) -> M:
    """An item of a list in its model; UnreadableError if it is none of this service."""
    try:
        return model.model_validate(item)
    except ValidationError as error:
        raise unreadable(response.request.url, error) from error


def unreadable(source: object, reason: object) -> UnreadableError:
    """The exception for a success that this client cannot read."""
    if isinstance(reason, ValidationError):
        first = reason.errors(include_url=False)[0]  # there may be several for each field of each item
        reason = ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)
    return UnreadableError(f"{source} answered what this version cannot read: {reason}")


def foreign(response: httpx.Response) -> UnreadableError:
    """The exception for a success of something else than the service."""
    return UnreadableError(f"{response.request.url} answered, but not as this service does")


def in_doubt(reason: str, error: ClientError) -> UnreachableError:
    """The exception for a change that was refused after an attempt whose answer was lost for this `reason`."""
    text = f"{reason.rstrip('.')}. That attempt may have made the change; a later one was refused: {error}"
    doubt = UnreachableError(text)
    doubt.retry_after = error.retry_after
    return doubt


def is_final(error: Exception) -> bool:
    """Whether the next attempt would end as this one did."""
    if isinstance(error, ProblemError):
        return not retries.is_passing(error.problem.status)
    return isinstance(error, UnreadableError)


def error_of_trial(response: httpx.Response) -> ClientError:
    """The exception for an answer to a trial that is no success: NoTrialError if the service knows no such trial."""
    error = error_of(response)
    if isinstance(error, ProblemError) and "validate_only" in [item.parameter for item in error.problem.errors]:
        return NoTrialError(NO_TRIAL)
    return error


def error_of(response: httpx.Response) -> ClientError:
    """The exception for an answer that is no success."""
    error: ClientError
    try:
        error = ProblemError(Problem.model_validate_json(response.content))
    except ValidationError:
        # For example the page of a proxy. Its text may be long, and it is not for people at a terminal.
        kind = UnreachableError if retries.is_passing(response.status_code) else UnreadableError
        error = kind(f"{response.request.url} answered {response.status_code} {response.reason_phrase}")
    error.retry_after = retries.wanted_delay(response)
    return error
