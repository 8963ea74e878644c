"""`validate_only=true`: the answer that a request would get, without its effect."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.base import Base
from domain.data.models import VM, Interface, Operation
from domain.rules.states import Status, TaskState
from tests.api.conftest import Person, count, pointers
from tests.api.networks import EDGE_SIZE, fill_edge
from tests.api.test_openapi import operations
from tests.api.vm_resources import NO_ID, snapshot_of, vm_of, volume_of
from tests.support.ssh_keys import new_key

NEW = {"name": "web-1", "flavor": "m1.small"}
TRIAL = {"validate_only": "true"}


async def tables(engine: AsyncEngine) -> dict[str, list[Any]]:
    """All rows of all tables, without those in which the process tells others each second what it has counted."""
    found = {}
    async with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            if table.name in {"rate_uses", "api_processes"}:
                continue
            found[table.name] = sorted(map(repr, (await connection.execute(table.select())).all()))
    return found


async def requests_of(ada: Person, engine: AsyncEngine) -> dict[str, Any]:
    """The path and the body of requests that would be accepted, one after the other."""
    snapshot, volume = await snapshot_of(await vm_of(ada, engine), engine), await volume_of(ada, engine)
    off = await vm_of(ada, engine, status=Status.SHUTOFF)
    on = [(await vm_of(ada, engine)).id for _ in range(6)]
    return {
        "/vms": NEW,
        "/vms/batch": {"vms": [NEW, NEW | {"name": "web-2", "volumes": [{"volume_id": str(volume.id)}]}]},
        f"/vms/{off.id}/actions/start": None,
        f"/vms/{on[0]}/actions/stop": None,
        f"/vms/{on[1]}/actions/reboot": {"type": "HARD"},
        f"/vms/{on[2]}/actions/resize": {"flavor": "m1.medium"},
        f"/vms/{on[3]}/snapshots": {"name": "before"},
        f"/vms/{snapshot.vm_id}/snapshots/{snapshot.id}/restore": None,
        f"/vms/{on[4]}/volumes": {"volume_id": str((await volume_of(ada, engine)).id)},
        f"/vms/{on[5]}/interfaces": {"network": "edge"},
        "/volumes": {"name": "data", "size_gb": 1},
        f"/volumes/{(await volume_of(ada, engine)).id}/actions/extend": {"size_gb": 4000},
        "/ssh-keys": {"name": "laptop", "public_key": new_key("laptop")},
    }


async def test_a_valid_request_changes_nothing_and_is_accepted_afterwards(ada: Person, engine: AsyncEngine) -> None:
    requests = await requests_of(ada, engine)
    before = await tables(engine)
    for path, body in requests.items():
        answer = await ada.http.post(path, json=body, params=TRIAL)
        assert (answer.status_code, answer.json()) == (200, {"valid": True}), (path, answer.text)
        assert {"Location", "Operation-Location", "Retry-After"}.isdisjoint(answer.headers)
    assert await tables(engine) == before
    for path, body in requests.items():
        accepted = await ada.http.post(path, json=body, params={"validate_only": "false"})
        assert accepted.status_code in {201, 202}, (path, accepted.text)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/vms", {}),
        ("/vms", NEW | {"color": "red"}),
        ("/vms", NEW | {"flavor": "m9.huge"}),
        ("/vms", {"name": "web-1", "flavor": "m1.tiny", "image": "debian-12"}),
        ("/vms", NEW | {"interfaces": [{"network": "edge", "ip_address": "10.2.0.1"}]}),
        ("/vms", NEW | {"volumes": [{"volume_id": NO_ID}]}),
        ("/vms/batch", {"vms": [NEW, NEW | {"networks": ["dmz"]}]}),
        ("/volumes", {"name": "data", "size_gb": 0}),
        ("/volumes", {"name": "data", "size_gb": 1, "image_id": NO_ID}),
        (f"/vms/{NO_ID}/actions/stop", None),
        (f"/operations/{NO_ID}/cancel", None),
        ("/vms/{vm}/actions/stop", None),
        ("/vms/{vm}/actions/resize", {"flavor": "m1.medium"}),
        ("/vms/{vm}/snapshots", {"name": "before"}),
        ("/vms/{vm}/interfaces", {"network": "private"}),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_an_invalid_request_gets_the_very_problem_that_it_would_get(
    ada: Person, engine: AsyncEngine, path: str, body: Any
) -> None:
    vm = await vm_of(ada, engine, status=Status.ERROR, task_state=TaskState.POWERING_OFF)
    path = path.format(vm=vm.id)
    before = await tables(engine)
    trial, plain = [await ada.http.post(path, json=body, params=query) for query in (TRIAL, {})]
    assert trial.status_code == plain.status_code >= 400
    shown = [{key: value for key, value in answer.json().items() if key != "request_id"} for answer in (trial, plain)]
    assert shown[0] == shown[1]
    assert await tables(engine) == before


async def test_a_key_is_refused(ada: Person, engine: AsyncEngine) -> None:
    answer = await ada.http.post("/vms", json=NEW, params=TRIAL, headers={"Idempotency-Key": "the key"})
    problem = answer.json()
    assert (answer.status_code, problem["code"], pointers(problem)) == (422, "validation_failed", {"Idempotency-Key"})
    assert problem["errors"][0]["code"] == "conflicting_fields"
    assert "Leave out the key" in problem["detail"]
    assert await count(engine, VM) == 0
    plain = {"validate_only": "false"}
    accepted = await ada.http.post("/vms", json=NEW, params=plain, headers={"Idempotency-Key": "the key"})
    assert accepted.status_code == 202


@pytest.mark.parametrize(("value", "code"), [("maybe", "invalid"), ("", "empty_parameter")])
async def test_another_value_is_refused(ada: Person, engine: AsyncEngine, value: str, code: str) -> None:
    problem = (await ada.http.post("/vms", json=NEW, params={"validate_only": value})).json()
    assert (problem["status"], problem["errors"][0]["code"], pointers(problem)) == (422, code, {"validate_only"})
    assert await count(engine, VM) == 0


async def test_a_trial_needs_a_token_and_one_s_own_resources(
    anyone: httpx.AsyncClient, ada: Person, bob: Person
) -> None:
    assert (await anyone.post("/vms", json=NEW, params=TRIAL)).status_code == 401
    vm = await ada.create()
    assert (await bob.http.post(f"/vms/{vm['id']}/actions/stop", params=TRIAL)).status_code == 404


async def test_trials_keep_no_address_from_others(ada: Person, engine: AsyncEngine) -> None:
    """Trials and requests for the last addresses of a network at the same time: every request gets one."""
    await fill_edge(ada, engine, free=5)
    body = NEW | {"networks": ["edge"]}
    trials = [ada.http.post("/vms", json=body, params=TRIAL) for _ in range(10)]
    plain = [ada.http.post("/vms", json=body) for _ in range(5)]
    answers = await asyncio.gather(*trials, *plain)
    assert {answer.status_code for answer in answers[:10]} <= {200, 409}
    assert [answer.status_code for answer in answers[10:]] == [202] * 5
    assert await count(engine, Interface) == EDGE_SIZE
    assert (await ada.http.post("/vms", json=body, params=TRIAL)).json()["code"] == "no_free_address"


async def test_a_cancel_can_be_tried(ada: Person, engine: AsyncEngine) -> None:
    vm = await ada.create()
    path = f"/operations/{vm['operation_id']}/cancel"
    assert (await ada.http.post(path, params=TRIAL)).json() == {"valid": True}
    async with engine.connect() as connection:
        statement = Operation.__table__.select().where(Operation.id == UUID(vm["operation_id"]))
        assert (await connection.execute(statement)).one().cancel_requested_at is None


async def test_every_post_with_a_key_can_be_tried_except_one_that_asks_the_cloud(app: FastAPI) -> None:
    found = {True: set[str](), False: set[str]()}
    for operation in operations(app.openapi()):
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        if "Idempotency-Key" in names:
            found["validate_only" in names].add(operation["operationId"])
        else:
            assert "validate_only" not in names
    assert {id for id in found[False] if not id.startswith(("delete_", "detach_"))} == {"open_console"}
    assert not {id for id in found[True] if id.startswith(("delete_", "detach_"))}
    assert {"create_vm", "create_vms", "resize_vm", "adopt_server", "retry_operation"} <= found[True]


async def test_the_document_says_what_the_answer_is(app: FastAPI) -> None:
    document = app.openapi()
    responses = document["paths"]["/api/v1/vms"]["post"]["responses"]
    schema = responses["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Validity"}
    assert "validate_only" in responses["200"]["description"]
