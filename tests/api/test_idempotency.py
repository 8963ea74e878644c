"""Idempotency keys: the same request again gets the same answer, and nothing happens twice."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, IdempotencyKey, Operation
from domain.rules.states import Status
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, client_of, count, running
from tests.support.rows import add_vm

BODY = {"name": "web-1", "flavor_id": FLAVOR, "labels": {"a": "1", "b": "2"}}
KEY = {"Idempotency-Key": "the key"}
KEPT = ("Location", "Operation-Location", "Retry-After", "Content-Type")


def same(first: httpx.Response, again: httpx.Response) -> bool:
    """Whether the second is a replay of the first: status, body, and the headers that belong to it."""
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    headers = [[answer.headers.get(name) for name in KEPT] for answer in (first, again)]
    return (first.status_code, first.content, headers[0]) == (again.status_code, again.content, headers[1])


async def test_a_create_is_answered_again_though_the_vm_has_changed(ada: Person, engine: AsyncEngine) -> None:
    first = await ada.http.post("/vms", json=BODY, headers=KEY)
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(name="other", status=Status.ACTIVE, task_state=None))
    again = await ada.http.post("/vms", json=BODY, headers=KEY)
    assert first.status_code == 202
    assert same(first, again)
    assert await count(engine, Operation) == 1


async def test_another_process_answers_again_too(ada: Person, engine: AsyncEngine, settings: Settings) -> None:
    first = await ada.http.post("/vms", json=BODY, headers=KEY)
    token = ada.http.headers["Authorization"].split()[1]
    async with running(settings) as app:
        again = await client_of(app, token).post("/vms", json=BODY, headers=KEY)
    assert same(first, again)
    assert await count(engine, VM) == 1


async def test_of_twenty_at_once_one_is_done_and_the_others_wait_or_see_it(ada: Person, engine: AsyncEngine) -> None:
    answers = await asyncio.gather(*(ada.http.post("/vms", json=BODY, headers=KEY) for _ in range(20)))
    made = [answer for answer in answers if answer.status_code == 202]
    waiting = [answer for answer in answers if answer.status_code == 409]
    assert len(made) + len(waiting) == 20
    assert len({answer.content for answer in made}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in made) == 1
    assert {answer.json()["code"] for answer in waiting} <= {"idempotency_key_in_flight"}
    assert all(answer.headers["Retry-After"] == "1" for answer in waiting)
    assert (await count(engine, VM), await count(engine, Operation)) == (1, 1)
    assert (await ada.http.post("/vms", json=BODY, headers=KEY)).content == made[0].content


async def test_a_key_whose_request_is_being_handled_is_in_flight(ada: Person, engine: AsyncEngine) -> None:
    scope = f"{ada.user.id} POST /api/v1/vms {KEY['Idempotency-Key']}"
    async with engine.begin() as other_process:
        await other_process.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(scope, 0))))
        blocked = await ada.http.post("/vms", json=BODY, headers=KEY)
        free = await ada.http.post("/vms", json=BODY, headers={"Idempotency-Key": "another"})
    assert (blocked.status_code, blocked.json()["code"]) == (409, "idempotency_key_in_flight")
    assert free.status_code == 202
    assert (await ada.http.post("/vms", json=BODY, headers=KEY)).status_code == 202


@pytest.mark.parametrize("change", [{"name": "web-2"}, {"labels": {"a": "1"}}, {"network_ids": []}], ids=str)
async def test_another_body_is_refused(ada: Person, engine: AsyncEngine, change: dict[str, Any]) -> None:
    await ada.http.post("/vms", json=BODY, headers=KEY)
    answer = await ada.http.post("/vms", json=BODY | change, headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert await count(engine, VM) == 1


async def test_the_same_body_written_otherwise_is_the_same(ada: Person) -> None:
    first = await ada.http.post("/vms", json=BODY, headers=KEY)
    otherwise = (
        f'{{"labels":{{"b":"2","a":"\\u0031"}}, "flavor_id": "{FLAVOR.upper()}", "image_id": null, "name" : " web-1 "}}'
    )
    headers = KEY | {"Content-Type": "application/json; charset=utf-8"}
    assert same(first, await ada.http.post("/vms", content=otherwise, headers=headers))


async def test_a_key_belongs_to_its_user_method_and_path(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    mine = await ada.http.post("/vms", json=BODY, headers=KEY)
    his = await bob.http.post("/vms", json=BODY, headers=KEY)
    assert mine.json()["id"] != his.json()["id"]
    deleted = await ada.http.delete(f"/vms/{mine.json()['id']}", headers=KEY)
    assert deleted.status_code == 204
    assert await count(engine, IdempotencyKey) == 3


async def test_an_action_is_answered_again_and_a_refusal_is_not_kept(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
    path = f"/vms/{vm.id}/actions"
    refused = await ada.http.post(f"{path}/start", headers=KEY)
    assert refused.status_code == 409
    first = await ada.http.post(f"{path}/stop", headers=KEY)
    assert same(first, await ada.http.post(f"{path}/stop", json={}, headers=KEY))
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(status=Status.SHUTOFF, task_state=None))
    assert (await ada.http.post(f"{path}/start", headers=KEY)).status_code == 202
    assert await count(engine, Operation) == 2


async def test_a_delete_is_answered_again(ada: Person, engine: AsyncEngine) -> None:
    vm = await ada.create()
    first = await ada.http.delete(f"/vms/{vm['id']}", headers=KEY)
    again = await ada.http.delete(f"/vms/{vm['id']}", headers=KEY)
    assert (first.status_code, first.content) == (204, b"")
    assert same(first, again)
    other_key = await ada.http.delete(f"/vms/{vm['id']}", headers={"Idempotency-Key": "another"})
    assert other_key.headers["Operation-Location"] == first.headers["Operation-Location"]
    assert await count(engine, Operation) == 2


async def test_the_default_of_a_body_is_the_same_as_none(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
    path = f"/vms/{vm.id}/actions/reboot"
    first = await ada.http.post(path, headers=KEY)
    assert same(first, await ada.http.post(path, json={"type": "SOFT"}, headers=KEY))
    hard = await ada.http.post(path, json={"type": "HARD"}, headers=KEY)
    assert hard.json()["code"] == "idempotency_key_reused"


async def test_without_a_key_every_request_counts(ada: Person, engine: AsyncEngine) -> None:
    ids = {UUID((await ada.create())["id"]) for _ in range(3)}
    assert len(ids) == await count(engine, VM) == 3
    assert await count(engine, IdempotencyKey) == 0
