"""Recovers operations whose workflows Temporal has lost or that closed too early.

Every delivered operation is checked every CHECK_AFTER seconds until it has ended. A check describes the workflow by the
id in the operation's row. It never searches Temporal's visibility index, which lags behind. Leases divide the checks
among the API processes, as they divide deliveries.
"""

import asyncio
import contextlib
import logging

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from api.background import decision_delivery
from api.background.dispatcher import CHECK_AFTER, PAUSE, Dispatcher
from api.background.transactions import Transactions
from api.background.workflow_start import RPC_TIMEOUT
from domain.commands import resize_decisions
from domain.data import outages
from domain.data.models import VM, Operation
from domain.progress import outbox
from domain.rules.errors import CanceledError
from domain.rules.states import OperationStatus

logger = logging.getLogger(__name__)

BATCH = 50  # checks in each round, one round a second: many open operations must not overload Temporal
OVERDUE = 30.0  # seconds after `confirm_by`; a resize that is not confirmed by then is confirmed here


class WorkflowRecovery:
    """Checks delivered operations from `run` until canceled; no error ends it in between."""

    def __init__(self, engine: AsyncEngine, client: Client, dispatcher: Dispatcher) -> None:
        self._transactions = Transactions(engine)
        self._client = client
        self._dispatcher = dispatcher
        self._woken = asyncio.Event()
        self._errors = set[str]()  # since the last round that succeeded

    def wake(self) -> None:
        """Check now."""
        self._woken.set()

    async def run(self) -> None:
        """Check once a second."""
        while True:
            self._woken.clear()
            try:
                await self.check()
            except Exception as error:  # noqa: BLE001 - no error may end the checks for good
                self._note(outages.describe(error))
            else:
                self._note(None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._woken.wait()

    def _note(self, error: str | None) -> None:
        """Log the outcome of a round if it is news: an outage fails one in each second, for reasons that alternate."""
        if error is None:
            if self._errors:
                logger.info("the workflows of operations are checked again")
            self._errors.clear()
        elif error not in self._errors:
            logger.warning("could not check the workflows of operations: %s", error)
            self._errors.add(error)

    async def check(self) -> None:
        """Check the operations that are due, and confirm the resizes that are overdue."""
        # The leases are committed before the checks, so that no lock and no connection is held during RPCs.
        async with self._transactions.begin() as tx:
            due = await outbox.lease_checks(tx, BATCH, CHECK_AFTER)
            overdue = await resize_decisions.overdue_resizes(tx, BATCH, OVERDUE)
        # An error of one check must not stop the others, nor the confirms. It is raised at the end.
        outcomes = await asyncio.gather(*(self._check(operation) for operation in due), return_exceptions=True)
        for vm in overdue:
            await self._confirm(vm)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _confirm(self, vm: VM) -> None:
        """Confirm the overdue resize of the VM; an error is logged, so that it does not stop the confirms of others."""
        try:
            async with self._transactions.begin() as tx:
                await resize_decisions.confirm_by_window(tx, vm.id, vm.operation_id)
        except Exception as error:  # noqa: BLE001 - see above
            logger.warning("the overdue resize of VM %s cannot be confirmed: %s", vm.id, outages.describe(error))

    async def _check(self, operation: Operation) -> None:
        """Do what the state of the operation and the state of its workflow require."""
        for_waiting = decision_delivery.is_for_waiting_workflow(operation)
        workflow_status, run_id = await self._look(operation.workflow_id)
        match for_waiting, operation.status, workflow_status:
            case True, OperationStatus.QUEUED, _:
                # The signal may be lost. The delivery finds out itself whether the workflow is still there.
                open_run = run_id if workflow_status is WorkflowExecutionStatus.RUNNING else None
                if await decision_delivery.deliver_again(self._transactions, operation, open_run):
                    self._dispatcher.wake()
            case True, _, WorkflowExecutionStatus.RUNNING:
                # The resize has begun the decision, but may have forgotten it in a reset since then.
                await decision_delivery.signal_again(self._transactions, self._client, operation, run_id)
            case False, _, WorkflowExecutionStatus.RUNNING:
                # The workflow is at work. If the operation is to be canceled, every check sends the cancel to Temporal
                # until the operation has ended: one may fail or be lost, and more than one is harmless.
                await self._cancel_if_requested(operation)
            case _, _, None | WorkflowExecutionStatus.COMPLETED:
                # Temporal has lost the workflow, or the database has lost how it ended, for example in a restore from
                # a backup. Nobody wanted the operation to stop, so a new workflow carries it out.
                await self._restart(operation, None)
            case _, _, WorkflowExecutionStatus.CANCELED:
                # The workflow was canceled before it could undo its work, so a new workflow does that.
                await self._restart(operation, CanceledError.code)
            case _, _, closed:
                # An operator terminated the workflow, or it failed through a bug. Carrying the operation out again
                # would ignore the operator or repeat the bug, so a new workflow only undoes or observes.
                await self._restart(operation, f"workflow_{closed.name.lower()}")

    async def _look(self, workflow_id: str) -> tuple[WorkflowExecutionStatus | None, str]:
        """The status of the workflow and the id of its latest run; None and no id if Temporal does not know it."""
        try:
            description = await self._client.get_workflow_handle(workflow_id).describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None, ""
            raise
        return description.status, description.run_id

    async def _cancel_if_requested(self, operation: Operation) -> None:
        if operation.cancel_requested_at:
            await self._client.get_workflow_handle(operation.workflow_id).cancel(rpc_timeout=RPC_TIMEOUT)

    async def _restart(self, operation: Operation, interruption: str | None) -> None:
        """Have a new workflow finish the operation, unless the operation has ended since the check."""
        async with self._transactions.begin() as tx:
            restarted = await outbox.restart(tx, operation, interruption)
        if restarted:
            reason = interruption or "lost"
            logger.warning("operation %s: workflow %s is %s", operation.id, operation.workflow_id, reason)
            self._dispatcher.wake()
