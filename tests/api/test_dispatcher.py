"""The dispatcher: it delivers every operation once, through outages, errors and the death of a process."""

import asyncio
import contextlib
import logging
from collections import Counter
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from api.background import dispatcher
from api.background.dispatcher import Dispatcher
from domain.data import database
from domain.data.models import Operation
from domain.progress import outbox
from domain.rules.messages import OperationInput
from domain.rules.states import Action, OperationStatus
from tests.api.conftest import Person
from tests.api.dispatching import (
    UNAVAILABLE,
    Recorder,
    all_operations,
    dispatching,
    make_due,
    queue_operations,
    until,
    until_delivered,
)
from tests.conftest import make_settings
from tests.support.rows import claim


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll the outbox often."""
    monkeypatch.setattr(dispatcher, "PAUSE", 0.05)


async def test_several_dispatchers_deliver_each_operation_once(engine: AsyncEngine) -> None:
    ids = await queue_operations(engine, 100)
    clients = [Recorder() for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(dispatching(engine, client))
        await until(lambda: sum(len(client.started) for client in clients) >= 100)
    assert Counter(id for client in clients for id in client.started) == Counter(ids)
    assert all(0 < client.max_concurrent <= dispatcher.BATCH for client in clients)
    operations = await all_operations(engine)
    # A dispatcher that wanted an operation which another one has leased meanwhile holds its lock for a moment. If the
    # other one records its delivery just then, it skips the row, which is due again when its lease ends.
    assert {operation.deliveries for operation in operations} <= {0, 1}
    assert {operation.status for operation in operations} == {OperationStatus.QUEUED}


@pytest.mark.delivers
async def test_a_wake_up_delivers_a_new_operation_at_once(ada: Person, engine: AsyncEngine) -> None:
    client = Recorder()
    async with dispatching(engine, client) as running:
        vm = await ada.create()
        running.wake()
        await until(lambda: client.started)
    assert client.started == [f"create-{vm['id']}-{vm['operation_id']}"]


async def test_operations_wait_while_temporal_is_unavailable_and_one_line_is_logged(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api.background.dispatcher")
    client = Recorder()
    client.error = UNAVAILABLE
    ids = await queue_operations(engine, 20)
    async with dispatching(engine, client):
        await until(lambda: "connection refused" in caplog.text)
        await asyncio.sleep(0.3)
        assert {operation.deliveries for operation in await all_operations(engine)} == {0}
        await make_due(engine)  # before a delivery succeeds: its record would skip the rows that this has locked
        client.error = None
        await until(lambda: len(client.started) >= 20)
    assert Counter(client.started) == Counter(ids)
    lines = [record.message for record in caplog.records if record.name == "api.background.dispatcher"]
    assert lines == [
        "Temporal is unavailable, operations wait: RPCError: connection refused",
        "Temporal is available again, operations are delivered",
    ]


@pytest.mark.parametrize(
    "refusal", [ValueError("bad input"), RPCError("bad input", RPCStatusCode.INVALID_ARGUMENT, b"")]
)
async def test_operations_that_cannot_be_delivered_do_not_stop_the_others(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture, refusal: Exception
) -> None:
    bad = await queue_operations(engine, 2 * dispatcher.BATCH)

    class RefusesOne(Recorder):
        async def start_workflow(self, _workflow: str, _input: OperationInput, *, id: str, **options: Any) -> None:
            if id in bad:
                raise refusal
            await super().start_workflow(_workflow, _input, id=id, **options)

    client = RefusesOne()
    good = await queue_operations(engine, 5)
    async with dispatching(engine, client):
        await until(lambda: len(client.started) >= 5)
    assert Counter(client.started) == Counter(good)
    assert "bad input" in caplog.text
    assert "unavailable" not in caplog.text


async def test_an_operation_of_a_project_that_is_gone_does_not_stop_the_others(engine: AsyncEngine) -> None:
    """As after a restore that went wrong, or if a DBA hides rows."""
    await queue_operations(engine, 1)
    async with engine.begin() as tx:
        await tx.execute(text("SET LOCAL session_replication_role = replica"))
        await tx.execute(update(Operation).values(owner_id=uuid4()))
    good = await queue_operations(engine, 5)
    client = Recorder()
    async with dispatching(engine, client):
        await until(lambda: set(good) <= set(client.started))


async def test_a_workflow_that_was_started_before_counts_as_delivered(engine: AsyncEngine) -> None:
    client = Recorder()
    client.error = WorkflowAlreadyStartedError("id", "CreateVM")
    await queue_operations(engine, 1)
    async with dispatching(engine, client):
        await until_delivered(engine)


async def test_another_process_delivers_the_leases_of_a_dead_one_when_they_expire(engine: AsyncEngine) -> None:
    class Stuck(Recorder):
        async def start_workflow(self, *_: Any, **__: Any) -> None:
            self.started.append("began")
            await asyncio.Event().wait()

    [id] = await queue_operations(engine, 1)
    stuck, client = Stuck(), Recorder()
    dead = asyncio.create_task(Dispatcher(engine, cast("Client", stuck), "queue").run())
    await until(lambda: stuck.started)
    dead.cancel()
    async with dispatching(engine, client) as running:
        for _ in range(5):
            running.wake()
            await asyncio.sleep(0.02)
        assert client.started == [], "the lease has not expired"
        await make_due(engine)
        await until(lambda: client.started)
    assert client.started == [id]


async def test_a_delivered_operation_is_not_delivered_again(engine: AsyncEngine) -> None:
    client = Recorder()
    await queue_operations(engine, 1)
    async with dispatching(engine, client):
        await until_delivered(engine)
        await make_due(engine)
        [other] = await queue_operations(engine, 1)
        await until(lambda: other in client.started)
    assert len(client.started) == 2


async def test_a_superseded_operation_is_not_delivered(ada: Person, engine: AsyncEngine) -> None:
    vm = await ada.create()
    async with engine.begin() as tx:
        delete = await claim(tx, UUID(vm["id"]), Action.DELETE)
    client = Recorder()
    await make_due(engine)
    async with dispatching(engine, client):
        await until(lambda: client.started)
    assert client.started == [f"delete-{vm['id']}-{delete.id}"]


async def test_stop_waits_for_deliveries_in_progress_and_records_them(engine: AsyncEngine) -> None:
    release, client = asyncio.Event(), Recorder()

    class Slow(Recorder):
        async def start_workflow(self, *_: Any, **__: Any) -> None:
            client.started.append("began")
            await release.wait()

    await queue_operations(engine, 1)
    async with dispatching(engine, Slow()) as running:
        await until(lambda: client.started)
        await queue_operations(engine, 1)
        running.stop()
        release.set()
    assert sorted(operation.deliveries for operation in await all_operations(engine)) == [0, 1]


async def test_stop_does_not_wait_for_an_unavailable_database() -> None:
    engine = database.create_engine(make_settings("postgresql://postgres@127.0.0.1:1/nowhere"))
    async with dispatching(engine, Recorder()):
        await asyncio.sleep(0.1)


async def test_unexpected_errors_do_not_end_the_dispatcher(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = Recorder()
    lease = outbox.lease_operations
    monkeypatch.setattr(outbox, "lease_operations", None)
    async with dispatching(engine, client):
        await until(lambda: "Postgres is unavailable" in caplog.text)
        await queue_operations(engine, 1)
        monkeypatch.setattr(outbox, "lease_operations", lease)
        await until(lambda: client.started)


async def test_an_operation_that_cannot_be_read_holds_up_no_other(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does Temporal count as unavailable because of it."""
    broken, *others = await queue_operations(engine, 4)
    async with engine.begin() as tx:
        await tx.execute(update(Operation).where(Operation.workflow_id == broken).values(input={"name": 1}))
    client = Recorder()
    async with dispatching(engine, client):
        await until(lambda: len(client.started) == len(others))
        await until(lambda: "cannot be delivered" in caplog.text)
        later = await queue_operations(engine, 1)
        await until(lambda: later[0] in client.started)
    assert set(client.started) == {*others, *later}
    assert caplog.text.count("cannot be delivered") == 1, "it is tried again after half a minute, not at once"
    assert "is unavailable" not in caplog.text


async def test_a_wake_up_causes_one_round_and_not_one_after_the_other(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "PAUSE", 60.0)
    leases, lease = [], outbox.lease_operations

    async def count_leases(*arguments: Any) -> Any:
        leases.append(arguments)
        return await lease(*arguments)

    monkeypatch.setattr(outbox, "lease_operations", count_leases)
    async with dispatching(engine, Recorder()) as running:
        await until(lambda: leases)
        running.wake()
        await until(lambda: len(leases) > 1)
        await asyncio.sleep(0.2)
    assert len(leases) <= 3
