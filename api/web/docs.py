"""Swagger UI, served from an installed package, so that it works without internet access, and a login above it."""

import json
from html import escape
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from api import PREFIX

_ASSETS = f"{PREFIX}/docs/assets"  # those of Swagger UI
FILES = f"{PREFIX}/docs/files"  # our own
# The page loads only what this service serves, and no page may show it in a frame. Swagger UI draws its icons from
# `data:` addresses.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}}</title>
<link rel="stylesheet" href="{_ASSETS}/swagger-ui.css">
<link rel="stylesheet" href="{FILES}/docs.css">
<link rel="icon" href="{_ASSETS}/favicon-32x32.png">
</head>
<body>
<form id="login" data-auth="{PREFIX}/auth">
<fieldset>
<label>Username <input name="username" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button>
</fieldset>
<fieldset hidden disabled>You are <b></b>. <button>Log out</button></fieldset>
<output></output>
</form>
<div id="swagger-ui" data-options="{{options}}"></div>
<script src="{_ASSETS}/swagger-ui-bundle.js"></script>
<script src="{FILES}/docs.js"></script>
</body>
</html>
"""
# Without `persistAuthorization` a token is kept in memory only and is gone when the page is closed.
_OPTIONS = {
    "url": f"{PREFIX}/openapi.json",
    "dom_id": "#swagger-ui",
    "deepLinking": True,
    "displayRequestDuration": True,
    "showExtensions": True,
    "showCommonExtensions": True,
    "validatorUrl": None,
}


class _Files(StaticFiles):
    """Files, always whole: a server may ignore Range (RFC 9110, section 14.2).

    Starlette answers a range that it does not understand with an error that is no problem document.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file at this path."""
        answer = await super().get_response(path, scope)
        answer.headers["Accept-Ranges"] = "none"
        return answer


def install(app: FastAPI) -> None:
    """Serve Swagger UI at /docs under the prefix."""
    page = _PAGE.format(title=escape(app.title), options=escape(json.dumps(_OPTIONS)))

    async def swagger_ui() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    app.add_api_route(f"{PREFIX}/docs", swagger_ui, include_in_schema=False)
    app.mount(_ASSETS, _Files(packages=[("fastapi_swagger", "resources")]))
    app.mount(FILES, _Files(directory=Path(__file__).with_name("static")))
