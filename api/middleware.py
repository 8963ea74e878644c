"""What every request gets, before and after its route: an id, a line in the log, a bounded body, a last resort."""

import logging
import re
from time import perf_counter
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors, logs

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestContext:
    """Give the request its id, echo it on the answer, log one line, and turn a bug into a problem."""

    def __init__(self, app: ASGIApp, *, debug: bool) -> None:
        self.app = app
        self.debug = debug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = perf_counter()
        status = 0
        request_id = _request_id(scope)
        logs.request_id.set(request_id)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            logger.exception("unhandled error")
            if status:
                raise
            detail = repr(error) if self.debug else "The request failed; its id finds the reason in the log."
            await errors.problem("internal_error", detail, scope["path"])(scope, receive, send_with_id)
        finally:
            path = scope["raw_path"].decode("latin-1")
            logger.info("%s %s %d %.1fms", scope["method"], path, status, 1000 * (perf_counter() - began))


class BodyLimit:
    """Refuse a body of more than errors.MAX_BODY bytes, as soon as it says so or turns out so."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received = 0

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > errors.MAX_BODY:
                raise HTTPException(413)  # the one kind that FastAPI lets through while it reads a body
            return message

        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > errors.MAX_BODY:
            await errors.body_too_large(scope["path"])(scope, receive, send)
        else:
            await self.app(scope, bounded_receive, send)


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else str(uuid4())
