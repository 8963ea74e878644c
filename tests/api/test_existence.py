"""What exists elsewhere looks like what does not exist: a stranger gets the same words for both, on every route."""

import re
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.settings import Settings
from tests.api.conftest import Person, person
from tests.api.projects import project_of
from tests.api.vm_resources import attached_to, snapshot_of, vm_of
from tests.support.rows import FLAVOR_IDS

Ids = dict[str, str]
SOURCES: dict[str, Any] = {
    "project_id": lambda ids: {"project_id": ids["project_id"]},
    "snapshot_id": lambda ids: {"snapshot_id": ids["snapshot_id"]},
    "boot_volume": lambda ids: {"boot_volume": {"volume_id": ids["volume_id"]}},
    "volumes": lambda ids: {"volumes": [{"volume_id": ids["volume_id"]}]},
}
BODIES: dict[str, Any] = {
    "/projects/{project_id}/members/{username}": {"role": "reader"},
    "/volumes/{volume_id}/actions/extend": {"size_gb": 100},
    "/vms/{vm_id}/snapshots": {"name": "before"},
    "/vms/{vm_id}/actions/resize": {"flavor": "m1.large"},
    "/vms/{vm_id}/interfaces": {"network": "private"},
    "/vms/{vm_id}/volumes": {"volume_id": str(uuid4())},
}
CONDITIONS: tuple[tuple[str, dict[str, str]], ...] = (
    ("", {}),
    ("", {"If-Match": '"other"'}),
    ("", {"If-None-Match": "*"}),
    ("?validate_only=true", {}),
    ("?wait=1", {}),
)


@pytest.fixture
async def eve(app: FastAPI, engine: AsyncEngine, settings: Settings) -> Person:
    """A user who is a member of nothing."""
    return await person(app, engine, settings, "eve")


@pytest.fixture
async def theirs(ada: Person, engine: AsyncEngine) -> Ids:
    """The ids of what another user has."""
    vm = await vm_of(ada, engine, flavor_id=FLAVOR_IDS["m1.small"])
    volume, _ = await attached_to(vm, ada, engine)
    return {
        "vm_id": str(vm.id),
        "volume_id": str(volume.id),
        "snapshot_id": str((await snapshot_of(vm, engine)).id),
        "operation_id": (await ada.create())["operation_id"],
        "project_id": str(await project_of(ada)),
    }


async def words(someone: Person, method: str, path: str, ids: Ids, **more: Any) -> tuple[int, str]:
    """The status and the text of an answer, without the ids."""
    answer = await someone.http.request(method, path.format(username="ada", interface_id=uuid4(), **ids), **more)
    text = re.sub(r'"(request_id|instance)":"[^"]*"', "", answer.text)
    for id in ids.values():
        text = text.replace(id, "ID")
    return answer.status_code, re.sub("[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)


async def test_no_route_tells_a_stranger_what_exists(ada: Person, eve: Person, theirs: Ids) -> None:
    unknown = {name: str(uuid4()) for name in theirs}
    paths = (await ada.http.get("/openapi.json")).json()["paths"]
    asked = 0
    for path, methods in paths.items():
        keys = set(re.findall(r"{(\w+)}", path))
        if not keys & theirs.keys() or keys - theirs.keys() - {"username", "interface_id"} or "/admin/" in path:
            continue
        route = path.removeprefix("/api/v1")
        for method in methods:
            body = (
                {"name": "mine"} if method == "patch" else BODIES.get(route, {}) if method in {"post", "put"} else None
            )
            for query, headers in CONDITIONS:
                more = {"json": body, "headers": headers}
                answers = [await words(eve, method, route + query, ids, **more) for ids in (theirs, unknown)]
                assert answers[0] == answers[1], (method, route, query, headers)
                assert answers[0][0] in {404, 422}, (method, route, query, headers)
                asked += 1
    assert asked > 150


@pytest.mark.parametrize("source", SOURCES)
async def test_no_create_tells_a_stranger_what_exists(eve: Person, theirs: Ids, source: str) -> None:
    unknown = {name: str(uuid4()) for name in theirs}
    answers = [
        await words(eve, "POST", "/vms", ids, json={"name": "a", "flavor": "m1.small", **SOURCES[source](ids)})
        for ids in (theirs, unknown)
    ]
    assert answers[0] == answers[1]
    assert answers[0][0] in {404, 422}


async def test_no_detach_tells_a_stranger_what_exists(eve: Person, theirs: Ids, engine: AsyncEngine) -> None:
    own = await vm_of(eve, engine)
    for path in (f"/vms/{own.id}/volumes/{{volume_id}}", f"/vms/{own.id}/snapshots/{{snapshot_id}}"):
        unknown = {name: str(uuid4()) for name in theirs}
        answers = [await words(eve, "DELETE", path, ids) for ids in (theirs, unknown)]
        assert answers[0] == answers[1]
        assert answers[0][0] == 404
