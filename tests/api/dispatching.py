"""A running dispatcher, stand-ins for its Temporal client, and operations for its outbox."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from api.background.dispatcher import Dispatcher
from domain.data.models import Operation
from domain.rules.messages import OperationInput
from domain.rules.states import Action, OperationStatus
from domain.search_attributes import Names
from tests.support.rows import add_operation, add_user, add_vm

UNAVAILABLE = RPCError("connection refused", RPCStatusCode.UNAVAILABLE, b"")


class Recorder:
    """A Temporal client that records the workflows it starts; while `error` is set, it raises that."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.error: Exception | None = None
        self.max_concurrent = 0
        self._concurrent = 0

    async def start_workflow(self, _workflow: str, _input: OperationInput, *, id: str, **_options: Any) -> None:
        """Take a moment, as the server would."""
        self._concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self._concurrent)
        await asyncio.sleep(0.01)
        self._concurrent -= 1
        if self.error:
            raise self.error
        self.started.append(id)


class FakeTemporal:
    """A Temporal client with workflows of given statuses; a workflow that has none is unknown."""

    def __init__(self) -> None:
        self.statuses: dict[str, WorkflowExecutionStatus | None] = {}
        self.run_id = "first-run"
        self.described: list[str] = []
        self.canceled: list[str] = []
        self.signals: list[tuple[str, str, OperationInput]] = []
        self.is_unavailable = False

    def get_workflow_handle(self, workflow_id: str) -> Any:
        """A handle that can be described, canceled and signaled."""
        client = self

        class Handle:
            async def describe(self, **_options: Any) -> Any:
                if client.is_unavailable:
                    raise RPCError("unavailable", RPCStatusCode.UNAVAILABLE, b"")
                client.described.append(workflow_id)
                self.status, self.run_id = client.statuses.get(workflow_id), client.run_id
                if self.status is None:
                    raise RPCError("not found", RPCStatusCode.NOT_FOUND, b"")
                return self

            async def cancel(self, **_options: Any) -> None:
                client.canceled.append(workflow_id)

            async def signal(self, name: str, input: OperationInput, **_options: Any) -> None:
                client.signals.append((workflow_id, name, input))

        return Handle()


@contextlib.asynccontextmanager
async def dispatching(
    engine: AsyncEngine, client: object, task_queue: str = "queue", names: Names = "vms"
) -> AsyncIterator[Dispatcher]:
    """A running dispatcher."""
    dispatcher = Dispatcher(engine, cast("Client", client), task_queue, names)
    task = asyncio.create_task(dispatcher.run())
    yield dispatcher
    dispatcher.stop()
    await asyncio.wait_for(task, 5)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds; TimeoutError after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - conditions have no event
            await asyncio.sleep(0.01)


async def until_delivered(engine: AsyncEngine) -> None:
    """Wait until every operation has been delivered; TimeoutError after ten seconds."""
    async with asyncio.timeout(10):
        while not all([operation.deliveries for operation in await all_operations(engine)]):  # noqa: ASYNC110, C419
            await asyncio.sleep(0.01)


async def queue_operations(engine: AsyncEngine, number: int) -> Sequence[str]:
    """Put so many creates into the outbox, and return their workflow ids."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vms = [await add_vm(tx, user) for _ in range(number)]
        queued = OperationStatus.QUEUED
        return [(await add_operation(tx, vm, Action.CREATE, status=queued)).workflow_id for vm in vms]


async def all_operations(engine: AsyncEngine) -> Sequence[Operation]:
    """Every operation as it is now."""
    async with engine.connect() as connection:
        return (await connection.execute(select(Operation))).all()  # type: ignore[return-value] # rows


async def make_due(engine: AsyncEngine) -> None:
    """Let every lease and every pause end now."""
    async with engine.begin() as tx:
        await tx.execute(update(Operation).values(deliver_after=Operation.created_at))
