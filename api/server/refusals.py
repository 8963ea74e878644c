"""Answers of the server itself, as bytes: problems for requests that never reach the application."""

import contextvars
import logging
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api.server.heads import Fields, RefusedError
from api.web import problems
from api.web.headers import OF_EVERY_ANSWER
from domain import logs

logger = logging.getLogger(__name__)

# As the application's answers have them. Nobody knows what was asked for, so no cache may keep the answer.
_HEADERS = OF_EVERY_ANSWER | {"Cache-Control": "no-store"}


def refusal(error: RefusedError, default_headers: Fields, address: str) -> bytes:
    """The answer to a request that is refused, with an id of its own, and a line in the log."""
    # In a copy of the context, because the id of this request must not stay in that of the connection.
    return contextvars.copy_context().run(_refusal, error, default_headers, address)


def _refusal(error: RefusedError, default_headers: Fields, address: str) -> bytes:
    request_id = str(uuid4())
    logs.request_id.set(request_id)
    answer = problems.problem(error.code, str(error), "/")
    logger.info("refused %d %s, from %s", answer.status_code, error.code, address)
    answer.headers.update({**_HEADERS, "X-Request-Id": request_id, "Connection": "close"})
    lines = [name + b": " + value for name, value in (*default_headers, *answer.raw_headers)]
    return STATUS_LINE[answer.status_code] + b"\r\n".join([*lines, b"", bytes(answer.body)])
