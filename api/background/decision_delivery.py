"""Delivers the decision on a resize, a confirm or a revert, to the workflow that waits for it.

Most operations get a workflow of their own. A decision is normally carried out by a workflow that runs already: the
ResizeVM that moved the server and now waits to learn whether the VM keeps its new size.

1. The command that accepts a decision stores the workflow id of the resize in the decision's row.
2. The dispatcher sends that workflow the signal `confirm` or `revert`. The signal's input names the decision.
3. The waiting workflow may be gone: an operator terminated it, or Temporal lost it. The dispatcher then starts a
   FinishResizeVM for the decision alone, under the decision's own workflow id. The row gets this id before the workflow
   starts. A delete of the VM cancels the workflows that the rows name, so it finds this one even if it comes between.
4. A signal may be lost, for example when an operator resets the workflow to a point before it. A reset begins another
   run of the workflow, with another run id. The receipt of a decision is `started_at`, which its first step writes.
   Until then, workflow recovery puts the decision back into the outbox when the run has changed, and otherwise after
   pauses that double, and the dispatcher sends the signal again.
5. A reset may also make the workflow forget a decision that it had begun, and so may a restore of Temporal from a
   backup, which keeps the run's id. Workflow recovery therefore repeats the signal of a begun decision in the same way.
   Every signal makes the workflow's history longer, and Temporal limits its length: hence the pauses.
6. Repeated signals are harmless, because the workflow ignores a decision whose operation id it has seen.
7. If the waiting workflow closes after it has begun a decision, workflow recovery gives the decision a FinishResizeVM.
   That carries the decision out if Temporal lost the workflow. If an operator terminated the workflow, it only observes
   what the cloud shows and records how the decision ended.
"""

from dataclasses import replace
from typing import cast

from sqlalchemy import select
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from api.background.transactions import Transactions
from api.background.workflow_start import RPC_TIMEOUT, Delivery, start_workflow
from domain.data.models import VM, Operation
from domain.progress import outbox, workflow_input
from domain.rules.table import TABLE


def is_for_waiting_workflow(operation: Operation) -> bool:
    """Whether the operation is a decision whose row names the workflow of its resize (step 1)."""
    return operation.workflow_id != outbox.workflow_of(operation)


async def deliver(transactions: Transactions, client: Client, task_queue: str, delivery: Delivery) -> None:
    """Signal the waiting workflow, or start a workflow for the decision alone if that one is gone (steps 2 and 3)."""
    if not await signal_waiting_workflow(client, delivery.operation, delivery.vm_name):
        await start_own_workflow(transactions, client, task_queue, delivery)


async def signal_waiting_workflow(client: Client, decision: Operation, vm_name: str | None) -> bool:
    """Send the decision to the workflow that waits for it; False if that workflow is closed or unknown."""
    signal = cast("str", TABLE[decision.action].signal)
    input = workflow_input.input_of(decision, vm_name)
    try:
        await client.get_workflow_handle(decision.workflow_id).signal(signal, input, rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


async def start_own_workflow(transactions: Transactions, client: Client, task_queue: str, delivery: Delivery) -> None:
    """Start a FinishResizeVM for the decision, unless the decision has begun meanwhile (step 3)."""
    # Committed before the start, so that a delete that reads the row from now on knows which workflow to cancel.
    async with transactions.begin() as tx:
        decision = await outbox.give_own_workflow(tx, delivery.operation)
    # None if the decision is no longer queued: an earlier signal arrived and began it, or a delete superseded it.
    if decision is not None:
        await start_workflow(client, task_queue, replace(delivery, operation=decision))


async def deliver_again(transactions: Transactions, decision: Operation, run_id: str | None) -> bool:
    """Put a decision that has no receipt back into the outbox (step 4); False if it is too early for that.

    `run_id` is the run of the waiting workflow; None if the workflow is closed or unknown.
    """
    async with transactions.begin() as tx:
        return await outbox.deliver_again(tx, decision, run_id)


async def signal_again(transactions: Transactions, client: Client, decision: Operation, run_id: str) -> None:
    """Repeat the signal of a decision that has begun, if the workflow's run may have forgotten it (step 5)."""
    async with transactions.begin() as tx:
        if not await outbox.is_signal_due(tx, decision, run_id):
            return
        vm_name = await tx.scalar(select(VM.name).where(VM.id == decision.vm_id))
    # If the workflow is gone by now, the next check of the decision finds that out.
    if await signal_waiting_workflow(client, decision, vm_name):
        async with transactions.begin() as tx:
            await outbox.note_signaled(tx, decision, run_id)
