"""Takes accepted operations from the outbox to Temporal, in every API process.

Operations are leased in a short transaction, their workflows started outside of any, and the outcomes noted in the
next. A process that dies in between loses its lease; the workflow's id makes the second start harmless.
"""

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import cast
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from domain import store
from domain.lifecycle import TABLE
from domain.messages import OperationInput
from domain.models import VM, Operation

logger = logging.getLogger(__name__)

BATCH = 16  # workflows that are being started at once: more would only queue in the Temporal server
LEASE = 10.0  # seconds; longer than the slowest delivery
RECEIPT = 30.0  # seconds a worker has for its first step before the operation is delivered again
PAUSE = 1.0  # seconds between looks at the outbox, and between attempts while something is away
RPC_TIMEOUT = timedelta(seconds=3)
_LONGEST_NAME = 64  # characters of a VM's name in a workflow's summary


class Dispatcher:
    """Delivers operations from `run` until `stop`; nothing that goes wrong ends it in between."""

    def __init__(self, engine: AsyncEngine, client: Client, task_queue: str) -> None:
        self._engine = engine
        self._client = client
        self._task_queue = task_queue
        self._news = asyncio.Event()
        self._stopped = asyncio.Event()
        self._outcomes: dict[UUID, Exception | None] = {}
        self._away: set[str] = set()

    def wake(self) -> None:
        """Look at the outbox now."""
        self._news.set()

    def stop(self) -> None:
        """Lease no more; `run` returns when what is in flight has been noted."""
        self._stopped.set()
        self._news.set()

    async def run(self) -> None:
        """Deliver until stopped."""
        while not self._stopped.is_set() or self._outcomes:
            self._news.clear()
            try:
                leased = await self._note_and_lease()
            except Exception as error:  # noqa: BLE001 - whatever it was, operations must go on being delivered
                self._is_away("Postgres", error)
                if self._stopped.is_set():
                    return
            else:
                self._is_back("Postgres")
                await self._deliver_all(leased)
            if self._away:
                await _pause(self._stopped)
            elif not self._outcomes:
                await _pause(self._news)

    async def _note_and_lease(self) -> list[tuple[Operation, str]]:
        delivered = [id for id, error in self._outcomes.items() if error is None]
        undelivered = [id for id, error in self._outcomes.items() if error is not None]
        async with self._engine.begin() as tx:
            if delivered:
                await store.note_delivered(tx, delivered, RECEIPT)
            if undelivered:
                await store.note_undelivered(tx, undelivered, PAUSE)
            leased = [] if self._stopped.is_set() else await self._lease(tx)
        self._outcomes = {}
        return leased

    async def _lease(self, tx: AsyncConnection) -> list[tuple[Operation, str]]:
        limit = 1 if "Temporal" in self._away else BATCH
        operations = await store.lease_operations(tx, limit, LEASE)
        if not operations:
            return []
        named = await tx.execute(select(VM.id, VM.name).where(VM.id.in_([one.vm_id for one in operations])))
        names = dict(named.all())
        return [(operation, names[operation.vm_id]) for operation in operations]

    async def _deliver_all(self, leased: list[tuple[Operation, str]]) -> None:
        errors = await asyncio.gather(*(self._deliver(operation, name) for operation, name in leased))
        self._outcomes = {operation.id: error for (operation, _), error in zip(leased, errors, strict=True)}
        failures = {id: error for id, error in self._outcomes.items() if error}
        if failures and len(failures) == len(leased):
            self._is_away("Temporal", next(iter(failures.values())))
        elif leased:
            self._is_back("Temporal")
            for id, error in failures.items():
                logger.error("operation %s cannot be delivered: %s", id, error)

    async def _deliver(self, operation: Operation, name: str) -> Exception | None:
        workflow = cast("str", TABLE[operation.action].workflow)
        input = OperationInput(operation.id, operation.vm_id, operation.action, operation.epoch)
        try:
            await self._client.start_workflow(
                workflow,
                input,
                id=operation.workflow_id,
                task_queue=self._task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                memo={"request_id": operation.request_id, "actor": operation.actor},
                static_summary=f"{operation.action.word} VM {name[:_LONGEST_NAME]} for {operation.actor}",
                rpc_timeout=RPC_TIMEOUT,
            )
        except WorkflowAlreadyStartedError:
            return None
        except Exception as error:  # noqa: BLE001 - the operation stays in the outbox, whatever it was
            return error
        return None

    def _is_away(self, what: str, error: Exception) -> None:
        if what not in self._away:
            logger.error("operations wait, %s is away: %s", what, error)
        self._away.add(what)

    def _is_back(self, what: str) -> None:
        if what in self._away:
            logger.info("%s is back, operations are delivered again", what)
        self._away.discard(what)


async def _pause(event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PAUSE):
            await event.wait()
