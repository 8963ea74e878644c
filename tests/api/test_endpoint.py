"""Which of several routes a request is for."""

import httpx
import pytest
from fastapi import FastAPI

from api.routes import router
from api.web import problems

routes = router("/things", "things")


@routes.get("/{thing_id}")
async def get_thing(thing_id: int) -> str:
    """One thing."""
    return f"thing {thing_id}"


@routes.delete("/{thing_id}")
async def delete_thing(thing_id: int) -> str:
    """Delete one."""
    return f"no thing {thing_id}"


@routes.post("/batch")
async def create_things() -> str:
    """Make several."""
    return "things"


@pytest.fixture
def things() -> httpx.AsyncClient:
    app = FastAPI(exception_handlers=problems.HANDLERS)
    app.router.routes.extend(routes.routes)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api/api/v1")


async def test_a_path_that_stands_in_a_route_is_never_an_id(things: httpx.AsyncClient) -> None:
    assert (await things.post("/things/batch")).json() == "things"
    assert (await things.get("/things/7")).json() == "thing 7"
    for method in ("GET", "DELETE", "PATCH"):
        refused = await things.request(method, "/things/batch")
        assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    assert (await things.post("/things/7")).headers["Allow"] == "DELETE, GET, HEAD"
