"""Takes accepted operations from the outbox to Temporal, in every API process.

Operations are leased in a short transaction, their workflows started outside of any, and the outcomes noted in the
next. A process that dies in between loses its lease; the workflow's id makes the second start harmless.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import cast
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client
from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from domain import search_attributes
from domain.data.models import VM, Operation, User
from domain.progress import outbox, workflow_input
from domain.rules.markdown import quoted, title
from domain.rules.table import TABLE

logger = logging.getLogger(__name__)

BATCH = 16  # workflows that are being started at once: more would only queue in the Temporal server
LEASE = 10.0  # seconds; a delivery that takes longer may be made twice, which unique ids make harmless
LOOK_IN = 30.0  # seconds until somebody looks whether the operation has a workflow that is open
PAUSE = 1.0  # seconds between looks at the outbox, and between attempts while something is away
RPC_TIMEOUT = timedelta(seconds=3)
TASK_TIMEOUT = timedelta(seconds=4)  # a task that a worker died with stands still for so long; one takes some 50 ms
_LONGEST_NAME = 64  # characters of a VM's name that are shown with its workflows


@dataclass(frozen=True, slots=True)
class Delivery:
    """An operation that has been leased, its VM's name if it has one, and whose it is."""

    operation: Operation
    vm_name: str | None
    owner: str


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

    async def _note_and_lease(self) -> list[Delivery]:
        delivered = [id for id, error in self._outcomes.items() if error is None]
        undelivered = [id for id, error in self._outcomes.items() if error is not None]
        async with self._engine.begin() as tx:
            if delivered:
                await outbox.note_delivered(tx, delivered, LOOK_IN)
            if undelivered:
                await outbox.note_undelivered(tx, undelivered, PAUSE)
            leased = [] if self._stopped.is_set() else await self._lease(tx)
        self._outcomes = {}
        return leased

    async def _lease(self, tx: AsyncConnection) -> list[Delivery]:
        limit = 1 if "Temporal" in self._away else BATCH
        operations = await outbox.lease_operations(tx, limit, LEASE)
        if not operations:
            return []
        people_know = select(Operation.id, func.left(VM.name, _LONGEST_NAME), User.username)
        of_operation = people_know.join(User, User.id == Operation.owner_id).outerjoin(VM, VM.id == Operation.vm_id)
        known = await tx.execute(of_operation.where(Operation.id.in_([one.id for one in operations])))
        shown = {id: (name, owner) for id, name, owner in known}
        return [Delivery(operation, *shown[operation.id]) for operation in operations]

    async def _deliver_all(self, leased: list[Delivery]) -> None:
        errors = await asyncio.gather(*(self._deliver(one) for one in leased))
        self._outcomes = {one.operation.id: error for one, error in zip(leased, errors, strict=True)}
        failures = {id: error for id, error in self._outcomes.items() if error}
        if failures and len(failures) == len(leased):
            self._is_away("Temporal", next(iter(failures.values())))
        elif leased:
            self._is_back("Temporal")
            for id, error in failures.items():
                logger.error("operation %s cannot be delivered: %s", id, error)

    async def _deliver(self, one: Delivery) -> Exception | None:
        operation = one.operation
        try:
            if operation.workflow_id == outbox.workflow_of(operation):
                await self._start(one)
            elif not await self._signal(one):
                await self._reroute(one)
        except WorkflowAlreadyStartedError:
            return None
        except Exception as error:  # noqa: BLE001 - the operation stays in the outbox, whatever it was
            return error
        return None

    async def _signal(self, one: Delivery) -> bool:
        """Tell the workflow that waits for the operation; False where it is gone."""
        waiting = self._client.get_workflow_handle(one.operation.workflow_id)
        signal, input = (
            cast("str", TABLE[one.operation.action].signal),
            workflow_input.input_of(one.operation, one.vm_name),
        )
        try:
            await waiting.signal(signal, input, rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def _reroute(self, one: Delivery) -> None:
        """Start a workflow for the operation alone; its row names it first, for a delete to find."""
        async with self._engine.begin() as tx:
            rerouted = await outbox.give_own_workflow(tx, one.operation)
        if rerouted is not None:
            await self._start(replace(one, operation=rerouted))

    async def _start(self, one: Delivery) -> None:
        operation = one.operation
        input = workflow_input.input_of(operation, one.vm_name)
        await self._client.start_workflow(
            TABLE[operation.action].workflow,
            input,
            id=operation.workflow_id,
            task_queue=self._task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            memo={"request_id": operation.request_id, "actor": operation.actor},
            search_attributes=_search_attributes(one),
            static_summary=f"{title(operation.action.word, input.vm_name, input.about)} for {quoted(operation.actor)}",
            static_details=_details(one),
            priority=Priority(fairness_key=str(operation.owner_id)),  # of its activities as well
            task_timeout=TASK_TIMEOUT,
            rpc_timeout=RPC_TIMEOUT,
        )

    def _is_away(self, what: str, error: Exception) -> None:
        if what not in self._away:
            logger.error("operations wait, %s is away: %s", what, error)
        self._away.add(what)

    def _is_back(self, what: str) -> None:
        if what in self._away:
            logger.info("%s is back, operations are delivered again", what)
        self._away.discard(what)


def _details(one: Delivery) -> str:
    """What stays true however long the workflow runs, as Markdown."""
    operation = one.operation
    is_other = operation.resource_id != operation.vm_id
    lines = {
        "Asked": f"{operation.created_at:%Y-%m-%d %H:%M:%S} UTC by {quoted(operation.actor)}",
        "Owner": quoted(one.owner),
        **({"VM": quoted(str(operation.vm_id))} if operation.vm_id else {}),
        **({operation.resource_type.capitalize(): quoted(str(operation.resource_id))} if is_other else {}),
        "Operation": quoted(str(operation.id)),
        "Request": quoted(operation.request_id),
    }
    return "\n".join(f"- **{name}:** {text}" for name, text in lines.items())


def _search_attributes(one: Delivery) -> TypedSearchAttributes:
    operation = one.operation
    found_by = {
        search_attributes.VM: str(operation.vm_id) if operation.vm_id else None,
        search_attributes.VM_NAME: one.vm_name,
        search_attributes.RESOURCE: str(operation.resource_id),
        search_attributes.OWNER: one.owner,
        search_attributes.ACTION: operation.action.word,
    }
    return TypedSearchAttributes([SearchAttributePair(key, value) for key, value in found_by.items() if value])


async def _pause(event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PAUSE):
            await event.wait()
