"""What every request gets, before and after its route: an id, a line in the log, a bounded body, a last resort."""

import contextlib
import logging
import re
from time import perf_counter
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import PREFIX
from api.web import logs, problems
from api.web.admission import NoSlotError, Slots
from api.web.security import InvalidTokenError, Signing, verify

logger = logging.getLogger(__name__)

_ALWAYS = {f"{PREFIX}/health", f"{PREFIX}/health/live", f"{PREFIX}/health/ready"}
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
            await problems.problem("internal_error", detail, scope["path"])(scope, receive, send_with_id)
        finally:
            path = scope["raw_path"].decode("latin-1")
            logger.info("%s %s %d %.1fms", scope["method"], path, status, 1000 * (perf_counter() - began))


class Body:
    """Read the whole body before anything is held for its request, however slowly it comes.

    One of more than problems.MAX_BODY bytes is refused, as soon as it says so or turns out so.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; none where its sender goes away before its end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        is_too_large = declared.isdecimal() and int(declared) > problems.MAX_BODY
        body, more = b"", not is_too_large
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            is_too_large = len(body) > problems.MAX_BODY
            more = message.get("more_body", False) and not is_too_large
        if is_too_large:
            await problems.body_too_large(scope["path"])(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, receive_again, send)


class Admission:
    """Let in as many requests as can be served, the rest in turn or not at all; who asks for health always may.

    A place is given back when the answer begins: what is left to do then needs no database.
    """

    def __init__(self, app: ASGIApp, *, slots: Slots, signing: Signing) -> None:
        self.app = app
        self.slots = slots
        self.signing = signing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self.app(scope, receive, send)
            return
        with contextlib.ExitStack() as place:
            caller = _caller(scope, self.signing)
            try:
                await self.slots.acquire(caller)
            except NoSlotError as refused:
                await problems.refusal(refused.code, scope["path"])(scope, receive, send)
                return
            place.callback(self.slots.release, caller)

            async def leave_and_send(message: Message) -> None:
                place.close()
                await send(message)

            await self.app(scope, receive, leave_and_send)


def _caller(scope: Scope, signing: Signing) -> str:
    """The user that the token names, or else the address that the request comes from."""
    kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        with contextlib.suppress(InvalidTokenError):
            return str(verify(signing, "access", token).caller.id)
    return address_of(scope)


def address_of(scope: Scope) -> str:
    """Where a request comes from; all who come over one socket in the file system are one."""
    client = scope.get("client")
    return client[0] if client else ""


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else str(uuid4())
