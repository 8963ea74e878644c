"""What a route's function is called with, and which errors a request gets, when FastAPI does not work it out itself."""

from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from pydantic import BaseModel

from api.web import problems
from api.web.endpoint import Endpoint
from api.web.plan import Plan
from api.web.problems import ProblemError

calls: list[str] = []


class Body(BaseModel):
    """A body."""

    size: int


async def one(request: Request, response: Response, word: Annotated[str, Query()] = "none") -> str:
    """A dependency that others share; it adds a header to the answer."""
    calls.append("one")
    response.headers["X-Word"] = word
    return f"{request.method} {word}"


async def two(first: Annotated[str, Depends(one)], token: Annotated[str | None, Header(alias="X-Token")] = None) -> str:
    """A dependency with a header."""
    calls.append("two")
    if token == "bad":
        raise ProblemError("invalid_token", "It is bad.")
    return f"{first} {token}"


First = Annotated[str, Depends(one)]
Second = Annotated[str, Depends(two)]
routes = APIRouter(prefix="/things", route_class=Endpoint)


@routes.post("/{id}")
async def answer(
    second: Second,
    first: First,
    id: UUID,
    body: Body,
    more: Annotated[list[int], Query()] = [],  # noqa: B006
) -> dict[str, Any]:
    """Answer with everything."""
    more.append(len(more))
    return {"first": first, "second": second, "id": id, "size": body.size, "more": more}


@routes.delete("/{id}", status_code=204)
async def delete(id: UUID, first: First) -> None:
    """Answer with nothing."""


@pytest.fixture
async def http() -> Any:
    """A client of the routes."""
    app = FastAPI(exception_handlers=problems.HANDLERS)
    app.router.routes.extend(routes.routes)
    calls.clear()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_everything_reaches_the_function_and_each_dependency_is_called_once(http: httpx.AsyncClient) -> None:
    id = str(uuid4())
    got = await http.post(f"/things/{id}?word=a&more=5&more=6", json={"size": 3}, headers={"X-Token": "t"})
    assert got.status_code == 200
    assert got.json() == {"first": "POST a", "second": "POST a t", "id": id, "size": 3, "more": [5, 6, 2]}
    assert got.headers["X-Word"] == "a"
    assert got.headers["Content-Length"] == str(len(got.content))
    assert calls == ["one", "two"]


async def test_a_default_is_new_for_each_request(http: httpx.AsyncClient) -> None:
    for _ in range(3):
        got = await http.post(f"/things/{uuid4()}", json={"size": 3})
        assert got.json()["more"] == [0]
        assert (got.json()["first"], got.json()["second"]) == ("POST none", "POST none None")


async def test_all_errors_of_parameters_come_together(http: httpx.AsyncClient) -> None:
    got = await http.post("/things/no-id?more=x", json={"size": "y"})
    assert got.status_code == 422
    places = {error.get("pointer") or error.get("parameter") for error in got.json()["errors"]}
    assert places == {"id", "more", "#/size"}
    assert calls == ["one", "two"], "the dependencies' own parameters are right"


async def test_a_dependency_that_refuses_comes_before_errors_of_parameters(http: httpx.AsyncClient) -> None:
    got = await http.post("/things/no-id?more=x", json={}, headers={"X-Token": "bad"})
    assert (got.status_code, got.json()["code"]) == (401, "invalid_token")


async def test_an_unknown_parameter_is_found_after_the_dependencies(http: httpx.AsyncClient) -> None:
    got = await http.delete(f"/things/{uuid4()}?wrod=a")
    assert (got.status_code, got.json()["code"]) == (422, "unknown_parameter")
    assert calls == ["one"]


async def test_an_answer_without_a_body_has_the_headers_that_dependencies_add(http: httpx.AsyncClient) -> None:
    got = await http.delete(f"/things/{uuid4()}?word=b")
    assert (got.status_code, got.content, got.headers["X-Word"]) == (204, b"", "b")
    assert "Content-Length" not in got.headers


def test_a_function_that_would_block_all_requests_is_refused() -> None:
    def blocking() -> str:
        return "x"

    async def route(found: Annotated[str, Depends(blocking)]) -> str:
        return found

    with pytest.raises(AssertionError, match="is no coroutine function"):
        Plan(Endpoint("/blocking", route, methods=["GET"]).dependant)
