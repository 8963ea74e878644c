"""What all answers have in common: HEAD, security headers, caching, CORS, and the page of the documentation."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from html import unescape
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route

from api.web.problems import HEADERS_OF_CODE, MAX_BODY
from api.web.slots import NoSlotError, Slots
from domain.settings import Settings
from tests.api.conftest import PASSWORD, Person, client_of, running
from tests.conftest import make_settings

ORIGIN = "https://shop.example"
VARYING = {"x-request-id", "date", "ratelimit"}


def fixed(answer: httpx.Response) -> dict[str, str]:
    """The headers that two equal requests have in common."""
    return {name: value for name, value in answer.headers.items() if name not in VARYING}


async def test_head_is_answered_as_get_without_the_body_on_every_path(app: FastAPI, ada: Person) -> None:
    vm = await ada.create()
    routes = [route for route in app.router.routes if isinstance(route, Route) and "GET" in (route.methods or ())]
    assert len(routes) > 20
    for route in routes:
        if route.path.endswith("/events"):
            continue  # a GET has no end
        path = "http://api" + route.path_format.format(**dict.fromkeys(route.param_convertors, vm["id"]))
        get, head = await ada.http.get(path), await ada.http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        if "ready" not in path:  # it measures anew each time
            assert fixed(head) == fixed(get), path
        assert int(head.headers["Content-Length"]) > 0


async def test_head_of_a_stream_of_events_ends_with_its_headers(ada: Person) -> None:
    async with asyncio.timeout(10):
        head = await ada.http.head("/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"].startswith("text/event-stream")


async def test_head_of_the_documentation_and_of_errors(anyone: httpx.AsyncClient) -> None:
    for path in ("/docs/assets/swagger-ui.css", "/vms", "/nothing", "/auth/login", "/docs/assets/none"):
        get, head = await anyone.get(path), await anyone.head(path)
        assert (head.status_code, head.content, fixed(head)) == (get.status_code, b"", fixed(get))


async def test_the_methods_of_a_path_include_head_wherever_there_is_get(anyone: httpx.AsyncClient) -> None:
    for path, allow in {
        "/vms": "GET, HEAD, POST",
        "/auth/login": "POST",
        "/health": "GET, HEAD",
        "/docs": "GET, HEAD",
        "/docs/assets/swagger-ui.css": "GET, HEAD",
    }.items():
        answer = await anyone.put(path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, allow)
        assert answer.json()["detail"] == f"The methods of this path are: {allow}."


async def test_the_openapi_document_has_no_head_and_no_documentation(app: FastAPI) -> None:
    assert all(set(item) <= {"get", "post", "put", "patch", "delete"} for item in app.openapi()["paths"].values())
    assert not [path for path in app.openapi()["paths"] if "/docs" in path]


async def test_every_answer_has_the_security_headers(anyone: httpx.AsyncClient, ada: Person) -> None:
    for answer in [
        await anyone.get("/health"),
        await anyone.get("/nothing"),
        await anyone.get("/vms"),
        await anyone.post("/auth/login", content=b"x" * (MAX_BODY + 1)),
        await anyone.get("/openapi.json"),
        await anyone.get("/docs"),
        await anyone.get("/docs/assets/swagger-ui-bundle.js"),
        await ada.http.get("/vms"),
        await ada.http.get("/vms?x=1"),
    ]:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "private, no-cache" or "/auth/" in str(answer.url)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


async def test_no_cache_stores_an_answer_with_tokens(anyone: httpx.AsyncClient) -> None:
    account = {"username": "carl", "email": "carl@example.com", "password": PASSWORD}
    registered = await anyone.post("/auth/register", json=account)
    login = await anyone.post("/auth/login", json={"username": "carl", "password": PASSWORD})
    refreshed = await anyone.post("/auth/refresh", json={"refresh_token": login.json()["refresh_token"]})
    wrong = await anyone.post("/auth/login", json={"username": "carl", "password": "no"})
    for answer, status in [(registered, 201), (login, 200), (refreshed, 200), (wrong, 401)]:
        assert (answer.status_code, answer.headers["Cache-Control"]) == (status, "no-store")


async def test_a_bug_is_answered_with_the_headers_of_every_answer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_settings(settings.database_url, cors_allow_origins=ORIGIN)) as app:
        monkeypatch.setattr(app.state, "vmapi", None)
        answer = await client_of(app).get("/health", headers={"Origin": ORIGIN})
    assert answer.status_code == 500
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert answer.headers["X-Request-Id"]


async def test_the_documentation_page_has_no_script_or_style_of_its_own(anyone: httpx.AsyncClient) -> None:
    """Its policy forbids them, so that a text of the API that found its way into the page could not run."""
    page = (await anyone.get("/docs")).text
    assert re.findall(r"<script(?! src=\"/api/v1/docs/)[^>]*>|<style|\son\w+=|style=", page) == []
    script = await anyone.get("/docs/files/docs.js")
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert "Storage" not in script.text
    options = json.loads(unescape(re.findall('data-options="([^"]*)"', page)[0]))
    assert options["url"] == "/api/v1/openapi.json"
    assert not options.get("persistAuthorization"), "a token in the browser's storage outlives the page"


async def test_the_openapi_document_is_rendered_once(
    app: FastAPI, anyone: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await anyone.get("/openapi.json")
    assert first.json() == app.openapi()
    monkeypatch.setattr(app, "openapi", None)
    assert (await anyone.get("/openapi.json")).content == first.content


@pytest.mark.parametrize(
    "wanted", ["bytes=0-1", "bytes=9-1", "bytes=x", "bytes=999999999-", "lines=1-2", "bytes=0-0,2-2"]
)
async def test_a_file_of_the_documentation_is_always_sent_whole(anyone: httpx.AsyncClient, wanted: str) -> None:
    path = "/docs/assets/swagger-ui.css"
    answer, whole = await anyone.get(path, headers={"Range": wanted}), await anyone.get(path)
    assert (answer.status_code, answer.content, fixed(answer)) == (200, whole.content, fixed(whole))
    assert answer.headers["Accept-Ranges"] == "none"


async def test_the_name_of_the_service_is_text_in_the_documentation_page(settings: Settings) -> None:
    async with running(make_settings(settings.database_url, app_name="</title><script>alert(1)</script>")) as app:
        page = await client_of(app).get("/docs")
    assert "<script>alert" not in page.text


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A page of an origin that the settings allow; it has no token."""
    async with running(make_settings(settings.database_url, cors_allow_origins=f"{ORIGIN},https://b.example")) as app:
        client = client_of(app)
        client.headers["Origin"] = ORIGIN
        yield client


async def preflight(page: httpx.AsyncClient, method: str = "POST", headers: str = "authorization") -> httpx.Response:
    """The browser's question whether the page may send such a request."""
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return await page.options("/vms", headers=asked)


async def test_a_page_of_an_allowed_origin_may_send_every_request(shop: httpx.AsyncClient) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        answer = await preflight(shop, method, "authorization, content-type, idempotency-key, x-request-id")
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert answer.headers["Vary"].startswith("Origin")


async def test_a_page_of_an_allowed_origin_may_call_a_service_in_a_private_network(shop: httpx.AsyncClient) -> None:
    """Chrome asks for that if the page itself is public."""
    shop.headers["Access-Control-Request-Private-Network"] = "true"
    answer = await preflight(shop)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Private-Network"]) == (200, "true")


@pytest.mark.parametrize(
    ("origin", "method", "headers"),
    [
        (ORIGIN, "TRACE", "authorization"),
        (ORIGIN, "POST", "x-other"),
        (ORIGIN, "POST", "authorization, x-other"),
        *(
            (origin, "POST", "authorization")
            for origin in ("null", f"{ORIGIN}/", f"{ORIGIN}:443", "https://SHOP.example")
        ),
    ],
)
async def test_a_preflight_that_is_refused_is_a_problem(
    shop: httpx.AsyncClient, origin: str, method: str, headers: str
) -> None:
    shop.headers["Origin"] = origin
    answer = await preflight(shop, method, headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "preflight_refused")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-Id"] == answer.json()["request_id"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Vary"].startswith("Origin")
    assert answer.headers.get("Access-Control-Allow-Origin") == (ORIGIN if origin == ORIGIN else None)
    assert ("CORS_ALLOW_ORIGINS" in answer.json()["detail"]) == (origin != ORIGIN)
    assert ("The headers that it may send: " in answer.json()["detail"]) == (origin == ORIGIN)


def named_headers(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The headers of the API's description: where they are, and their names."""
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "header":
                yield "request", parameter["name"].lower()
        for response in operation["responses"].values():
            yield from (("answer", name.lower()) for name in response.get("headers", {}))


async def test_a_page_may_send_every_header_that_the_api_reads_and_read_every_one_that_it_sends(
    app: FastAPI, shop: httpx.AsyncClient
) -> None:
    named = set(named_headers(app.openapi()))
    sent = {name for place, name in named if place == "request"}
    assert sent >= {"if-match", "last-event-id", "idempotency-key"}
    answer = await preflight(shop, "GET", ", ".join(sorted({*sent, "authorization", "if-none-match"})))
    assert (answer.status_code, answer.text) == (200, "OK")
    shown = set((await shop.get("/health")).headers["Access-Control-Expose-Headers"].lower().split(", "))
    of_problems = {name.lower() for headers in HEADERS_OF_CODE.values() for name in headers}
    assert {name for place, name in named if place == "answer"} | of_problems - {"connection"} <= shown


async def test_a_page_of_an_allowed_origin_reads_answers_and_problems_with_their_headers(
    shop: httpx.AsyncClient,
) -> None:
    for path, status in [("/health", 200), ("/vms", 401), ("/nothing", 404), ("/vms?" + "x" * 9000, 401)]:
        answer = await shop.get(path)
        assert answer.status_code in {status, 414}
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Access-Control-Allow-Credentials" not in answer.headers
        shown = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
        assert shown >= {"Location", "Operation-Location", "Retry-After", "Link", "X-Request-Id", "RateLimit"}
        assert shown >= {"Idempotency-Replayed", "WWW-Authenticate"}


async def test_a_page_reads_that_the_service_is_overloaded_and_its_preflight_needs_no_slot(
    shop: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_slots: Slots, _caller: str, _rank: float) -> None:
        raise NoSlotError("overloaded")

    monkeypatch.setattr(Slots, "acquire", refuse)
    answer = await shop.get("/vms")
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (503, ORIGIN)
    assert (await preflight(shop)).status_code == 200


async def test_a_page_of_another_origin_reads_nothing(shop: httpx.AsyncClient, anyone: httpx.AsyncClient) -> None:
    shop.headers["Origin"] = "https://shop.example.evil"
    assert "Access-Control-Allow-Origin" not in (await preflight(shop)).headers
    assert "Access-Control-Allow-Origin" not in (await shop.get("/health")).headers
    # Without the setting, no origin may.
    answer = await anyone.get("/health", headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert (await preflight(anyone)).status_code == 405


async def test_a_star_allows_every_origin_but_never_credentials(settings: Settings) -> None:
    async with running(make_settings(settings.database_url, cors_allow_origins="*")) as app:
        for origin in (ORIGIN, "null"):
            answer = await client_of(app).get("/vms", headers={"Origin": origin, "Cookie": "a=b"})
            assert answer.headers["Access-Control-Allow-Origin"] in {"*", origin}
            assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_every_route_is_of_the_class_that_checks_requests(app: FastAPI) -> None:
    described = [route for route in app.router.routes if isinstance(route, APIRoute) and route.include_in_schema]
    assert {type(route).__name__ for route in described} == {"Endpoint"}
