"""Requests that wait: `wait` and `for` on one resource, and on a list of operations."""

import asyncio
import time
from collections.abc import Awaitable
from functools import partial
from operator import eq
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import changes
from api.web.dependencies import ProcessState
from api.web.slots import Slots
from domain.data.models import VM, Operation, Snapshot, Volume
from domain.data.queries import update_vm
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.settings import Settings
from tests.api.conftest import Person, client_of, person, running
from tests.support.rows import add_operation, add_snapshot, add_vm, add_volume
from tests.support.waiting import poll

LONG = 20  # seconds; every wait of these tests ends long before


async def waiting(request: Awaitable[httpx.Response]) -> "asyncio.Task[httpx.Response]":
    """A request that has begun to wait."""
    task = asyncio.ensure_future(request)
    await asyncio.sleep(2 * changes.INTERVAL)
    assert not task.done(), task.result().text
    return task


async def busy_vm(engine: AsyncEngine, owner: Person) -> VM:
    """A VM that is stopping."""
    async with engine.begin() as tx:
        return await add_vm(tx, owner.user, task_state=TaskState.POWERING_OFF)


async def test_a_wait_ends_when_the_vm_is_at_rest(ada: Person, engine: AsyncEngine) -> None:
    vm = await busy_vm(engine, ada)
    request = await waiting(ada.http.get(f"/vms/{vm.id}?wait={LONG}"))
    async with engine.begin() as tx:
        await update_vm(tx, vm.id, {"status": Status.SHUTOFF, "task_state": None})
    began = time.monotonic()
    answer = await request
    assert (answer.status_code, answer.json()["status"]) == (200, "SHUTOFF")
    assert time.monotonic() - began < LONG / 2
    assert answer.json() == (await ada.http.get(f"/vms/{vm.id}")).json()


async def test_a_wait_for_what_is_at_rest_is_answered_at_once(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
    async with asyncio.timeout(LONG / 2):
        assert (await ada.http.get(f"/vms/{vm.id}?wait={LONG}")).json()["status"] == "ACTIVE"


async def test_a_wait_ends_with_the_resource_as_it_is_when_its_time_is_over(ada: Person, engine: AsyncEngine) -> None:
    vm = await busy_vm(engine, ada)
    answer = await ada.http.get(f"/vms/{vm.id}?wait=1")
    assert (answer.status_code, answer.json()["task_state"]) == (200, "powering_off")


@pytest.mark.parametrize("status", [Status.SHUTOFF, Status.ERROR])
async def test_for_waits_for_a_status_that_is_no_rest_from_the_present_one(
    ada: Person, engine: AsyncEngine, status: Status
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
    request = await waiting(ada.http.get(f"/vms/{vm.id}?for=SHUTOFF,VERIFY_RESIZE&wait={LONG}"))
    async with engine.begin() as tx:  # a change that is not waited for
        await tx.execute(update(VM).where(VM.id == vm.id).values(name="web-2"))
    await asyncio.sleep(2 * changes.INTERVAL)
    assert not request.done()
    async with engine.begin() as tx:
        await update_vm(tx, vm.id, {"status": status})
    answer = (await request).json()
    assert (answer["status"], answer["name"]) == (status, "web-2")


async def test_error_ends_a_wait_only_when_nothing_leads_out_of_it(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.ERROR, task_state=TaskState.POWERING_OFF)
    request = await waiting(ada.http.get(f"/vms/{vm.id}?for=SHUTOFF&wait={LONG}"))
    async with engine.begin() as tx:
        await update_vm(tx, vm.id, {"status": Status.SHUTOFF, "task_state": None})
    assert (await request).json()["status"] == "SHUTOFF"


@pytest.mark.parametrize("kind", ["volume", "snapshot"])
async def test_volumes_and_snapshots_can_be_waited_for(ada: Person, engine: AsyncEngine, kind: str) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        if kind == "volume":
            model: Any = Volume
            row: Any = await add_volume(tx, ada.user, status=VolumeStatus.CREATING)
            path = f"/volumes/{row.id}"
        else:
            model, row = Snapshot, await add_snapshot(tx, vm, status=SnapshotStatus.CREATING)
            path = f"/vms/{vm.id}/snapshots/{row.id}"
    request = await waiting(ada.http.get(f"{path}?wait={LONG}"))
    async with engine.begin() as tx:
        await tx.execute(update(model).where(model.id == row.id).values(status="AVAILABLE"))
    assert (await request).json()["status"] == "AVAILABLE"


async def test_a_list_of_operations_is_answered_when_all_have_ended(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        mine = [await add_operation(tx, vm, Action.STOP, status=OperationStatus.RUNNING) for _ in range(3)]
        theirs = await add_operation(tx, await add_vm(tx, bob.user), Action.STOP, status=OperationStatus.RUNNING)
    ids = ",".join(str(operation.id) for operation in [*mine, theirs])
    request = await waiting(ada.http.get(f"/operations?id={ids}&id={uuid4()}&wait={LONG}"))
    async with engine.begin() as tx:  # which is nothing that ada may notice
        await tx.execute(update(Operation).where(Operation.id == theirs.id).values(attempt=2))
    for operation in mine:
        assert not request.done()
        ended = {"status": OperationStatus.SUCCEEDED, "finished_at": text("now()")}
        async with engine.begin() as tx:
            await tx.execute(update(Operation).where(Operation.id == operation.id).values(ended))
        await asyncio.sleep(2 * changes.INTERVAL)
    async with asyncio.timeout(LONG / 2):
        page = (await request).json()
    assert {item["id"] for item in page["items"]} == {str(operation.id) for operation in mine}
    assert {item["status"] for item in page["items"]} == {"SUCCEEDED"}


async def test_what_a_wait_reads_at_its_end_has_a_slot_of_its_own(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    acquire = Slots.acquire

    async def noting(slots: Slots, caller: str, rank: float = 0.0) -> None:
        taken.append(caller)
        await acquire(slots, caller, rank)

    monkeypatch.setattr(Slots, "acquire", noting)
    async with engine.begin() as tx:
        operation = await add_operation(tx, await add_vm(tx, ada.user), Action.STOP, status=OperationStatus.RUNNING)
    request = await waiting(ada.http.get(f"/operations?id={operation.id}&wait={LONG}"))
    before = len(taken)
    async with engine.begin() as tx:
        ended = {"status": OperationStatus.SUCCEEDED, "finished_at": text("now()")}
        await tx.execute(update(Operation).where(Operation.id == operation.id).values(ended))
    assert (await request).status_code == 200
    assert len(taken) == before + 1


async def test_operations_that_are_asked_for_by_id_are_on_one_page(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        ids = [str((await add_operation(tx, vm, Action.STOP)).id) for _ in range(25)]
    for wanted, size in ((ids, 25), (ids[:3], 3)):
        page = (await ada.http.get("/operations", params={"id": ",".join(wanted)})).json()
        assert (len(page["items"]), page["page_size"], page["total"]) == (size, size, size)
    assert len((await ada.http.get("/operations", params={"id": ids, "page_size": 2})).json()["items"]) == 2


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/vms/{}?wait=61", "wait"),
        ("/vms/{}?wait=-1", "wait"),
        ("/vms/{}?for=ACTIVE", "wait"),
        ("/vms/{}?wait=1&for=RUNNING", "for"),
        ("/volumes/{}?wait=1&for=ACTIVE", "for"),
        ("/operations?wait=5", "id"),
        ("/operations?id=1", "id"),
        ("/operations?id=" + ",".join(str(UUID(int=number)) for number in range(101)), "id"),
    ],
)
async def test_a_wait_that_makes_no_sense_is_refused(ada: Person, path: str, parameter: str) -> None:
    answer = await ada.http.get(path.format(uuid4()))
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, parameter), answer.text


async def test_a_hundred_waits_need_no_query_each_no_slot_and_no_connection(
    app: FastAPI, ada: Person, engine: AsyncEngine
) -> None:
    process: ProcessState = app.state.vmapi
    vm = await busy_vm(engine, ada)

    async def watching() -> int:
        return sum(map(len, process.changes._watches.values()))

    requests = list[asyncio.Task[httpx.Response]]()
    while len(requests) < 100:
        # A few at a time, because requests that have not begun to wait need a slot.
        requests += [asyncio.create_task(ada.http.get(f"/vms/{vm.id}?wait={LONG}")) for _ in range(10)]
        await poll(watching, partial(eq, len(requests)), interval=0.01)
    await asyncio.sleep(3 * changes.INTERVAL)
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(process.engine.sync_engine, "before_cursor_execute", note)
    await asyncio.sleep(4 * changes.INTERVAL)
    looks = [statement for statement in statements if "pg_current_snapshot" in statement]
    others = [statement for statement in statements if "WHERE vms.id" in statement]
    assert 2 <= len(looks) <= 6
    assert others == []
    async with engine.begin() as tx:
        await update_vm(tx, vm.id, {"status": Status.SHUTOFF, "task_state": None})
    assert {answer.json()["status"] for answer in await asyncio.gather(*requests)} == {"SHUTOFF"}


async def test_the_waits_of_a_user_have_a_limit(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST_WAITS", 2)
    vm, other = await busy_vm(engine, ada), await busy_vm(engine, bob)
    requests = [await waiting(ada.http.get(f"/vms/{vm.id}?wait={LONG}")) for _ in range(2)]
    refused = await ada.http.get(f"/vms/{vm.id}?wait=1")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_waiting")
    assert (await ada.http.get(f"/vms/{vm.id}")).status_code == 200
    theirs = await waiting(bob.http.get(f"/vms/{other.id}?wait={LONG}"))
    process: ProcessState = app.state.vmapi
    process.changes.end()
    assert {answer.status_code for answer in await asyncio.gather(*requests, theirs)} == {200}


async def test_beyond_the_limit_of_all_waits_the_oldest_of_the_user_with_the_most_ends(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST_WAITS_OF_ALL", 3)
    vm, other = await busy_vm(engine, ada), await busy_vm(engine, bob)
    theirs = [await waiting(bob.http.get(f"/vms/{other.id}?wait={LONG}"))]
    requests = [await waiting(ada.http.get(f"/vms/{vm.id}?wait={LONG}")) for _ in range(2)]
    theirs += [await waiting(bob.http.get(f"/vms/{other.id}?wait={LONG}"))]
    assert (await requests[0]).json()["task_state"] is not None
    assert not any(request.done() for request in (requests[1], *theirs))
    process: ProcessState = app.state.vmapi
    process.changes.end()
    await asyncio.gather(requests[1], *theirs)


async def test_a_stop_of_the_process_ends_the_waits_with_the_resource_as_it_is(
    engine: AsyncEngine, settings: Settings
) -> None:
    async with running(settings) as app:
        eve = await person(app, engine, settings, "eve")
        vm = await busy_vm(engine, eve)
        request = await waiting(eve.http.get(f"/vms/{vm.id}?wait={LONG}"))
        app.state.vmapi.changes.end()
        answer = await request
        assert (answer.status_code, answer.json()["task_state"]) == (200, "powering_off")
        late = await eve.http.get(f"/vms/{vm.id}?wait={LONG}")
        assert (late.status_code, late.json()["task_state"]) == (200, "powering_off")


async def test_what_changed_while_the_database_was_away_ends_a_wait(
    app: FastAPI, ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await busy_vm(engine, ada)
    request = await waiting(ada.http.get(f"/vms/{vm.id}?wait={LONG}"))
    hub = app.state.vmapi.changes
    look = hub._look

    async def fail(_: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(changes, "PAUSE_AFTER_ERROR", changes.INTERVAL)
    monkeypatch.setattr(hub, "_look", fail)
    async with engine.begin() as tx:
        await update_vm(tx, vm.id, {"status": Status.SHUTOFF, "task_state": None})
    await asyncio.sleep(3 * changes.INTERVAL)
    assert not request.done()
    monkeypatch.setattr(hub, "_look", look)
    assert (await request).json()["status"] == "SHUTOFF"


async def test_a_wait_is_told_of_changes_by_another_process(
    app: FastAPI, ada: Person, settings: Settings, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
    request = await waiting(ada.http.get(f"/vms/{vm.id}?for=SHUTOFF,DELETED,ERROR&wait={LONG}"))
    del app
    async with running(settings) as other:
        token = ada.http.headers["Authorization"].removeprefix("Bearer ")
        async with client_of(other, token) as http:
            assert (await http.delete(f"/vms/{vm.id}")).status_code == 204
    assert not request.done()
    async with engine.begin() as tx:
        await update_vm(tx, vm.id, {"status": Status.DELETED, "task_state": None})
    assert (await request).json()["status"] == "DELETED"
