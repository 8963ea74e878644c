"""Looks after operations that were delivered: each has a workflow that is open, until it has ended.

A workflow is looked up by the id that its operation has, never in Temporal's index of them, which lags behind. Several
processes share the looks by leases, as they share deliveries.
"""

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import cast

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from api.background.dispatcher import LOOK_IN, PAUSE, Dispatcher
from domain.commands import service
from domain.data.models import VM, Operation
from domain.progress import outbox, workflow_input
from domain.rules.errors import CanceledError
from domain.rules.states import OperationStatus
from domain.rules.table import TABLE

logger = logging.getLogger(__name__)

LOOKS = 50  # in a turn, of which there is one a second: what a crowd of operations may cost
OVERDUE = 30.0  # seconds after which somebody else confirms a resize that should have confirmed itself
RPC_TIMEOUT = timedelta(seconds=3)


class WorkflowRecovery:
    """Looks from `run` until cancelled; nothing that goes wrong ends it in between."""

    def __init__(self, engine: AsyncEngine, client: Client, dispatcher: Dispatcher) -> None:
        self._engine = engine
        self._client = client
        self._dispatcher = dispatcher
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Look now."""
        self._news.set()

    async def run(self) -> None:
        """Look once a second."""
        while True:
            self._news.clear()
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next look is due all the same
                logger.warning("could not look after operations: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._news.wait()

    async def look(self) -> None:
        """Look at those operations whose time has come, and confirm what has waited too long for that."""
        async with self._engine.begin() as tx:
            leased = await outbox.lease_checks(tx, LOOKS, LOOK_IN)
            overdue = await service.overdue_resizes(tx, LOOKS, OVERDUE)
        outcomes = await asyncio.gather(*(self._look_at(one) for one in leased), return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for vm in overdue:
            async with self._engine.begin() as tx:
                await service.claim_confirm(tx, vm.id, vm.operation_id)
        if errors:
            raise errors[0]

    async def _look_at(self, operation: Operation) -> None:
        own = operation.workflow_id == outbox.workflow_of(operation)
        status = await self._status(operation.workflow_id)
        if not own and operation.status is OperationStatus.QUEUED:
            await self._deliver_again(operation)  # the signal may be lost; heard twice it does nothing
        elif status is WorkflowExecutionStatus.RUNNING and not own:
            await self._remind(operation)
        elif status is WorkflowExecutionStatus.RUNNING:
            if operation.cancel_requested_at:
                await self._client.get_workflow_handle(operation.workflow_id).cancel(rpc_timeout=RPC_TIMEOUT)
        elif status is None or status is WorkflowExecutionStatus.COMPLETED:
            await self._restart(operation, None)
        elif status is WorkflowExecutionStatus.CANCELED:
            await self._restart(operation, CanceledError.code)
        else:
            await self._restart(operation, f"workflow_{status.name.lower()}")

    async def _status(self, workflow_id: str) -> WorkflowExecutionStatus | None:
        """How the workflow stands; None where there is no such workflow."""
        try:
            described = await self._client.get_workflow_handle(workflow_id).describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        return described.status

    async def _remind(self, decision: Operation) -> None:
        """Tell the resize of its decision, which it may have begun and forgotten since it was reset."""
        async with self._engine.begin() as tx:
            vm_name = await tx.scalar(select(VM.name).where(VM.id == decision.vm_id))
        signal, input = TABLE[decision.action].signal, workflow_input.input_of(decision, vm_name)
        handle = self._client.get_workflow_handle(decision.workflow_id)
        await handle.signal(cast("str", signal), input, rpc_timeout=RPC_TIMEOUT)

    async def _deliver_again(self, operation: Operation) -> None:
        async with self._engine.begin() as tx:
            await outbox.deliver_again(tx, operation)
        self._dispatcher.wake()

    async def _restart(self, operation: Operation, interruption: str | None) -> None:
        """Its workflow is closed, or gone, and the operation is still open after that was seen."""
        async with self._engine.begin() as tx:
            restarted = await outbox.restart(tx, operation, interruption)
        if restarted:
            what = interruption or "lost"
            logger.warning("operation %s: workflow %s is %s", operation.id, operation.workflow_id, what)
            self._dispatcher.wake()
