"""Helpers for resizes: start one that waits for a decision, decide it, and the activities that follow."""

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from domain.rules.messages import Activity, OperationInput
from domain.rules.states import Action, Status
from tests.workflows.stories import EFFECTS
from tests.workflows.world import World

MOVED = [*EFFECTS[Action.RESIZE], Activity.FINISH_OPERATION, Activity.READ_CONFIRM_WINDOW]
ARRIVED = [Activity.WAIT_FOR_SERVER, Activity.CHECK_FLAVOR, Activity.FINISH_OPERATION]
CARRIED_OUT = {
    Action.CONFIRM_RESIZE: [Activity.CONFIRM_RESIZE, *ARRIVED],
    Action.REVERT_RESIZE: [Activity.REVERT_RESIZE, *ARRIVED],
}
SIGNALS = {Action.CONFIRM_RESIZE: "confirm", Action.REVERT_RESIZE: "revert"}
each_decision = pytest.mark.parametrize("action", CARRIED_OUT)


async def waiting(world: World, *, window: float | None = None, previous: Status = Status.ACTIVE) -> Any:
    """Start a resize and return it once it waits for a decision."""
    handle = await world.start(Action.RESIZE, previous, window)
    async with asyncio.timeout(10):
        await world.reached[Activity.READ_CONFIRM_WINDOW].wait()
    assert await state_of(handle) == ("VERIFY_RESIZE", None)
    return handle


async def state_of(handle: WorkflowHandle[Any, Any]) -> tuple[str | None, str | None]:
    """Return the answer to the query `state`."""
    state = await handle.query("state")
    return state["status"], state["task_state"]


async def decide(handle: WorkflowHandle[Any, Any], operation: OperationInput) -> None:
    """Signal the decision as the dispatcher does."""
    await handle.signal(SIGNALS[operation.action], operation)
