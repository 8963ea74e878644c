"""From the outbox to Temporal: everything arrives, whatever is away, and as good as nothing twice."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from api.background import dispatcher
from api.background.dispatcher import Dispatcher
from domain import search_attributes
from domain.data import database
from domain.data.models import VM, Operation
from domain.progress import outbox
from domain.rules.messages import OperationInput
from domain.rules.states import Action, OperationStatus
from tests.api.conftest import Person
from tests.conftest import make_settings
from tests.support.rows import add_operation, add_user, add_vm, claim

UNAVAILABLE = RPCError("nobody is there", RPCStatusCode.UNAVAILABLE, b"")


class Recorder:
    """A Temporal client that writes down what is started; while `error` is set it raises that."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.error: Exception | None = None
        self.most_at_once = 0
        self._at_once = 0

    async def start_workflow(self, _workflow: str, _input: OperationInput, *, id: str, **_options: Any) -> None:
        """Take a moment, as the server would."""
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0.01)
        self._at_once -= 1
        if self.error:
            raise self.error
        self.started.append(id)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again soon."""
    monkeypatch.setattr(dispatcher, "PAUSE", 0.05)


@contextlib.asynccontextmanager
async def dispatching(engine: AsyncEngine, client: object) -> AsyncIterator[Dispatcher]:
    """A dispatcher at work."""
    one = Dispatcher(engine, cast("Client", client), "queue")
    task = asyncio.create_task(one.run())
    yield one
    one.stop()
    await asyncio.wait_for(task, 5)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for the condition, with an end."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it looks at has no event
            await asyncio.sleep(0.01)


async def until_delivered(engine: AsyncEngine, times: int) -> None:
    """Wait until the only operation was delivered that often."""
    async with asyncio.timeout(10):
        while (await all_operations(engine))[0].deliveries < times:  # noqa: ASYNC110 - the database has no event
            await asyncio.sleep(0.01)


async def queue(engine: AsyncEngine, number: int) -> list[str]:
    """Put that many creates into the outbox; their workflow ids."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vms = [await add_vm(tx, user) for _ in range(number)]
        queued = OperationStatus.QUEUED
        return [(await add_operation(tx, vm, Action.CREATE, status=queued)).workflow_id for vm in vms]


async def all_operations(engine: AsyncEngine) -> list[Operation]:
    """Every operation, as it is now."""
    async with engine.connect() as connection:
        return list((await connection.execute(select(Operation))).all())  # type: ignore[arg-type] # rows


async def make_due(engine: AsyncEngine) -> None:
    """Let the time of every lease and receipt be over."""
    async with engine.begin() as tx:
        await tx.execute(update(Operation).values(deliver_after=Operation.created_at))


async def test_each_operation_is_delivered_once_however_many_dispatchers_there_are(engine: AsyncEngine) -> None:
    ids = await queue(engine, 100)
    clients = [Recorder() for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(dispatching(engine, client))
        await until(lambda: sum(len(client.started) for client in clients) >= 100)
    assert Counter(id for client in clients for id in client.started) == Counter(ids)
    assert all(0 < client.most_at_once <= dispatcher.BATCH for client in clients)
    operations = await all_operations(engine)
    assert {operation.deliveries for operation in operations} == {1}
    assert {operation.status for operation in operations} == {OperationStatus.QUEUED}


async def test_what_is_asked_for_is_delivered_at_once(ada: Person, engine: AsyncEngine) -> None:
    client = Recorder()
    async with dispatching(engine, client) as one:
        vm = await ada.create()
        one.wake()
        await until(lambda: client.started)
    assert client.started == [f"create-{vm['id']}-{vm['operation_id']}"]


async def test_while_temporal_is_away_operations_wait_and_one_line_says_so(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api.background.dispatcher")
    client = Recorder()
    client.error = UNAVAILABLE
    ids = await queue(engine, 20)
    async with dispatching(engine, client):
        await until(lambda: "nobody is there" in caplog.text)
        await asyncio.sleep(0.3)
        assert {operation.deliveries for operation in await all_operations(engine)} == {0}
        client.error = None
        await make_due(engine)
        await until(lambda: len(client.started) >= 20)
    assert Counter(client.started) == Counter(ids)
    lines = [record.message for record in caplog.records if record.name == "api.background.dispatcher"]
    assert lines == [
        "operations wait, Temporal is away: nobody is there",
        "Temporal is back, operations are delivered again",
    ]


async def test_one_operation_that_cannot_be_delivered_stops_no_other(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    [bad] = await queue(engine, 1)

    class Choosy(Recorder):
        async def start_workflow(self, _workflow: str, _input: OperationInput, *, id: str, **options: Any) -> None:
            if id == bad:
                raise ValueError("this one")
            await super().start_workflow(_workflow, _input, id=id, **options)

    client = Choosy()
    good = await queue(engine, 5)
    async with dispatching(engine, client):
        await until(lambda: len(client.started) >= 5)
    assert Counter(client.started) == Counter(good)
    assert "this one" in caplog.text


async def test_a_workflow_that_was_started_before_counts_as_delivered(engine: AsyncEngine) -> None:
    client = Recorder()
    client.error = WorkflowAlreadyStartedError("id", "CreateVM")
    await queue(engine, 1)
    async with dispatching(engine, client):
        await until_delivered(engine, 1)


async def test_what_a_dead_process_had_leased_is_delivered_when_the_lease_is_over(engine: AsyncEngine) -> None:
    class Stuck(Recorder):
        async def start_workflow(self, *_: Any, **__: Any) -> None:
            self.started.append("began")
            await asyncio.Event().wait()

    [id] = await queue(engine, 1)
    stuck, client = Stuck(), Recorder()
    dead = asyncio.create_task(Dispatcher(engine, cast("Client", stuck), "queue").run())
    await until(lambda: stuck.started)
    dead.cancel()
    async with dispatching(engine, client) as one:
        for _ in range(5):
            one.wake()
            await asyncio.sleep(0.02)
        assert client.started == [], "the lease holds"
        await make_due(engine)
        await until(lambda: client.started)
    assert client.started == [id]


async def test_what_was_delivered_is_not_delivered_again(engine: AsyncEngine) -> None:
    client = Recorder()
    await queue(engine, 1)
    async with dispatching(engine, client):
        await until_delivered(engine, 1)
        await make_due(engine)
        [other] = await queue(engine, 1)
        await until(lambda: other in client.started)
    assert len(client.started) == 2


async def test_a_superseded_operation_is_not_delivered(ada: Person, engine: AsyncEngine) -> None:
    vm = await ada.create()
    async with engine.begin() as tx:
        delete = await claim(tx, (await connected_vm(engine)).id, Action.DELETE)
    client = Recorder()
    await make_due(engine)
    async with dispatching(engine, client):
        await until(lambda: client.started)
    assert client.started == [f"delete-{vm['id']}-{delete.id}"]


async def connected_vm(engine: AsyncEngine) -> VM:
    """The only VM."""
    async with engine.connect() as connection:
        return (await connection.execute(select(VM))).one()  # type: ignore[return-value] # a row


async def test_stopping_waits_for_what_is_in_flight_and_notes_it(engine: AsyncEngine) -> None:
    release, client = asyncio.Event(), Recorder()

    class Slow(Recorder):
        async def start_workflow(self, *_: Any, **__: Any) -> None:
            client.started.append("began")
            await release.wait()

    await queue(engine, 1)
    one = Dispatcher(engine, cast("Client", Slow()), "queue")
    task = asyncio.create_task(one.run())
    await until(lambda: client.started)
    await queue(engine, 1)
    one.stop()
    release.set()
    await asyncio.wait_for(task, 5)
    assert sorted(operation.deliveries for operation in await all_operations(engine)) == [0, 1]


async def test_stopping_does_not_wait_for_a_database_that_is_away() -> None:
    engine = database.create_engine(make_settings("postgresql://postgres@127.0.0.1:1/nowhere"))
    async with dispatching(engine, Recorder()):
        await asyncio.sleep(0.1)


async def test_it_outlives_errors_that_nobody_expects(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = Recorder()
    lease = outbox.lease_operations
    monkeypatch.setattr(outbox, "lease_operations", None)
    async with dispatching(engine, client):
        await until(lambda: "Postgres is away" in caplog.text)
        await queue(engine, 1)
        monkeypatch.setattr(outbox, "lease_operations", lease)
        await until(lambda: client.started)


async def test_a_name_makes_nothing_of_the_summary_but_itself(engine: AsyncEngine, temporal: Client) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), name="[pay](http://evil.example) `<b>` **now**")
        operation = await add_operation(tx, vm, Action.STOP, status=OperationStatus.QUEUED)
    one = Dispatcher(engine, temporal, f"nobody-{uuid4()}")
    task = asyncio.create_task(one.run())
    await until_delivered(engine, 1)
    one.stop()
    await task
    workflow = await temporal.get_workflow_handle(operation.workflow_id).describe()
    assert await workflow.static_summary() == "stop VM `[pay](http://evil.example) '<b>' **now**` for `test`"


async def test_temporal_gets_all_that_a_person_needs_to_recognise_it(engine: AsyncEngine, temporal: Client) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user, name="n" * 100)
        operation = await add_operation(tx, vm, Action.REBOOT_HARD, status=OperationStatus.QUEUED)
    task_queue = f"nobody-{uuid4()}"
    one = Dispatcher(engine, temporal, task_queue)
    task = asyncio.create_task(one.run())
    await until_delivered(engine, 1)
    async with engine.begin() as tx:
        await outbox.deliver_again(tx, operation)
    await until_delivered(engine, 1)
    one.stop()
    await task
    workflow = await temporal.get_workflow_handle(operation.workflow_id).describe()
    assert (workflow.workflow_type, workflow.task_queue) == ("RebootVM", task_queue)
    assert await workflow.memo() == {"request_id": "test-request", "actor": "test"}
    assert await workflow.static_summary() == f"reboot VM `{'n' * 64}` for `test`"
    details = await workflow.static_details() or ""
    assert all(str(word) in details for word in (vm.id, operation.id, user.username, "test-request"))
    found_by = {
        pair.key.name: pair.value for pair in workflow.typed_search_attributes if pair.key in search_attributes.ALL
    }
    named = {"VM": str(vm.id), "VMName": "n" * 64, "Resource": str(vm.id)}
    assert found_by == named | {"Owner": user.username, "Action": "reboot"}
    assert workflow.history_length <= 2, "started once"
