"""Server-sent events: what changes, as it happens, and from where a client left off."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import changes, listeners
from api.background.changes import Changes
from api.background.listeners import Change, Stream
from api.web import event_stream, security
from api.web.security import Caller
from domain.data import queries
from domain.data.changes import Position
from domain.data.models import VM, Operation, Volume
from domain.data.queries import update_vm
from domain.rules.resources import VolumeStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.settings import Settings
from tests.api.conftest import Person, person, running
from tests.api.event_client import following
from tests.support.rows import add_attachment, add_operation, add_snapshot, add_user, add_vm, add_volume


async def set_status(engine: AsyncEngine, vm: VM, status: Status) -> None:
    """Change the VM in a transaction of its own."""
    async with engine.begin() as tx:
        await update_vm(tx, vm.id, {"status": status})


async def new_vm(engine: AsyncEngine, owner: Person) -> VM:
    """A VM, older than every position that a client gets later."""
    async with engine.begin() as tx:
        return await add_vm(tx, owner.user)


async def test_a_stream_begins_with_what_changes_from_now_on(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    vm, theirs = await new_vm(engine, ada), await new_vm(engine, bob)
    async with following(app, ada) as client:
        await client.next("comment")  # it has a position
        assert client.last_id
        await set_status(engine, theirs, Status.ERROR)
        await set_status(engine, vm, Status.SHUTOFF)
        event = await client.next()
        assert (event.kind, event.data) == ("vm", (await ada.http.get(f"/vms/{vm.id}")).json())
        assert event.data["status"] == "SHUTOFF"


async def test_each_kind_of_resource_has_its_event(app: FastAPI, ada: Person, engine: AsyncEngine) -> None:
    async with following(app, ada) as client:
        await client.next("comment")
        async with engine.begin() as tx:
            vm = await add_vm(tx, ada.user)
            rows: dict[str, Any] = {
                "vm": vm,
                "volume": await add_volume(tx, ada.user),
                "snapshot": await add_snapshot(tx, vm),
                "operation": await add_operation(tx, vm, Action.STOP),
            }
        events = [await client.next() for _ in rows]
        assert {event.kind: event.data["id"] for event in events} == {kind: str(row.id) for kind, row in rows.items()}
        assert [event.id for event in events[:-1]] == [None] * 3  # only the last says that all have been read
        assert events[-1].id
        paths = {"vm": "vms", "volume": "volumes", "operation": "operations"}
        for event in events:
            if event.kind in paths:
                assert event.data == (await ada.http.get(f"/{paths[event.kind]}/{event.data['id']}")).json()


async def test_a_vm_has_the_events_of_its_operations_snapshots_and_volumes(
    app: FastAPI, ada: Person, engine: AsyncEngine
) -> None:
    vm, other = await new_vm(engine, ada), await new_vm(engine, ada)
    async with engine.begin() as tx:
        volume, loose = await add_volume(tx, ada.user, status=VolumeStatus.IN_USE), await add_volume(tx, ada.user)
        await add_attachment(tx, vm, volume)
    async with following(app, ada, vm_id=vm.id) as client:
        await client.next("comment")
        async with engine.begin() as tx:
            await update_vm(tx, other.id, {"status": Status.SHUTOFF})
            await tx.execute(update(Volume).where(Volume.id.in_([volume.id, loose.id])).values(name="data"))
            await add_operation(tx, other, Action.STOP)
            operation = await add_operation(tx, vm, Action.STOP)
        events = [await client.next() for _ in range(3)]
        assert {(event.kind, event.data["id"]) for event in events} == {
            ("vm", str(vm.id)),  # it has a new operation
            ("volume", str(volume.id)),
            ("operation", str(operation.id)),
        }


@pytest.mark.parametrize("in_another_process", [False, True])
async def test_a_client_that_comes_back_gets_what_it_has_missed(
    app: FastAPI, ada: Person, engine: AsyncEngine, settings: Settings, *, in_another_process: bool
) -> None:
    vms = [await new_vm(engine, ada) for _ in range(3)]
    async with following(app, ada) as client:
        await client.next("comment")
        await set_status(engine, vms[0], Status.SHUTOFF)
        await client.next("vm")
    for vm in vms[1:]:
        await set_status(engine, vm, Status.SHUTOFF)
    async with contextlib.AsyncExitStack() as stack:
        process = await stack.enter_async_context(running(settings)) if in_another_process else app
        again = await stack.enter_async_context(following(process, ada, client.last_id))
        missed = [await again.next() for _ in range(2)]
        assert {event.data["id"] for event in missed} == {str(vm.id) for vm in vms[1:]}
        await set_status(engine, vms[0], Status.ACTIVE)
        assert (await again.next()).data["id"] == str(vms[0].id)


async def test_a_transaction_that_commits_late_is_not_missed(app: FastAPI, ada: Person, engine: AsyncEngine) -> None:
    early, late = await new_vm(engine, ada), await new_vm(engine, ada)
    async with following(app, ada) as client:
        await client.next("comment")
        async with engine.begin() as slow:
            await update_vm(slow, late.id, {"status": Status.SHUTOFF})
            await set_status(engine, early, Status.SHUTOFF)  # it began later, and commits before
            assert (await client.next("vm")).data["id"] == str(early.id)
        resumed = client.last_id
        assert (await client.next("vm")).data["id"] == str(late.id)
    async with following(app, ada, resumed) as again:
        assert (await again.next()).data["id"] == str(late.id)


@pytest.mark.parametrize("which", ["made up", "too old", "of another database", "of too many changes"])
async def test_a_client_that_cannot_be_told_what_it_missed_is_told_to_read_anew(
    app: FastAPI, ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    vm = await new_vm(engine, ada)
    async with following(app, ada) as client:
        await client.next("comment")
    signing, last_id = app.state.vmapi.signing, client.last_id
    assert last_id
    issued_at, timeline, snapshot, knows = security.unseal(signing, last_id)
    match which:
        case "made up":
            last_id = "1"
        case "too old":
            last_id = security.seal(signing, [issued_at - event_stream.LONGEST_ABSENCE, timeline, snapshot, knows])
        case "of another database":
            last_id = security.seal(signing, [issued_at, "000000FF", snapshot, knows])
        case _:
            monkeypatch.setattr(changes, "MOST_RESUMED", 2)
            for _ in range(3):
                await new_vm(engine, ada)
    async with following(app, ada, last_id) as again:
        assert (await again.next()).kind == "reset"
        assert again.last_id
        await set_status(engine, vm, Status.SHUTOFF)
        assert (await again.next("vm")).data["id"] == str(vm.id)


async def test_a_quiet_stream_shows_that_it_lives_and_moves_its_position(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE", 2 * changes.INTERVAL)
    theirs = await new_vm(engine, bob)
    async with following(app, ada) as client:
        first = await client.next("comment")
        await set_status(engine, theirs, Status.SHUTOFF)
        await asyncio.sleep(2 * changes.INTERVAL)
        await client.next("comment")
        later = await client.next("comment")
        assert first.id
        assert later.id
        before, after = (security.unseal(app.state.vmapi.signing, id)[2] for id in (first.id, later.id))
        assert before != after


async def test_a_stream_of_one_vm_shows_that_it_lives_while_others_change(
    app: FastAPI, ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else clients and proxies would take the connection for dead, and its position would become old."""
    keep_alive = 4 * changes.INTERVAL
    monkeypatch.setattr(event_stream, "KEEP_ALIVE", keep_alive)
    vm, other = await new_vm(engine, ada), await new_vm(engine, ada)

    async def keep_changing() -> None:
        while True:
            await set_status(engine, other, Status.SHUTOFF)
            await asyncio.sleep(changes.INTERVAL / 2)

    async with following(app, ada, vm_id=vm.id) as client:
        first = await client.next("comment")
        changing = asyncio.create_task(keep_changing())
        began = asyncio.get_running_loop().time()
        later = [await client.next() for _ in range(2)]
        assert asyncio.get_running_loop().time() - began >= keep_alive, "not with each change of another VM"
        changing.cancel()
        assert [event.kind for event in later] == ["comment", "comment"]
        assert len({first.id, *(event.id for event in later)}) == 3


async def test_a_client_that_does_not_read_is_let_go() -> None:
    stream = Stream(UUID(int=1), None)
    some = [Change("vm", None)] * (listeners.MOST_PENDING // 2 + 1)
    position = Position("00000001", "1:1:")
    stream.tell(listeners.News(some, position))
    stream.tell(listeners.News(some, position))
    assert await stream.next(1) is None


LABELS = SimpleNamespace(labels={f"{n}": "v" * 255 for n in range(64)})
ADDRESSES = SimpleNamespace(labels={}, addresses=[{"ip_address": f"10.0.{n % 9}.{n}"} for n in range(64)])


@pytest.mark.parametrize("row", [LABELS, ADDRESSES], ids=["labels", "addresses"])
async def test_a_client_that_leaves_megabytes_of_rows_unread_is_let_go(row: object) -> None:
    position = Position("00000001", "1:1:")
    long = Change("vm", row)
    assert listeners.MOST_PENDING_BYTES // long.size < listeners.MOST_PENDING // 20
    news = listeners.News([long] * (listeners.MOST_PENDING_BYTES // long.size), position)
    stream = Stream(UUID(int=1), None)
    for _ in range(2):  # a client that has read all gets all
        reading = asyncio.create_task(stream.next(1))
        await asyncio.sleep(0)
        stream.tell(news)
        assert await reading == [news]
    stream.tell(news)  # and this one is still being sent the last
    assert await stream.next(1) is None


async def test_an_event_shows_the_addresses_and_volumes_that_changed_with_the_vm(
    app: FastAPI, ada: Person, engine: AsyncEngine
) -> None:
    vm = await new_vm(engine, ada)
    async with following(app, ada) as client:
        await client.next("comment")
        async with engine.begin() as tx:
            volume = await add_volume(tx, ada.user, status=VolumeStatus.IN_USE)
            await queries.note_vm_changed(tx, vm.id)
            await add_attachment(tx, vm, volume, device="/dev/vdb")
        assert (await client.next("vm")).data["volumes"] == [{"volume_id": str(volume.id), "device": "/dev/vdb"}]


async def test_internal_notes_of_an_operation_are_no_events(app: FastAPI, ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, task_state=TaskState.POWERING_OFF)
        operation = await add_operation(tx, vm, Action.STOP, status=OperationStatus.RUNNING)
    one = Operation.id == operation.id
    async with following(app, ada) as client:
        await client.next("comment")
        async with engine.begin() as tx:
            await tx.execute(update(Operation).where(one).values(deliveries=7, deliver_after=operation.created_at))
        await asyncio.sleep(2 * changes.INTERVAL)
        async with engine.begin() as tx:
            await tx.execute(update(Operation).where(one).values(attempt=2, last_error="It broke."))
        event = await client.next("operation")
        assert (event.data["attempt"], event.data["last_error"]) == (2, "It broke.")


async def test_the_stream_of_a_user_without_resources_ends_with_the_process(
    engine: AsyncEngine, settings: Settings
) -> None:
    async with running(settings) as app:
        eve = await person(app, engine, settings, "eve")
        request = asyncio.create_task(eve.http.get("/events"))  # httpx returns from an ASGI application at its end
        await asyncio.sleep(2 * changes.INTERVAL)
        assert not request.done()
        app.state.vmapi.changes.end()
        answer = await request
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.text.startswith("retry: ")


async def test_followers_are_counted_for_their_user(
    app: FastAPI, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST_STREAMS", 1)
    async with engine.begin() as tx:
        user = await add_user(tx, "zoe")
    hub: Changes = app.state.vmapi.changes
    caller = Caller(user.id, user.username)
    with hub.follow(caller.id, None), pytest.raises(changes.TooManyWaitingError), hub.follow(caller.id, None):
        pass
    with hub.follow(caller.id, None):
        pass
