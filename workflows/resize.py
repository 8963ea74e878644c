"""Resize a VM: move its server to another flavor, wait for a decision, carry the decision out.

1. ResizeVM moves the server. If that fails, it puts the server back and ends.
2. If the move succeeds, the VM shows VERIFY_RESIZE. The workflow waits for a decision, for days if necessary.
3. A person confirms or reverts. The decision is an operation of its own: the API accepts it in the database, and the
   dispatcher delivers it to this workflow by a signal. Races are settled in the database: one decision holds the VM.
4. If the confirm window ends first, the workflow claims a confirm in the database. If another decision already holds
   the VM, the workflow gets no confirm and waits for the signal of that decision.
5. The workflow carries out the decision and ends.

What can go wrong while it waits:

- A signal comes early, before the move has ended: it is queued.
- A signal comes twice, because the dispatcher repeats it until the decision begins: the second one is ignored.
- A decision no longer holds the VM when its turn comes: it is dropped, and the workflow waits for the next one.
- An operator resets the workflow to before a decision: if the resize has been decided, the workflow ends.
- Somebody cancels the workflow: it clears the confirm window and ends. The VM can still be confirmed or reverted.
- The workflow is gone when a decision arrives: the dispatcher starts FinishResizeVM to carry the decision out.
"""

import asyncio
from collections import deque
from datetime import datetime, timedelta
from functools import partial
from types import NoneType
from uuid import UUID

from temporalio import workflow
from temporalio.exceptions import ActivityError

from domain.rules.cloud import ServerStatus, server_status_of, vm_status_of
from domain.rules.errors import CanceledError
from domain.rules.messages import Activity, CheckFlavorInput, OperationInput
from domain.rules.resize_messages import ClaimConfirmResult, ConfirmWindowResult
from domain.rules.states import Action
from domain.rules.table import TABLE, Residue
from workflows.errors import raise_if_canceled
from workflows.outcomes import Aftermath
from workflows.steps import OperationWorkflow

# After a failure with one of these codes, the VM keeps its status if the server is unchanged. After any other failure
# it becomes ERROR even then, so that a person checks it.
HARMLESS_CODES = ("no_valid_host", CanceledError.code)
CHECK = "Check that the server has the right flavor"

# A deadline may already have passed. With a timeout of zero, asyncio would not even look for a decision that is already
# queued. With the shortest timer it does.
MINIMUM_TIMER = timedelta(milliseconds=1)

# Since this patch, a workflow that was reset to before a decision learns from the database that the resize is decided,
# and ends. The id may go, by way of `workflow.deprecate_patch`, once no resize that started before it is open or can be
# reset.
SEES_ITS_END = "resize-sees-its-end"

# Since this patch, the first activity may have moved the server when it fails. It may go when SEES_ITS_END may.
MOVES_AT_ONCE = "resize-moves-at-once"


@workflow.defn
class ResizeVM(OperationWorkflow):
    """Moves a VM's server to another flavor, waits for a decision, and carries it out."""

    def __init__(self) -> None:
        super().__init__()
        self._may_have_moved = False
        self._decisions: deque[OperationInput] = deque()
        self._known_decisions: set[UUID] = set()

    @workflow.run
    async def run(self, resize: OperationInput) -> None:
        """Carry out a resize operation, and then the decision on it."""
        if await self._move(resize):
            await self._wait_until_decided(resize)

    async def _move(self, resize: OperationInput) -> bool:
        """Step 1: move the server to the new flavor. Return whether that succeeded."""
        # A workflow with an interruption takes no step, but the workflow that it replaces may have moved the server.
        self._may_have_moved = bool(resize.interruption)
        async with self.carrying_out(resize, after_failure=self._put_back) as outcome:
            summary = "Move the server to the new flavor"
            has_combined = await self._begin_move(resize, summary)
            self._may_have_moved = True
            if not has_combined:
                await self.step(Activity.RESIZE_SERVER, resize, summary)
            summary = "Wait for the server to be moved"
            outcome.is_recorded = await self.wait_and_record(resize, ServerStatus.VERIFY_RESIZE, summary)
            if not outcome.is_recorded:
                await self.step(Activity.FINISH_RESIZE, resize, "Check that the server has its new size")
        return outcome.succeeded

    async def _begin_move(self, resize: OperationInput, summary: str) -> bool:
        try:
            return await self.first_steps((Activity.PREPARE_RESIZE, Activity.RESIZE_SERVER), resize, summary)
        except (ActivityError, asyncio.CancelledError):
            self._may_have_moved = self._may_have_moved or workflow.patched(MOVES_AT_ONCE)
            raise

    async def _put_back(self, resize: OperationInput, code: str) -> Aftermath:
        """Put the server back to its old flavor, if a failed move has moved it."""
        status = await self.observe_server(resize)
        if status is ServerStatus.VERIFY_RESIZE:
            await self.run_until_done(Activity.UNDO_RESIZE, resize, "Put the server back to its old flavor", NoneType)
            status = await self.observe_server(resize)
        # If this resize has moved nothing, a server that waits for a decision was moved by an earlier resize.
        waits_for_earlier_resize = status is ServerStatus.VERIFY_RESIZE and not self._may_have_moved
        is_unchanged = waits_for_earlier_resize or vm_status_of(status) == resize.previous_status
        if is_unchanged and self._may_have_moved:
            # The status is the same after a confirm. Only the flavor shows whether somebody confirmed it in the cloud.
            await self.run_until_done(Activity.CHECK_FLAVOR, CheckFlavorInput(resize, previous=True), CHECK, NoneType)
        is_harmless = code in HARMLESS_CODES or not self._may_have_moved or bool(resize.interruption)
        return Aftermath(status, Residue.UNCHANGED if is_unchanged and is_harmless else Residue.UNKNOWN)

    @workflow.signal
    def confirm(self, decision: OperationInput | None = None) -> None:
        """Queue the operation that confirms the resize. It may come early, late, or more than once."""
        self._queue(decision, Action.CONFIRM_RESIZE)

    @workflow.signal
    def revert(self, decision: OperationInput | None = None) -> None:
        """Queue the operation that reverts the resize. It may come early, late, or more than once."""
        self._queue(decision, Action.REVERT_RESIZE)

    def _queue(self, decision: OperationInput | None, action: Action) -> None:
        """Queue a decision once, and ignore any other payload: people can send signals by hand."""
        if not isinstance(decision, OperationInput) or decision.action is not action:
            return
        if decision.operation_id in self._known_decisions:
            return
        if decision.previous_status in TABLE[Action.RESIZE].sources:
            self._known_decisions.add(decision.operation_id)
            self._decisions.append(decision)

    async def _wait_until_decided(self, resize: OperationInput) -> None:
        """Steps 2 to 5: wait until a decision has been carried out, or the database says that the resize is decided."""
        summary = "Read how long the resize waits to be confirmed"
        window = await self.run_until_done(Activity.READ_CONFIRM_WINDOW, resize, summary, ConfirmWindowResult)
        deadline = None if window.seconds is None else workflow.now() + timedelta(seconds=window.seconds)
        # Keep the order of the operands. The first answer of `patched` holds for the rest of the workflow, and in the
        # replay of an older history it is False. So `patched` is called only where its answer makes a difference.
        is_decided = window.is_over and workflow.patched(SEES_ITS_END)
        while not is_decided:
            decision = await self._next_signaled(resize, deadline)
            if decision is None:
                claim = await self._claim_confirm(resize)
                decision, is_decided = claim.confirm, claim.is_over and workflow.patched(SEES_ITS_END)
            if decision is None:
                deadline = None  # another decision was faster than the timer, and its signal is on its way
            else:
                is_decided = await carry_out(self, decision) or await self._is_decided(resize)

    async def _next_signaled(self, resize: OperationInput, deadline: datetime | None) -> OperationInput | None:
        """Wait for a signal and return its decision, or None once the deadline has passed."""
        self.view.decision_awaited(resize, deadline)
        timeout = max(deadline - workflow.now(), MINIMUM_TIMER) if deadline else None
        try:
            raise_if_canceled()
            await workflow.wait_condition(
                lambda: bool(self._decisions),
                timeout=timeout,
                timeout_summary="Until the resize confirms itself",
            )
        except TimeoutError:
            return None
        except asyncio.CancelledError:
            summary = "Clear the confirm window; the VM can still be confirmed or reverted"
            await self.run_until_done(Activity.DROP_CONFIRM_WINDOW, resize, summary, NoneType)
            raise
        return self._decisions.popleft()

    async def _claim_confirm(self, resize: OperationInput) -> ClaimConfirmResult:
        """Claim a confirm in the database, as the confirm window has ended."""
        summary = "Confirm the resize, unless another decision is faster"
        return await self.run_until_done(Activity.CLAIM_CONFIRM, resize, summary, ClaimConfirmResult)

    async def _is_decided(self, resize: OperationInput) -> bool:
        """Return whether the resize is already decided, which explains why a decision did not hold the VM."""
        if not workflow.patched(SEES_ITS_END):
            return False
        summary = "Check whether the resize is still to be decided"
        return (await self.run_until_done(Activity.READ_CONFIRM_WINDOW, resize, summary, ConfirmWindowResult)).is_over


async def carry_out(flow: OperationWorkflow, decision: OperationInput) -> bool:
    """Step 5: confirm or revert. Return False if the decision no longer holds the VM: then nothing was done."""
    status = server_status_of(decision.previous)
    after_failure = partial(_observe_decision, flow)
    async with flow.carrying_out(decision, after_failure=after_failure, success_state=status) as outcome:
        if decision.action is Action.CONFIRM_RESIZE:
            await flow.step(Activity.CONFIRM_RESIZE, decision, "Confirm the resize")
        else:
            await flow.step(Activity.REVERT_RESIZE, decision, "Revert the resize")
        summary = f"Wait for the server to be {status}"
        outcome.is_recorded = await flow.wait_and_record(decision, status, summary)
        if not outcome.is_recorded:
            await flow.step(Activity.CHECK_FLAVOR, CheckFlavorInput(decision), CHECK)
    return outcome.succeeded


async def _observe_decision(flow: OperationWorkflow, decision: OperationInput, code: str) -> Aftermath:
    """Check what a failed confirm or revert has left."""
    status = await flow.observe_server(decision)
    if vm_status_of(status) == decision.previous_status:
        # The server is at rest. Only its flavor shows whether this decision took effect or the opposite one.
        await flow.run_until_done(Activity.CHECK_FLAVOR, CheckFlavorInput(decision), CHECK, NoneType)
    is_undecided = status is ServerStatus.VERIFY_RESIZE
    may_decide_again = is_undecided and (code == CanceledError.code or bool(decision.interruption))
    return Aftermath(status, Residue.UNCHANGED if may_decide_again else Residue.UNKNOWN)


@workflow.defn
class FinishResizeVM(OperationWorkflow):
    """Confirms or reverts a resize whose ResizeVM is gone."""

    @workflow.run
    async def run(self, decision: OperationInput) -> None:
        """Carry out a confirm or revert operation."""
        await carry_out(self, decision)
