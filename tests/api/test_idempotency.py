"""Idempotency keys: a repeated request gets the first answer again, and nothing is done twice."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import advisory_locks
from domain.data.accounts import IdempotencyKey
from domain.data.models import VM, Operation
from domain.rules.states import Status
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, client_of, count, running
from tests.support.rows import add_vm
from tests.support.waiting import wait_until_blocked

BODY = {"name": "web-1", "flavor_id": FLAVOR, "labels": {"a": "1", "b": "2"}}
KEY = {"Idempotency-Key": "the key"}
REPLAYED_HEADERS = ("Location", "Operation-Location", "Retry-After", "Content-Type")


def is_replay(first: httpx.Response, second: httpx.Response) -> bool:
    """Whether the second answer repeats the status, the body and the kept headers of the first."""
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert second.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    headers = [[answer.headers.get(name) for name in REPLAYED_HEADERS] for answer in (first, second)]
    return (first.status_code, first.content, headers[0]) == (second.status_code, second.content, headers[1])


async def test_a_repeated_create_gets_the_first_answer_although_the_vm_has_changed(
    ada: Person, engine: AsyncEngine
) -> None:
    first = await ada.http.post("/vms", json=BODY, headers=KEY)
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(name="other", status=Status.ACTIVE, task_state=None))
    second = await ada.http.post("/vms", json=BODY, headers=KEY)
    assert first.status_code == 202
    assert is_replay(first, second)
    assert await count(engine, Operation) == 1


async def test_another_process_repeats_the_answer_too(ada: Person, engine: AsyncEngine, settings: Settings) -> None:
    first = await ada.http.post("/vms", json=BODY, headers=KEY)
    token = ada.http.headers["Authorization"].split()[1]
    async with running(settings) as app:
        second = await client_of(app, token).post("/vms", json=BODY, headers=KEY)
    assert is_replay(first, second)
    assert await count(engine, VM) == 1


async def test_twenty_concurrent_requests_with_one_key_create_one_vm(ada: Person, engine: AsyncEngine) -> None:
    answers = await asyncio.gather(*(ada.http.post("/vms", json=BODY, headers=KEY) for _ in range(20)))
    accepted = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 409]
    assert len(accepted) + len(refused) == 20
    assert len({answer.content for answer in accepted}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in accepted) == 1
    assert {answer.json()["code"] for answer in refused} <= {"idempotency_key_in_flight"}
    assert all(answer.headers["Retry-After"] == "1" for answer in refused)
    assert (await count(engine, VM), await count(engine, Operation)) == (1, 1)
    assert (await ada.http.post("/vms", json=BODY, headers=KEY)).content == accepted[0].content


async def test_a_second_request_is_refused_while_the_first_with_its_key_is_being_handled(
    ada: Person, engine: AsyncEngine
) -> None:
    scope = f"{ada.user.id} POST /api/v1/vms {KEY['Idempotency-Key']}"
    async with engine.begin() as other_process:
        await other_process.execute(select(func.pg_advisory_xact_lock(advisory_locks.number_of(literal(scope)))))
        blocked = await ada.http.post("/vms", json=BODY, headers=KEY)
        free = await ada.http.post("/vms", json=BODY, headers={"Idempotency-Key": "another"})
    assert (blocked.status_code, blocked.json()["code"]) == (409, "idempotency_key_in_flight")
    assert free.status_code == 202
    assert (await ada.http.post("/vms", json=BODY, headers=KEY)).status_code == 202


async def test_a_key_that_an_earlier_version_handles_at_that_moment_gets_its_answer(
    ada: Person, engine: AsyncEngine
) -> None:
    """It takes a lock with another number. Its row is not committed yet, so the new request waits for it."""
    first = await ada.http.post("/vms", json=BODY, headers=KEY)
    async with engine.begin() as tx:
        row = (await tx.execute(delete(IdempotencyKey).returning(*IdempotencyKey.__table__.columns))).mappings().one()
    async with engine.begin() as earlier:
        await earlier.execute(insert(IdempotencyKey).values(**row))
        request = asyncio.create_task(ada.http.post("/vms", json=BODY, headers=KEY))
        await wait_until_blocked(engine, 1)
    second = await request
    assert (second.status_code, second.json()) == (202, first.json())
    assert await count(engine, VM) == 1


@pytest.mark.parametrize("change", [{"name": "web-2"}, {"labels": {"a": "1"}}, {"network_ids": []}], ids=str)
async def test_another_body_with_the_same_key_is_refused(
    ada: Person, engine: AsyncEngine, change: dict[str, Any]
) -> None:
    await ada.http.post("/vms", json=BODY, headers=KEY)
    answer = await ada.http.post("/vms", json=BODY | change, headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert await count(engine, VM) == 1


async def test_the_same_body_in_another_notation_counts_as_the_same(ada: Person) -> None:
    first = await ada.http.post("/vms", json=BODY, headers=KEY)
    other_notation = (
        f'{{"labels":{{"b":"2","a":"\\u0031"}}, "flavor_id": "{FLAVOR.upper()}", "image_id": null, "name" : " web-1 "}}'
    )
    headers = KEY | {"Content-Type": "application/json; charset=utf-8"}
    assert is_replay(first, await ada.http.post("/vms", content=other_notation, headers=headers))


async def test_a_key_belongs_to_its_user_method_and_path(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    of_ada = await ada.http.post("/vms", json=BODY, headers=KEY)
    of_bob = await bob.http.post("/vms", json=BODY, headers=KEY)
    assert of_ada.json()["id"] != of_bob.json()["id"]
    deleted = await ada.http.delete(f"/vms/{of_ada.json()['id']}", headers=KEY)
    assert deleted.status_code == 204
    assert await count(engine, IdempotencyKey) == 3


async def test_the_answer_to_an_action_is_kept_but_a_refusal_is_not(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
    path = f"/vms/{vm.id}/actions"
    refused = await ada.http.post(f"{path}/start", headers=KEY)
    assert refused.status_code == 409
    first = await ada.http.post(f"{path}/stop", headers=KEY)
    assert is_replay(first, await ada.http.post(f"{path}/stop", json={}, headers=KEY))
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(status=Status.SHUTOFF, task_state=None))
    assert (await ada.http.post(f"{path}/start", headers=KEY)).status_code == 202
    assert await count(engine, Operation) == 2


async def test_a_repeated_delete_gets_the_first_answer(ada: Person, engine: AsyncEngine) -> None:
    vm = await ada.create()
    first = await ada.http.delete(f"/vms/{vm['id']}", headers=KEY)
    second = await ada.http.delete(f"/vms/{vm['id']}", headers=KEY)
    assert (first.status_code, first.content) == (204, b"")
    assert is_replay(first, second)
    other_key = await ada.http.delete(f"/vms/{vm['id']}", headers={"Idempotency-Key": "another"})
    assert other_key.headers["Operation-Location"] == first.headers["Operation-Location"]
    assert await count(engine, Operation) == 2


async def test_an_absent_body_counts_as_the_same_as_its_defaults(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
    path = f"/vms/{vm.id}/actions/reboot"
    first = await ada.http.post(path, headers=KEY)
    assert is_replay(first, await ada.http.post(path, json={"type": "SOFT"}, headers=KEY))
    hard = await ada.http.post(path, json={"type": "HARD"}, headers=KEY)
    assert hard.json()["code"] == "idempotency_key_reused"


async def test_without_a_key_every_request_creates_a_vm(ada: Person, engine: AsyncEngine) -> None:
    ids = {UUID((await ada.create())["id"]) for _ in range(3)}
    assert len(ids) == await count(engine, VM) == 3
    assert await count(engine, IdempotencyKey) == 0
