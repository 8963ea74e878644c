"""Delivers accepted operations from the outbox to Temporal, in every API process.

The dispatcher works in rounds. Each round opens one short transaction that records the outcomes of the last round and
leases the next batch. It then starts or signals the workflows of that batch, outside any transaction: an RPC may take
seconds, and a transaction would hold a connection and row locks all that time.

A process may die between the two. Its leases expire, and another process delivers the same operations again. A second
start of a workflow is harmless: the workflow's id contains the operation's id, and Temporal refuses an id that was used
before.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from api.background import decision_delivery
from api.background.transactions import Transactions
from api.background.workflow_start import Delivery, start_workflow
from domain.data import outages
from domain.data.models import VM, Operation
from domain.data.projects import Project
from domain.progress import outbox
from domain.search_attributes import LONGEST_NAME, Names

logger = logging.getLogger(__name__)

BATCH = 16  # workflows that are started concurrently; more would only queue in the Temporal server
LEASE = 10.0  # seconds; a delivery that takes longer may be repeated, which is harmless
CHECK_AFTER = 30.0  # seconds from a delivery to the first check of its workflow, and between later checks
PAUSE = 1.0  # seconds between polls of the outbox, and between attempts while Postgres or Temporal is unavailable


class Dispatcher:
    """Delivers operations from `run` until `stop`; no error ends it in between."""

    def __init__(self, engine: AsyncEngine, client: Client, task_queue: str, names: Names = "vms") -> None:
        self._transactions = Transactions(engine)
        self._client = client
        self._task_queue = task_queue
        self._names: Names = names
        self._woken = asyncio.Event()
        self._stopped = asyncio.Event()
        self._outcomes: dict[UUID, Exception | None] = {}  # of the last batch, until they are recorded
        self._unavailable: set[str] = set()

    def wake(self) -> None:
        """Poll the outbox now."""
        self._woken.set()

    def stop(self) -> None:
        """Stop leasing. `run` returns once the outcomes of the current batch are recorded."""
        self._stopped.set()
        self._woken.set()

    async def run(self) -> None:
        """Deliver operations until stopped."""
        while not self._stopped.is_set() or self._outcomes:
            self._woken.clear()  # before the lease, so that a wake-up during this round causes another one
            try:
                batch = await self._record_and_lease()
            except Exception as error:  # noqa: BLE001 - no error may end deliveries for good
                self._note_unavailable("Postgres", error)
                if self._stopped.is_set():
                    return  # outcomes that are not recorded cost a second delivery only
            else:
                self._note_available("Postgres")
                await self._deliver_batch(batch)
            if self._unavailable:
                await _pause(self._stopped)  # new operations are no reason to retry sooner
            elif not self._outcomes:
                await _pause(self._woken)

    async def _record_and_lease(self) -> Sequence[Delivery]:
        delivered = [id for id, error in self._outcomes.items() if error is None]
        undelivered = [id for id, error in self._outcomes.items() if error is not None and _is_of_service(error)]
        broken = [id for id, error in self._outcomes.items() if error is not None and not _is_of_service(error)]
        async with self._transactions.begin() as tx:
            if delivered:
                await outbox.note_delivered(tx, delivered, CHECK_AFTER)
            if undelivered:
                await outbox.note_undelivered(tx, undelivered, PAUSE)
            if broken:
                await outbox.note_undelivered(tx, broken, CHECK_AFTER)
            batch = [] if self._stopped.is_set() else await self._lease(tx)
        self._outcomes = {}
        return batch

    async def _lease(self, tx: AsyncConnection) -> Sequence[Delivery]:
        limit = 1 if "Temporal" in self._unavailable else BATCH  # one delivery is enough to see whether it is back
        operations = await outbox.lease_operations(tx, limit, LEASE)
        if not operations:
            return []
        user_id = func.coalesce(Operation.requested_by, Operation.owner_id)
        # Outer joins: what cannot be read, after a restore that went wrong for example, must not hold up the others.
        project = func.left(func.coalesce(Project.name, "unknown"), LONGEST_NAME)
        facts = select(Operation.id, func.left(VM.name, LONGEST_NAME), project, user_id)
        facts = facts.outerjoin(Project, Project.id == Operation.owner_id).outerjoin(VM, VM.id == Operation.vm_id)
        rows = await tx.execute(facts.where(Operation.id.in_([operation.id for operation in operations])))
        facts_of = {id: (vm_name, owner_name, user) for id, vm_name, owner_name, user in rows}
        return [Delivery(operation, *facts_of[operation.id], self._names) for operation in operations]

    async def _deliver_batch(self, batch: Sequence[Delivery]) -> None:
        errors = await asyncio.gather(*(self._deliver(delivery) for delivery in batch))
        self._outcomes = {delivery.operation.id: error for delivery, error in zip(batch, errors, strict=True)}
        failures = {id: error for id, error in self._outcomes.items() if error}
        if failures and len(failures) == len(batch) and any(map(_is_of_service, failures.values())):
            self._note_unavailable("Temporal", next(iter(failures.values())))
        elif batch:
            if len(failures) < len(batch):
                self._note_available("Temporal")
            for id, error in failures.items():
                logger.error("operation %s cannot be delivered: %s", id, outages.describe(error))

    async def _deliver(self, delivery: Delivery) -> Exception | None:
        """Hand the operation to Temporal; the error if that failed."""
        try:
            if decision_delivery.is_for_waiting_workflow(delivery.operation):
                await decision_delivery.deliver(self._transactions, self._client, self._task_queue, delivery)
            else:
                await start_workflow(self._client, self._task_queue, delivery)
        except WorkflowAlreadyStartedError:
            return None  # an earlier delivery arrived, although its outcome was not recorded
        except Exception as error:  # noqa: BLE001 - after any error the operation stays in the outbox
            return error
        return None

    def _note_unavailable(self, service: str, error: Exception) -> None:
        if service not in self._unavailable:
            logger.error("%s is unavailable, operations wait: %s", service, outages.describe(error))
        self._unavailable.add(service)

    def _note_available(self, service: str) -> None:
        if service in self._unavailable:
            logger.info("%s is available again, operations are delivered", service)
        self._unavailable.discard(service)


def _is_of_service(error: Exception) -> bool:
    """Whether a service is to blame; any other error is of the operation itself, and must not hold up the next one."""
    if isinstance(error, RPCError):
        return error.status is not RPCStatusCode.INVALID_ARGUMENT
    return isinstance(error, RuntimeError) or outages.is_outage(error)


async def _pause(until: asyncio.Event) -> None:
    """Sleep for PAUSE seconds, or until the event."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PAUSE):
            await until.wait()
