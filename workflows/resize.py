"""Another flavor for a VM: moved, then confirmed or reverted by a person, or confirmed by time."""

import asyncio
from collections import deque
from datetime import datetime, timedelta
from types import NoneType
from uuid import UUID

from temporalio import workflow

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity, CheckFlavorInput, ClaimConfirmResult, ConfirmWindowResult, OperationInput
from domain.rules.states import Action
from domain.rules.table import TABLE
from workflows.steps import Left, OperationWorkflow, heed_cancel

CODES_OF_NO_CHANGE = ("no_valid_host", "canceled")
AT_ONCE = timedelta(milliseconds=1)
SEES_ITS_END = "resize-sees-its-end"  # the patch with which a workflow that was reset after its end, ends
CHECK = "See that the server has the flavor it should have"


class _Resizing(OperationWorkflow):
    async def carry_out(self, decision: OperationInput) -> bool:
        """Confirm or revert; False where the decision does not hold the VM, and nothing was done."""
        back_to = ServerStatus(str(decision.previous_status))
        async with self.carrying_out(decision, aftermath=self._see_what_was_decided, arrives=back_to) as outcome:
            if decision.action is Action.CONFIRM_RESIZE:
                await self.step(Activity.CONFIRM_RESIZE, decision, "Confirm the resize")
            else:
                await self.step(Activity.REVERT_RESIZE, decision, "Revert the resize")
            await self.wait_for_server(decision, back_to, f"Wait for the server to be {back_to}")
            await self.step(Activity.CHECK_FLAVOR, CheckFlavorInput(decision), CHECK)
        return outcome.succeeded

    async def _see_what_was_decided(self, decision: OperationInput, code: str) -> Left:
        left = await self.settle(decision, code)
        if str(left.seen) == decision.previous_status:
            await self.insist(Activity.CHECK_FLAVOR, CheckFlavorInput(decision), CHECK, NoneType)
        is_undecided = left.seen is ServerStatus.VERIFY_RESIZE
        return Left(left.seen, intact=is_undecided and (code == "canceled" or bool(decision.interruption)))


@workflow.defn
class ResizeVM(_Resizing):
    """Moves a VM's server to another flavor and waits, for days if need be, to be told that it may stay."""

    def __init__(self) -> None:
        super().__init__()
        self._is_touched = False
        self._is_over = False  # decided by others, where an operator has reset a workflow that was done
        self._decisions: deque[OperationInput] = deque()
        self._heard: set[UUID] = set()

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one resize operation, and the one that ends it."""
        self._is_touched = bool(operation.interruption)  # nobody knows how far it had come
        async with self.carrying_out(operation, aftermath=self._put_back) as outcome:
            await self.step(Activity.PREPARE_RESIZE, operation, "Find a host for the new flavor")
            self._is_touched = True
            await self.step(Activity.RESIZE_SERVER, operation, "Move the server to the new flavor")
            await self.wait_for_server(operation, ServerStatus.VERIFY_RESIZE, "Wait for the server to be moved")
            await self.step(Activity.FINISH_RESIZE, operation, "See that the server has its new size")
        if outcome.succeeded:
            await self._see_it_decided(operation)

    @workflow.signal
    def confirm(self, decision: OperationInput | None = None) -> None:
        """The operation that confirms the resize; it may come early, late, or more than once."""
        self._hear(decision, Action.CONFIRM_RESIZE)

    @workflow.signal
    def revert(self, decision: OperationInput | None = None) -> None:
        """The operation that reverts the resize; it may come early, late, or more than once."""
        self._hear(decision, Action.REVERT_RESIZE)

    def _hear(self, decision: OperationInput | None, action: Action) -> None:
        """Take a decision down; what a person sends by hand, perhaps without any input, is none."""
        if not isinstance(decision, OperationInput) or decision.action is not action:
            return
        if decision.operation_id in self._heard:
            return
        if decision.previous_status in TABLE[Action.RESIZE].sources:
            self._heard.add(decision.operation_id)
            self._decisions.append(decision)

    async def _put_back(self, operation: OperationInput, code: str) -> Left:
        left = await self.settle(operation, code)
        if left.seen is ServerStatus.VERIFY_RESIZE:
            await self.insist(Activity.UNDO_RESIZE, operation, "Put the server back to its old flavor", NoneType)
            left = await self.settle(operation, code)
        is_of_another = left.seen is ServerStatus.VERIFY_RESIZE and not self._is_touched
        is_as_it_was = is_of_another or str(left.seen) == operation.previous_status
        if is_as_it_was and self._is_touched:
            await self.insist(Activity.CHECK_FLAVOR, CheckFlavorInput(operation, previous=True), CHECK, NoneType)
        has_not_failed = code in CODES_OF_NO_CHANGE or not self._is_touched or bool(operation.interruption)
        return Left(left.seen, intact=is_as_it_was and has_not_failed)

    async def _see_it_decided(self, resize: OperationInput) -> None:
        summary = "Ask how long the resize waits to be confirmed"
        window = await self.insist(Activity.READ_CONFIRM_WINDOW, resize, summary, ConfirmWindowResult)
        until = None if window.seconds is None else workflow.now() + timedelta(seconds=window.seconds)
        self._is_over = window.is_over and workflow.patched(SEES_ITS_END)
        while not self._is_over:
            decision = await self._next_decision(resize, until)
            if decision is None:
                until = None  # somebody was faster than the timer, and the signal is on its way
            else:
                self._is_over = await self.carry_out(decision) or await self._is_decided(resize)

    async def _next_decision(self, resize: OperationInput, until: datetime | None) -> OperationInput | None:
        self.view.awaits_decision(resize, until)
        left = max(until - workflow.now(), AT_ONCE) if until else None
        try:
            heed_cancel()
            await workflow.wait_condition(
                lambda: bool(self._decisions),
                timeout=left,
                timeout_summary="Until the resize is confirmed without being asked",
            )
        except TimeoutError:
            return await self._confirm_unasked(resize)
        except asyncio.CancelledError:
            summary = "Take the time to confirm by off the VM, which can still be confirmed or reverted"
            await self.insist(Activity.DROP_CONFIRM_WINDOW, resize, summary, NoneType)
            raise
        return self._decisions.popleft()

    async def _confirm_unasked(self, resize: OperationInput) -> OperationInput | None:
        summary = "Confirm the resize, unless somebody decides right now"
        claimed = await self.insist(Activity.CLAIM_CONFIRM, resize, summary, ClaimConfirmResult)
        self._is_over = claimed.is_over and workflow.patched(SEES_ITS_END)
        return claimed.confirm

    async def _is_decided(self, resize: OperationInput) -> bool:
        """Whether a decision did not hold the VM because others have decided already."""
        if not workflow.patched(SEES_ITS_END):
            return False
        summary = "Ask whether the resize is still to be decided"
        return (await self.insist(Activity.READ_CONFIRM_WINDOW, resize, summary, ConfirmWindowResult)).is_over


@workflow.defn
class FinishResizeVM(_Resizing):
    """Confirms or reverts a resize whose own workflow is gone."""

    @workflow.run
    async def run(self, decision: OperationInput) -> None:
        """Carry out one confirm or revert operation."""
        await self.carry_out(decision)
