"""Middlewares around every route: request id, log line, error answer, buffered body."""

import asyncio
import logging
import re
from time import perf_counter
from typing import cast
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import PREFIX
from api.web import problems
from api.web.origin import address_of
from domain import logs

logger = logging.getLogger(__name__)

HEALTH_PATHS = {f"{PREFIX}/health", f"{PREFIX}/health/live", f"{PREFIX}/health/ready"}
LOGIN_PATHS = {f"{PREFIX}/auth/register", f"{PREFIX}/auth/login", f"{PREFIX}/auth/refresh"}
_FIRST_ERROR = 400  # the lowest status of an error
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")  # anything else could forge lines in the log


class RequestContext:
    """Give the request an id, return the id with the answer, log one line, and turn an exception into a problem.

    A health check is logged only if it fails: it comes every few seconds and says nothing otherwise. Requests beyond a
    rate limit have few lines of their own.
    """

    def __init__(self, app: ASGIApp, *, debug: bool) -> None:
        self.app = app
        self.debug = debug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_at = perf_counter()
        status = 0
        request_id = _request_id(scope)
        logs.has_line.set(True)
        # All of them, because the task of a pipelined request inherits those of the request before it.
        for variable, value in ((logs.request_id, request_id), (logs.operation_id, "-"), (logs.user, "-")):
            variable.set(value)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                logs.operation_id.set(headers.get("Operation-Location", "-").rpartition("/")[2])
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # Only api/server cancels requests: at shutdown those that need longer than its grace, and before that
            # those whose connection it has cut, which get no answer.
            cast("asyncio.Task[None]", asyncio.current_task()).uncancel()
            if not status:
                await problems.shutting_down(scope["path"])(scope, receive, send_with_id)
        except Exception as error:
            logger.exception("unhandled error")
            if status:
                raise  # the answer has started, so the server can only cut the connection
            await self._internal_error(error, scope["path"])(scope, receive, send_with_id)
        finally:
            if logs.has_line.get():
                _log(scope, status, 1000 * (perf_counter() - started_at))

    def _internal_error(self, error: Exception, path: str) -> Response:
        detail = repr(error) if self.debug else "Internal error. The log has the reason under this request id."
        return problems.problem("internal_error", detail, path)


def _log(scope: Scope, status: int, milliseconds: float) -> None:
    if scope["path"] not in HEALTH_PATHS or status >= _FIRST_ERROR:
        path = scope["raw_path"].decode("latin-1")
        logger.info("%s %s %d %.1fms %s", scope["method"], path, status, milliseconds, address_of(scope))


class BufferedBody:
    """Read the whole body before the request goes on, and refuse one of more bytes than the path takes.

    Admission comes after this, so that a client that sends its body slowly, or never, holds no slot meanwhile.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, unless the client disconnects before the end of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        most = problems.MAX_BODY_OF_LOGINS if scope["path"] in LOGIN_PATHS else problems.MAX_BODY
        is_too_large = declared.isdecimal() and int(declared) > most
        # Nothing but this list keeps the body, and only until it is read.
        buffered = [] if is_too_large else await _whole(scope["method"], receive, most)
        if not buffered:
            await problems.body_too_large(scope["path"], most)(scope, receive, send)
            return
        if buffered[0]["type"] == "http.disconnect":
            return

        async def receive_buffered() -> Message:
            return buffered.pop() if buffered else await receive()

        await self.app(scope, receive_buffered, send)


async def _whole(method: str, receive: Receive, most: int) -> list[Message]:
    """The whole body as one message, a disconnect in its place, or nothing if it has more than `most` bytes."""
    body, more = bytearray(), True  # bytes would be copied for each part, and a part may be a byte
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return [message]
        body += message.get("body", b"")
        if len(body) > most:  # Content-Length may be absent
            return []
        more = message.get("more_body", False)
    # The body of a GET means nothing (RFC 9110, section 9.3.1), and a stream of events would keep it for hours.
    kept = b"" if method in {"GET", "HEAD"} else bytes(body)
    return [{"type": "http.request", "body": kept, "more_body": False}]


def _request_id(scope: Scope) -> str:
    received = Headers(scope=scope).get("x-request-id", "")
    return received if _REQUEST_ID.fullmatch(received) else str(uuid4())
