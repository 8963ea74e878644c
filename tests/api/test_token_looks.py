"""Each request looks the token of its program up: one that was deleted is never accepted, and looks are shared."""

import asyncio
from collections import Counter
from typing import Any

from fastapi import FastAPI
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.queries import update_vm
from domain.rules.states import Status
from tests.api.conftest import Person, client_of
from tests.api.test_program_tokens import ask, make
from tests.api.test_waits import busy_vm, waiting


async def test_no_request_is_accepted_that_comes_after_the_answer_to_the_delete(app: FastAPI, ada: Person) -> None:
    answer = (await ask(ada.http)).json()
    program = client_of(app, answer["token"])
    is_deleted = asyncio.Event()
    seen = Counter[tuple[bool, int]]()

    async def read_on() -> None:
        while seen[True, 401] < 50:
            came_after = is_deleted.is_set()
            seen[came_after, (await program.get("/flavors")).status_code] += 1

    readers = [asyncio.create_task(read_on()) for _ in range(8)]
    assert (await program.get("/flavors")).status_code == 200
    assert (await ada.http.delete(f"/tokens/{answer['id']}")).status_code == 204
    is_deleted.set()
    await asyncio.gather(*readers)
    assert {status for came_after, status in seen if came_after} == {401}


async def test_a_wait_tells_nothing_to_a_token_that_was_deleted_meanwhile(
    app: FastAPI, ada: Person, engine: AsyncEngine
) -> None:
    vm, token = await busy_vm(engine, ada), (await ask(ada.http)).json()
    request = await waiting(client_of(app, token["token"]).get(f"/vms/{vm.id}?wait=20"))
    assert (await ada.http.delete(f"/tokens/{token['id']}")).status_code == 204
    async with engine.begin() as tx:
        await update_vm(tx, vm.id, {"status": Status.SHUTOFF, "task_state": None})
    answer = await request
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


async def test_requests_that_come_together_share_a_look(app: FastAPI, ada: Person, engine: AsyncEngine) -> None:
    program = client_of(app, await make(ada.http))
    assert (await program.get("/flavors")).status_code == 200
    looks: list[str] = []

    def count_looks(*arguments: Any) -> None:
        looks.extend(statement for statement in arguments[2:3] if "program_tokens.digest" in statement)

    event.listen(app.state.vmapi.engine.sync_engine, "before_cursor_execute", count_looks)
    async with engine.begin() as tx:
        await tx.execute(text("LOCK TABLE program_tokens"))
        requests = [asyncio.create_task(program.get("/flavors")) for _ in range(10)]
        await asyncio.sleep(0.2)
        requests[0].cancel()  # the others still get their answers
        await asyncio.sleep(0.05)
    answers = await asyncio.gather(*requests[1:])
    assert {answer.status_code for answer in answers} == {200}
    assert 1 <= len(looks) <= 4
