"""The catalogue of problems as web pages: a list, and a page for each code, which is the `type` of its problems."""

import asyncio
import json
import re
from functools import cache
from html import escape
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from api import PREFIX
from api.web import examples
from api.web.docs import FILES
from api.web.problem_types import PAGES, PROBLEM_TYPES, type_of
from api.web.problems import HEADERS_OF_CODE, ProblemError

_POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{style}">
</head>
<body>
{body}
</body>
</html>
"""


def install(app: FastAPI) -> None:
    """Serve the pages below /docs/problems, readable without JavaScript."""

    @cache
    def page(code: str | None) -> str:
        return _list() if code is None else _page_of(code, app.openapi())

    making = asyncio.Lock()

    async def list_problems() -> HTMLResponse:
        return HTMLResponse(page(None), headers={"Content-Security-Policy": _POLICY})

    async def show_problem(request: Request) -> HTMLResponse:
        code = request.path_params["code"]
        if code not in PROBLEM_TYPES:
            raise ProblemError("not_found", "There is no such problem.")
        async with making:  # one at a time, and beside other requests: the first takes a second
            text = await asyncio.to_thread(page, code)
        return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY})

    app.add_api_route(PAGES, list_problems, include_in_schema=False)
    app.add_api_route(f"{PAGES}/{{code}}", show_problem, include_in_schema=False)


def _list() -> str:
    rows = [
        f'<tr><td>{kind.status}</td><td><a href="{type_of(code)}"><code>{code}</code></a></td>'
        f"<td>{escape(kind.title)}</td></tr>"
        for code, kind in PROBLEM_TYPES.items()
    ]
    return _html(
        "Problems",
        "<p>Every error is a problem (RFC 9457). Its <code>type</code> is the path of one of these pages.</p>",
        "<table>\n<thead><tr><th>Status</th><th>Code</th><th>Title</th></tr></thead>",
        *("<tbody>", *rows, "</tbody>\n</table>"),
        f'<p><a href="{PREFIX}/docs">All requests</a></p>',
    )


def _page_of(code: str, document: dict[str, Any]) -> str:
    kind = PROBLEM_TYPES[code]
    facts = {
        "Code": f"<code>{code}</code>",
        "Status": f"{kind.status} {HTTPStatus(kind.status).phrase}",
        "What it means": _text(kind.meaning),
        "What to do": _text(kind.advice),
        "Does a retry help?": _text(kind.retry),
    }
    if code in HEADERS_OF_CODE:
        facts["Headers"] = ", ".join(f"<code>{escape(name)}</code>" for name in HEADERS_OF_CODE[code])
    requests = _requests(code, document)
    return _html(
        kind.title,
        *("<dl>", *(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items()), "</dl>"),
        f"<h2>Example</h2>\n<pre>{escape(json.dumps(examples.of_problem(code), indent=2))}</pre>",
        *(["<h2>Requests that may get it</h2>", "<ul>", *requests, "</ul>"] if requests else []),
        f'<p><a href="{PAGES}">All problems</a></p>',
    )


def _requests(code: str, document: dict[str, Any]) -> list[str]:
    """A list item for each request that the OpenAPI document says may be answered with this code."""
    return [
        f'<li><a href="{PREFIX}/docs#/{operation["tags"][0]}/{operation["operationId"]}">'
        f"<code>{method.upper()} {escape(path)}</code></a></li>"
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if code in operation["x-problem-codes"]
    ]


def _html(title: str, *parts: str) -> str:
    """A page with this heading; the parts are HTML."""
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return _PAGE.format(title=escape(title), style=f"{FILES}/problems.css", body=body)


def _text(markdown: str) -> str:
    """The text as HTML; the only Markdown in it is `code`."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(markdown, quote=False))
