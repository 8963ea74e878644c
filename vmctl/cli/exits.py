"""The exit codes, and what a person reads for each error."""

from collections.abc import Iterable
from http import HTTPStatus

from vmctl.client.errors import (
    ClientError,
    NotFoundError,
    OperationError,
    ProblemError,
    UnusableError,
    WaitTimeoutError,
)

REFUSED = 1  # and everything that has no code of its own
OPERATION_FAILED = 2
NOT_LOGGED_IN = 3
NOT_FOUND = 4
USAGE = 64
TIMED_OUT = 124
INTERRUPTED = 130


class ReportedError(Exception):
    """Something has failed, and the person knows; only the exit code is left to give."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def code_of(error: ClientError) -> int:
    """The exit code for an error."""
    if isinstance(error, OperationError):
        return OPERATION_FAILED
    if isinstance(error, WaitTimeoutError):
        return TIMED_OUT
    if isinstance(error, NotFoundError):
        return NOT_FOUND
    if isinstance(error, UnusableError):
        return USAGE
    if isinstance(error, ProblemError):
        by_status: dict[int, int] = {HTTPStatus.UNAUTHORIZED: NOT_LOGGED_IN, HTTPStatus.NOT_FOUND: NOT_FOUND}
        return by_status.get(error.problem.status, REFUSED)
    return REFUSED


def code_of_all(errors: Iterable[ClientError]) -> int:
    """The exit code for several errors. "There is no such thing" is said only if nothing else is wrong."""
    codes = {code_of(error) for error in errors}
    return max(codes - {NOT_FOUND} or codes)


def text_of(error: ClientError) -> str:
    """The text for an error, with what to do next where that is known."""
    lines = [str(error), *getattr(error, "__notes__", [])]
    if isinstance(error, WaitTimeoutError):
        lines.append(how_to_go_on(*map(str, error.operation_ids)))
    if isinstance(error, OperationError):
        lines.append(f"More about it: vmctl op show {error.operation.id}")
    if isinstance(error, ProblemError):
        problem = error.problem
        if problem.operation_id:
            lines.append(f"It has to wait for an operation: vmctl op wait {problem.operation_id}")
        if problem.status == HTTPStatus.UNAUTHORIZED and problem.code != "invalid_credentials":
            lines.append("Log in with `vmctl login`, or set VMCTL_TOKEN.")
        lines.append(f"({problem.code}, request {problem.request_id})")
    return "\n".join(lines)


def how_to_go_on(*ids: str) -> str:
    """What to type to wait again for operations."""
    return f"Wait again with: vmctl op wait {' '.join(ids)}"
