"""The activities of every action: its steps and waits, and what follows a failure."""

from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from domain.rules.messages import Activity
from domain.rules.states import Action, TaskState
from tests.workflows.world import World

ENTERS = {
    Activity.SCHEDULE_SERVER: TaskState.SCHEDULING,
    Activity.CREATE_PORTS: TaskState.NETWORKING,
    Activity.SPAWN_SERVER: TaskState.SPAWNING,
    Activity.START_SERVER: TaskState.POWERING_ON,
    Activity.STOP_SERVER: TaskState.POWERING_OFF,
    Activity.REBOOT_SERVER: TaskState.REBOOTING,
    Activity.REBOOT_SERVER_HARD: TaskState.REBOOTING_HARD,
    Activity.PREPARE_RESIZE: TaskState.RESIZE_PREP,
    Activity.RESIZE_SERVER: TaskState.RESIZE_MIGRATING,
    Activity.FINISH_RESIZE: TaskState.RESIZE_FINISH,
    Activity.CONFIRM_RESIZE: TaskState.RESIZE_CONFIRMING,
    Activity.REVERT_RESIZE: TaskState.RESIZE_REVERTING,
    Activity.CREATE_SERVER_IMAGE: TaskState.IMAGE_SNAPSHOT,
    Activity.UPLOAD_IMAGE: TaskState.IMAGE_UPLOADING,
    Activity.REBUILD_SERVER: TaskState.RESTORING,
    Activity.PREEMPT_OPERATIONS: TaskState.DELETING,
    Activity.DELETE_SERVER: TaskState.DELETING,
}
EFFECTS = {
    Action.CREATE: [Activity.SCHEDULE_SERVER, Activity.CREATE_PORTS, Activity.SPAWN_SERVER, Activity.WAIT_FOR_SERVER],
    Action.START: [Activity.START_SERVER, Activity.WAIT_FOR_SERVER],
    Action.STOP: [Activity.STOP_SERVER, Activity.WAIT_FOR_SERVER],
    Action.REBOOT_SOFT: [Activity.REBOOT_SERVER, Activity.WAIT_FOR_SERVER],
    Action.REBOOT_HARD: [Activity.REBOOT_SERVER_HARD, Activity.WAIT_FOR_SERVER],
    Action.RESIZE: [
        Activity.PREPARE_RESIZE,
        Activity.RESIZE_SERVER,
        Activity.WAIT_FOR_SERVER,
        Activity.FINISH_RESIZE,
    ],
    Action.CONFIRM_RESIZE: [Activity.CONFIRM_RESIZE, Activity.WAIT_FOR_SERVER, Activity.CHECK_FLAVOR],
    Action.REVERT_RESIZE: [Activity.REVERT_RESIZE, Activity.WAIT_FOR_SERVER, Activity.CHECK_FLAVOR],
    Action.DELETE: [Activity.PREEMPT_OPERATIONS, Activity.DELETE_SERVER, Activity.WAIT_FOR_SERVER],
    Action.SNAPSHOT: [Activity.CREATE_SERVER_IMAGE, Activity.UPLOAD_IMAGE, Activity.WAIT_FOR_IMAGE],
    Action.RESTORE: [Activity.REBUILD_SERVER, Activity.WAIT_FOR_SERVER, Activity.CHECK_FLAVOR],
    Action.DELETE_SNAPSHOT: [Activity.DELETE_IMAGE],
    Action.CREATE_VOLUME: [Activity.CREATE_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.DELETE_VOLUME: [Activity.DELETE_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.EXTEND_VOLUME: [Activity.EXTEND_VOLUME, Activity.WAIT_FOR_EXTENSION],
    Action.ATTACH_VOLUME: [Activity.ATTACH_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.DETACH_VOLUME: [Activity.DETACH_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.ATTACH_INTERFACE: [Activity.CREATE_INTERFACE],
    Action.DETACH_INTERFACE: [Activity.DELETE_INTERFACE],
}
AFTER_FAILURE = {
    Action.CREATE: [Activity.UNDO_CREATE],
    Action.SNAPSHOT: [Activity.UNDO_IMAGE],
    Action.RESTORE: [Activity.SETTLE_SERVER, Activity.IS_RESTORED],
    Action.DELETE_SNAPSHOT: [Activity.SETTLE_IMAGE],
    Action.CREATE_VOLUME: [Activity.UNDO_VOLUME],
    Action.DELETE_VOLUME: [Activity.SETTLE_VOLUME],
    Action.EXTEND_VOLUME: [Activity.SETTLE_VOLUME, Activity.IS_EXTENDED],
    Action.ATTACH_VOLUME: [Activity.UNDO_ATTACH],
    Action.DETACH_VOLUME: [Activity.SETTLE_VOLUME],
    Action.ATTACH_INTERFACE: [Activity.UNDO_INTERFACE],
    Action.DETACH_INTERFACE: [Activity.SETTLE_INTERFACE],
    Action.DELETE: [Activity.SETTLE_SERVER, Activity.SETTLE_REMAINS],
}
WAITED_FOR = {
    Action.STOP: "SHUTOFF",
    Action.DELETE: "GONE",
    Action.CREATE_VOLUME: "available",
    Action.DELETE_VOLUME: "gone",
    Action.ATTACH_VOLUME: "in-use",
    Action.DETACH_VOLUME: "available",
}
ON_WAITS_QUEUE = {
    *(Activity.WAIT_FOR_SERVER, Activity.WAIT_FOR_VOLUME, Activity.WAIT_FOR_IMAGE, Activity.WAIT_FOR_EXTENSION),
    *(Activity.SETTLE_SERVER, Activity.SETTLE_VOLUME),
}
WITHOUT_DECISION = [action for action in EFFECTS if action is not Action.RESIZE]
ON_RESOURCES = [action for action in AFTER_FAILURE if action not in {Action.CREATE, Action.DELETE}]
POINTS = [(action, effect) for action, effects in EFFECTS.items() for effect in effects]


def after_failure(action: Action) -> list[Activity]:
    """Return the activities that follow a failure before it is recorded."""
    return AFTER_FAILURE.get(action, [Activity.SETTLE_SERVER])


async def failure_of(handle: WorkflowHandle[Any, Any]) -> BaseException | None:
    """Return the cause with which the workflow failed."""
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    return caught.value.cause


async def canceled_at(world: World, action: Action, point: Activity) -> WorkflowHandle[Any, Any]:
    """Start the action's workflow and cancel it when it reaches the activity."""
    handle = await world.start(action)
    await world.reached[point].wait()
    await handle.cancel()
    return handle


async def code_of(handle: WorkflowHandle[Any, Any]) -> str | None:
    """Return the code with which the workflow failed."""
    cause = await failure_of(handle)
    assert isinstance(cause, ApplicationError)
    return cause.type
