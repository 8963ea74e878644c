"""User data and SSH keys of a new VM: stored together for cloud-init, shown nowhere, bounded in bytes."""

import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.commands.new_vm import NewVM
from domain.data.guests import UserData
from domain.data.models import VM, Operation
from domain.progress import resource_claims
from domain.rules import cloud_init
from domain.rules.references import Choice
from domain.rules.states import Action
from tests.api.conftest import FLAVOR, Person, count, operations_of, pointers
from tests.support.rows import add_operation, add_user, add_vm
from tests.support.ssh_keys import ED25519, new_key

SCRIPT = "#!/bin/sh\necho tell-nobody\n"
LINES = {name: new_key(name) for name in ("laptop", "work")}


async def add_keys(user: Person) -> None:
    """Add both keys."""
    for name, line in LINES.items():
        assert (await user.http.post("/ssh-keys", json={"name": name, "public_key": line})).status_code == 201


async def stored(engine: AsyncEngine, vm_id: str) -> bytes | None:
    """What cloud-init gets in the VM."""
    async with engine.connect() as connection:
        content: bytes | None = await connection.scalar(select(UserData.content).where(UserData.vm_id == UUID(vm_id)))
    return content


async def test_user_data_and_keys_are_stored_as_cloud_init_gets_them(ada: Person, engine: AsyncEngine) -> None:
    await add_keys(ada)
    keys = [LINES["work"], LINES["laptop"]]
    plain = await ada.create(user_data=SCRIPT)
    with_keys = await ada.create(ssh_keys=["work", "laptop"])
    both = await ada.create(ssh_keys=["work", "laptop"], user_data=SCRIPT, network_ids=[])
    assert await stored(engine, plain["id"]) == SCRIPT.encode()
    assert await stored(engine, with_keys["id"]) == cloud_init.render(None, keys)
    document = await stored(engine, both["id"])
    assert document
    assert cloud_init.is_mime(document.decode())
    assert all(text in document.decode() for text in (SCRIPT, *keys))


@pytest.mark.parametrize("body", [{}, {"user_data": None}, {"user_data": ""}, {"ssh_keys": []}])
async def test_without_them_nothing_is_stored(ada: Person, engine: AsyncEngine, body: dict[str, Any]) -> None:
    await ada.create(**body)
    assert await count(engine, UserData) == 0


async def test_neither_an_answer_nor_an_operation_shows_user_data(ada: Person, engine: AsyncEngine) -> None:
    vm = await ada.create(user_data=SCRIPT)
    for path in ("/vms", f"/vms/{vm['id']}", f"/operations/{vm['operation_id']}", "/operations"):
        assert "tell-nobody" not in (await ada.http.get(path)).text
    [operation] = await operations_of(engine, vm["id"])
    assert "tell-nobody" not in str(operation.input)
    assert "tell-nobody" not in repr(NewVM("web-1", Choice(FLAVOR, "flavor"), user_data=SCRIPT))


async def test_a_repeated_create_with_its_key_stores_user_data_once(ada: Person, engine: AsyncEngine) -> None:
    body = {"name": "web-1", "flavor_id": FLAVOR, "user_data": SCRIPT}
    answers = [await ada.http.post("/vms", json=body, headers={"Idempotency-Key": "one"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    other = await ada.http.post("/vms", json=body | {"user_data": "#!/bin/sh"}, headers={"Idempotency-Key": "one"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await count(engine, UserData) == 1


async def test_names_of_keys_that_the_user_does_not_have_are_pointed_at(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    await add_keys(ada)
    await bob.http.post("/ssh-keys", json={"name": "bobs", "public_key": ED25519})
    body = {"name": "web-1", "flavor_id": FLAVOR, "ssh_keys": ["bobs", "work", "none"]}
    answer = await ada.http.post("/vms", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_reference")
    assert pointers(answer.json()) == {"#/ssh_keys/0", "#/ssh_keys/2"}
    assert await count(engine, VM) == 0


async def test_a_name_of_a_key_is_given_once(ada: Person) -> None:
    body = {"name": "web-1", "flavor_id": FLAVOR, "ssh_keys": ["work", "work"]}
    answer = await ada.http.post("/vms", json=body)
    assert (answer.status_code, pointers(answer.json())) == (422, {"#/ssh_keys"})


async def test_a_deleted_key_stays_in_the_vms_that_have_it(ada: Person, engine: AsyncEngine) -> None:
    await add_keys(ada)
    vm = await ada.create(ssh_keys=["work"])
    await ada.http.delete("/ssh-keys/work")
    assert await stored(engine, vm["id"]) == cloud_init.render(None, [LINES["work"]])


async def test_more_than_a_cloud_takes_is_refused_with_the_number(ada: Person, engine: AsyncEngine) -> None:
    await add_keys(ada)
    fits = {"name": "web-1", "flavor_id": FLAVOR, "user_data": "x" * 49_149}
    assert (await ada.http.post("/vms", json=fits)).status_code == 202
    too_much = ("x" * 49_150, "é" * 24_575, "x" * 400_000)
    for body in (fits | {"ssh_keys": ["work"]}, *(fits | {"user_data": text} for text in too_much)):
        answer = await ada.http.post("/vms", json=body)
        problem = answer.json()
        assert (answer.status_code, problem["code"], pointers(problem)) == (
            422,
            "user_data_too_large",
            {"#/user_data"},
        )
        assert "49,149" in problem["detail"]
    assert await count(engine, Operation) == 1


async def test_half_of_a_surrogate_pair_is_refused(ada: Person) -> None:
    body = json.dumps({"name": "web-1", "flavor_id": FLAVOR, "user_data": "\ud800"})
    answer = await ada.http.post("/vms", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, pointers(answer.json())) == (422, {"#/user_data"})


async def test_any_text_is_taken_as_it_is(ada: Person, engine: AsyncEngine) -> None:
    text = "\x00\r\n\t\u202e 🔑 \ufeff"
    vm = await ada.create(user_data=text)
    assert await stored(engine, vm["id"]) == text.encode()


async def test_user_data_is_forgotten_when_the_vm_is_deleted_and_not_before(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        for action in (Action.STOP, Action.DELETE):
            vm = await add_vm(tx, user)
            await tx.execute(UserData.__table__.insert().values(vm_id=vm.id, content=b"x"))  # type: ignore[attr-defined]
            await resource_claims.settle_success(tx, await add_operation(tx, vm, action))
    assert await count(engine, UserData) == 1


async def test_a_row_that_an_earlier_version_left_does_not_keep_its_vm(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        await tx.execute(UserData.__table__.insert().values(vm_id=vm.id, content=b"x"))  # type: ignore[attr-defined]
        await tx.execute(delete(VM).where(VM.id == vm.id))
    assert await count(engine, UserData) == 0
