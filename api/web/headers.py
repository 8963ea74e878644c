"""Middlewares for what every answer has in common: security headers, CORS, and the answers to HEAD."""

from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import PREFIX
from api.web import problems
from api.web.middleware import RequestContext

# Headers that a page of another origin may send, beyond those that every page may.
_SENT = (
    *("Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id"),
    *("If-Match", "If-None-Match", "Last-Event-ID"),
)
# Headers of answers that such a page may read.
_SHOWN = (
    "Accept",
    "Accept-Encoding",
    "Allow",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "Operation-Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
)
_PREFLIGHT_AGE = 600  # seconds
CODEC = f"{PREFIX}/codec"
_TOKEN_PATHS = (f"{PREFIX}/auth/", f"{PREFIX}/tokens", CODEC)
# Headers of every answer, which keep browsers and caches from misusing it. A JSON document needs nothing and is part of
# no page; the documentation page has a policy of its own. A cache may keep an answer for the caller's own use, but has
# to ask each time whether it is current.
OF_EVERY_ANSWER = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class ResponseHeaders:
    """Give every answer the headers OF_EVERY_ANSWER, unless it has its own, and keep tokens out of caches."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        storing = {"Cache-Control": "no-store"} if scope["path"].startswith(_TOKEN_PATHS) else {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in (OF_EVERY_ANSWER | storing).items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class HeadAsGet:
    """Answer HEAD as GET, without the body; the headers are the same."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        is_answered = False

        async def send_without_body(message: Message) -> None:
            # The answer is complete with this, so `receive` tells a stream of events that its client has left.
            nonlocal is_answered
            if message["type"] != "http.response.body":
                await send(message)
            elif not is_answered:
                is_answered = True
                await send({"type": message["type"], "body": b""})

        # A copy, because the server and the log need to know that it was HEAD.
        await self.app({**scope, "method": "GET"}, receive, send_without_body)


class _RefusedPreflight(Response):
    """What Starlette answers to a preflight that it refuses, as a problem and not as plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await RequestContext(self._answer, debug=False)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "access-control-allow-origin" in self.headers:
            methods, sent = (self.headers.get(f"access-control-allow-{what}", "any") for what in ("methods", "headers"))
            hint = f"The methods that a page may use: {methods}. The headers that it may send: {sent}."
        else:
            setting = "TEMPORAL_UI_URL" if scope["path"].startswith(CODEC) else "CORS_ALLOW_ORIGINS"
            hint = f"{setting} has the origins whose pages may call this service."
        detail = f"{bytes(self.body).decode()}. {hint}"
        answer = problems.problem("preflight_refused", detail, scope["path"])
        for name, value in self.headers.items():
            answer.headers.setdefault(name, value)
        await answer(scope, receive, send)


class _Cors(CORSMiddleware):
    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        is_allowed = answer.status_code == HTTPStatus.OK
        return answer if is_allowed else _RefusedPreflight(answer.body, headers=answer.headers)


class Cors:
    """Let pages of `origins` call the API, and those of Temporal's Web UI the codec, and only that.

    Credentials of the browser, such as cookies, are never allowed.
    """

    def __init__(self, app: ASGIApp, *, origins: tuple[str, ...], web_ui: str | None) -> None:
        self._api = app
        self._codec = app
        if origins:
            methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
            allowed: dict[str, Any] = {"allow_methods": methods, "allow_headers": _SENT, "allow_private_network": True}
            self._api = _Cors(app, origins, expose_headers=_SHOWN, max_age=_PREFLIGHT_AGE, **allowed)
        if web_ui:
            origin = "{0.scheme}://{0.netloc}".format(urlsplit(web_ui))
            # The Web UI decides which headers it sends, and each of its versions may send others.
            self._codec = _Cors(app, (origin,), ("POST",), ("*",), max_age=_PREFLIGHT_AGE, allow_private_network=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_codec = scope["type"] == "http" and scope["path"].startswith(CODEC)
        await (self._codec if is_codec else self._api)(scope, receive, send)
