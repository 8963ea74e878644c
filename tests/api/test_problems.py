"""Every error is answered as a problem (RFC 9457) with the id of its request."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI, Request

from api.web.problems import MAX_BODY, STATUS_OF_CODE
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, client_of, pointers, running
from tests.conftest import make_settings

JSON = {"Content-Type": "application/json"}


def check_problem(answer: httpx.Response, status: int, code: str) -> None:
    """Check that the answer is this problem, complete and consistent."""
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-Id"] == problem["request_id"]
    assert problem["type"].endswith(code)
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == answer.request.url.path
    assert STATUS_OF_CODE[code] == status


async def test_an_unknown_path_is_not_found(anyone: httpx.AsyncClient) -> None:
    check_problem(await anyone.get("/nothing"), 404, "not_found")
    check_problem(await anyone.get("/vms/"), 404, "not_found")
    check_problem(await anyone.get("http://api/"), 404, "not_found")


async def test_an_unknown_method_gets_405_with_the_allowed_methods(anyone: httpx.AsyncClient) -> None:
    answer = await anyone.put(f"/vms/{uuid4()}")
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, PATCH"


async def test_a_protected_path_needs_a_token(anyone: httpx.AsyncClient) -> None:
    answer = await anyone.get("/vms")
    check_problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_an_unknown_id_is_not_found(ada: Person) -> None:
    for path in ("/vms", "/operations", "/flavors", "/images", "/networks"):
        check_problem(await ada.http.get(f"{path}/{uuid4()}"), 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"name": }', b"\xff\xfe", b"[" * 60_000, b"9" * 5000, b'{"a":' * 9000],
    ids=["cut off", "no value", "not UTF-8", "deep array", "huge number", "deep object"],
)
async def test_a_body_that_is_not_json_is_malformed(ada: Person, body: bytes) -> None:
    check_problem(await ada.http.post("/vms", content=body, headers=JSON), 400, "malformed_body")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
async def test_a_body_of_another_media_type_is_refused(ada: Person, media_type: str | None) -> None:
    body = f'{{"name": "x", "flavor_id": "{FLAVOR}"}}'.encode()
    answer = await ada.http.post("/vms", content=body, headers={"Content-Type": media_type} if media_type else {})
    check_problem(answer, 415, "unsupported_media_type")


async def test_a_body_may_have_exactly_the_maximum_size(ada: Person) -> None:
    start, end = b'{"name": "', f'", "flavor_id": "{FLAVOR}"}}'.encode()
    longest = MAX_BODY - len(start) - len(end)
    for size, status, code in [(longest, 422, "validation_failed"), (longest + 1, 413, "body_too_large")]:
        body = start + b"x" * size + end
        check_problem(await ada.http.post("/vms", content=body, headers=JSON), status, code)

        async def chunks(body: bytes = body) -> AsyncIterator[bytes]:
            for start in range(0, len(body), 4096):
                yield body[start : start + 4096]

        chunked = await ada.http.post("/vms", content=chunks(), headers=JSON)
        assert "Content-Length" not in chunked.request.headers
        check_problem(chunked, status, code)


async def test_a_valid_request_id_is_kept_and_an_invalid_one_is_replaced(anyone: httpx.AsyncClient) -> None:
    sent = await anyone.get("/health", headers={"X-Request-Id": "build-7_a.b"})
    assert sent.headers["X-Request-Id"] == "build-7_a.b"
    for invalid in ("", "with space", "x" * 129, "a;b", 'a"b'):
        generated = (await anyone.get("/vms", headers={"X-Request-Id": invalid})).headers["X-Request-Id"]
        assert UUID(generated).version == 4


async def test_concurrent_requests_keep_their_own_ids(ada: Person) -> None:
    ids = [f"request-{n}" for n in range(20)]
    answers = await asyncio.gather(*(ada.http.get("/vms/x", headers={"X-Request-Id": id}) for id in ids))
    assert [answer.json()["request_id"] for answer in answers] == ids


async def test_validation_errors_name_the_fields_but_never_repeat_the_values(ada: Person) -> None:
    secret = "SECRET-value"
    body = {"name": 7, "flavor_id": secret, "labels": {"a/b~c!": secret, "ok": 5}, secret: {}}
    answer = await ada.http.post("/vms", json=body, headers={"Idempotency-Key": "\x7f"})
    check_problem(answer, 422, "validation_failed")
    assert pointers(answer.json()) == {
        "#/name",
        "#/flavor_id",
        "#/labels/a~1b~0c%21",
        "#/labels/ok",
        f"#/{secret}",
        "Idempotency-Key",
    }
    assert all(error["code"] and error["detail"] for error in answer.json()["errors"])
    assert answer.text.count(secret) == 1, "only as the name of the unknown field"
    query = await ada.http.get("/vms", params={"page": secret, "status": secret, "sort": secret})
    assert pointers(query.json()) == {"page", "status", "sort"}
    assert secret not in query.text


@pytest.fixture
def broken_health(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint with a bug."""

    async def fail(_request: Request) -> None:
        raise ZeroDivisionError("a secret of the code")

    for route in app.router.routes:
        if getattr(route, "path", "") == "/api/v1/health/live":
            monkeypatch.setattr(route, "_answer", fail)


@pytest.mark.usefixtures("broken_health")
async def test_a_bug_is_logged_but_the_answer_shows_no_details(
    anyone: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await anyone.get("/health/live", headers={"X-Request-Id": "the-bug"})
    check_problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert "ZeroDivisionError: a secret of the code" in caplog.text


async def test_a_connection_that_the_server_has_just_closed_is_answered_as_an_outage(
    ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asyncpg raises this error if the next statement comes before it has noticed that the connection is closed."""

    async def prepare(*_arguments: Any, **_options: Any) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    monkeypatch.setattr(asyncpg.Connection, "prepare", prepare)
    answer = await ada.http.get("/operations")
    check_problem(answer, 503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


async def test_the_log_has_one_line_for_each_request_and_no_secrets(
    anyone: httpx.AsyncClient, ada: Person, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "api")
    await anyone.post("/auth/login", json={"username": "nobody", "password": "The-Password-1"})
    await ada.create("the-name")
    await ada.http.get("/vms%0Aforged?token=the-query")
    await anyone.get("/health/ready")
    await anyone.get("/health/live")
    lines = [record.getMessage() for record in caplog.records if record.name == "api.web.middleware"]
    assert [line.rsplit(" ", 2)[0] for line in lines] == [
        "POST /api/v1/auth/login 401",
        "POST /api/v1/vms 202",
        "GET /api/v1/vms%0Aforged 404",
        "GET /api/v1/health/ready 503",
    ]
    assert {line.rsplit(" ", 1)[1] for line in lines} == {"127.0.0.1"}
    token = ada.http.headers["Authorization"].split()[1]
    for secret in ("The-Password-1", "the-name", "the-query", token):
        assert secret not in caplog.text


async def test_the_answer_shows_the_bug_if_debug_is_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(make_settings(settings.database_url, debug=True)) as app:
        monkeypatch.setattr(app.state, "vmapi", None)
        answer = await client_of(app).get("/health")
    check_problem(answer, 500, "internal_error")
    assert "AttributeError" in answer.json()["detail"]
