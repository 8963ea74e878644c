"""Record a history of every end of every workflow: `python -m tests.replay.record`.

Histories of released workflows are never rewritten: existing files are kept.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from domain import search_attributes
from domain.rules.cloud import ImageState, PortState, ServerStatus, VolumeState
from domain.rules.errors import BUILD_AGAIN
from domain.rules.messages import Activity, FailedAttemptInput
from domain.rules.resize_messages import ClaimConfirmResult, ConfirmWindowResult
from domain.rules.states import Action
from domain.rules.table import TABLE
from migrations import embedded_temporal
from tests.workflows.world import HANG, HAS_RESOURCES, World, failed, new_operation, refused

# The activity at which an action fails, is superseded or is canceled, if not the wait for the server.
BREAKS = {
    Action.SNAPSHOT: Activity.WAIT_FOR_IMAGE,
    Action.DELETE_SNAPSHOT: Activity.DELETE_IMAGE,
    Action.CREATE_VOLUME: Activity.WAIT_FOR_VOLUME,
    Action.DELETE_VOLUME: Activity.WAIT_FOR_VOLUME,
    Action.EXTEND_VOLUME: Activity.WAIT_FOR_EXTENSION,
    Action.ATTACH_VOLUME: Activity.WAIT_FOR_VOLUME,
    Action.DETACH_VOLUME: Activity.WAIT_FOR_VOLUME,
    Action.ATTACH_INTERFACE: Activity.CREATE_INTERFACE,
    Action.DETACH_INTERFACE: Activity.DELETE_INTERFACE,
}
SUCCESS = {
    Action.DELETE_SNAPSHOT: (Activity.SETTLE_IMAGE, ImageState.GONE),
    Action.DELETE_VOLUME: (Activity.SETTLE_VOLUME, VolumeState.GONE),
    Action.DETACH_VOLUME: (Activity.SETTLE_VOLUME, VolumeState.AVAILABLE),
    Action.DETACH_INTERFACE: (Activity.SETTLE_INTERFACE, PortState.GONE),
}
COMBINED = (
    *(Action.CREATE, Action.START, Action.STOP, Action.REBOOT_SOFT, Action.REBOOT_HARD),
    *(Action.RESIZE, Action.CONFIRM_RESIZE, Action.REVERT_RESIZE, Action.DELETE, Action.SNAPSHOT),
    *(Action.CREATE_VOLUME, Action.DELETE_VOLUME, Action.EXTEND_VOLUME, Action.ATTACH_VOLUME, Action.DETACH_VOLUME),
)
NOT_UNDONE = {Action.ATTACH_VOLUME: Activity.UNDO_ATTACH, Action.ATTACH_INTERFACE: Activity.UNDO_INTERFACE}
RESTORED = True
EXTENDED = True
HISTORIES = Path(__file__).parent / "histories"
MACHINE_SPECIFIC = re.compile(r'"(stackTrace|identity|binaryChecksum|workerInstanceKey)": "(?:[^"\\]|\\.)*"')


async def endings(world: World) -> AsyncIterator[tuple[str, WorkflowHandle[Any, Any]]]:
    """Run every workflow to each kind of end."""
    for action in (action for action, rule in TABLE.items() if rule.workflow):
        point = BREAKS.get(action, Activity.WAIT_FOR_SERVER)
        yield f"{action}-succeeded", await succeeding(world, action)
        world.script(point, failed("mock_transient"), refused("server_error"))
        yield f"{action}-failed", await world.start(action)
        world.script(point, refused("superseded"))
        yield f"{action}-superseded", await world.start(action)
        yield f"{action}-canceled", await canceled(world, action)
    world.script(Activity.PREEMPT_OPERATIONS, ["create-a"])
    world.script(Activity.LIST_OPEN_WORKFLOWS, ["create-a"], [])
    yield f"{Action.DELETE}-preempting", await world.start(Action.DELETE)
    async for name, handle in endings_of_resize(world):
        yield f"{Action.RESIZE}-{name}", handle
    async for name, handle in endings_of_resources(world):
        yield name, handle
    world.combines = True
    async for name, handle in endings_of_combined_steps(world):
        yield f"{name}-combined", handle


async def endings_of_combined_steps(world: World) -> AsyncIterator[tuple[str, WorkflowHandle[Any, Any]]]:
    """Run operations whose steps share an activity."""
    for action in COMBINED:
        point = BREAKS.get(action, Activity.WAIT_FOR_SERVER)
        yield f"{action}-succeeded", await succeeding(world, action)
        world.script(point, failed("mock_transient"), refused("server_error"))
        yield f"{action}-failed", await world.start(action)
        yield f"{action}-canceled", await canceled(world, action)
    world.script(Activity.WAIT_FOR_SERVER, refused(BUILD_AGAIN))
    yield f"{Action.CREATE}-repeated", await world.start(Action.CREATE)
    world.script(Activity.PREPARE_RESIZE, refused("mock_refused"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    yield f"{Action.RESIZE}-not-moved", await world.start(Action.RESIZE)
    waiting = await world.start(Action.RESIZE)
    await waiting.signal("revert", new_operation(Action.REVERT_RESIZE))
    yield f"{Action.RESIZE}-reverted", waiting


async def canceled(world: World, action: Action) -> WorkflowHandle[Any, Any]:
    """Start an operation and cancel it at the activity where others fail."""
    point = BREAKS.get(action, Activity.WAIT_FOR_SERVER)
    world.reached[point].clear()
    world.script(point, HANG)
    handle = await world.start(action)
    await world.reached[point].wait()
    await handle.cancel()
    return handle


async def endings_of_resources(world: World) -> AsyncIterator[tuple[str, WorkflowHandle[Any, Any]]]:
    """Run operations on resources, and deletes that release resources, to further ends."""
    world.script(Activity.DELETE_SERVER, HAS_RESOURCES)
    yield f"{Action.DELETE}-releasing", await world.start(Action.DELETE)
    world.script(Activity.DELETE_SERVER, HAS_RESOURCES)
    world.script(Activity.RELEASE_RESOURCES, refused("volume_conflict"))
    yield f"{Action.DELETE}-release-failed", await world.start(Action.DELETE)
    world.script(Activity.CHECK_FLAVOR, refused("resize_not_applied"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    world.script(Activity.IS_RESTORED, RESTORED)
    yield f"{Action.RESTORE}-applied", await world.start(Action.RESTORE)
    for action, (check, state) in SUCCESS.items():
        world.script(check, state)
        yield f"{action}-canceled-too-late", await canceled(world, action)
    world.script(Activity.SETTLE_VOLUME, VolumeState.IN_USE)
    world.script(Activity.IS_EXTENDED, EXTENDED)
    yield f"{Action.EXTEND_VOLUME}-canceled-too-late", await canceled(world, Action.EXTEND_VOLUME)
    world.script(Activity.CREATE_SERVER_IMAGE, refused("mock_refused"))
    world.script(Activity.UNDO_IMAGE, refused("forbidden"))
    yield f"{Action.SNAPSHOT}-not-undone", await world.start(Action.SNAPSHOT)
    for action, undo in NOT_UNDONE.items():
        world.script(BREAKS[action], refused("mock_refused"))
        world.script(undo, refused("forbidden"))
        yield f"{action}-not-undone", await world.start(action)


async def succeeding(world: World, action: Action) -> WorkflowHandle[Any, Any]:
    """Start an operation that succeeds. A resize is confirmed, too."""
    handle = await world.start(action)
    if action is Action.RESIZE:
        await handle.signal("confirm", new_operation(Action.CONFIRM_RESIZE))
    return handle


async def endings_of_resize(world: World) -> AsyncIterator[tuple[str, WorkflowHandle[Any, Any]]]:
    """Run resizes to further ends, before and while they wait."""
    reverted = await world.start(Action.RESIZE)
    await reverted.signal("note_failed_attempt", FailedAttemptInput("prepare_resize", 1, "busy"))
    await reverted.signal("revert", new_operation(Action.REVERT_RESIZE))
    yield "reverted", reverted
    world.script(Activity.CLAIM_CONFIRM, ClaimConfirmResult(new_operation(Action.CONFIRM_RESIZE)))
    yield "confirmed-unasked", await world.start(Action.RESIZE, window=0.5)
    world.reached[Activity.CLAIM_CONFIRM].clear()
    late = await world.start(Action.RESIZE, window=0.5)
    await world.reached[Activity.CLAIM_CONFIRM].wait()
    await late.signal("revert", new_operation(Action.REVERT_RESIZE))
    yield "reverted-at-the-last-moment", late
    world.script(Activity.REVERT_RESIZE, refused("superseded"))
    two_decisions = await world.start(Action.RESIZE)
    await two_decisions.signal("revert", new_operation(Action.REVERT_RESIZE))
    await two_decisions.signal("confirm", new_operation(Action.CONFIRM_RESIZE))
    yield "decided-after-nonsense", two_decisions
    world.script(Activity.CLAIM_CONFIRM, ClaimConfirmResult(None, is_over=True))
    yield "decided-by-others", await world.start(Action.RESIZE, window=0.5)
    yield "reset-when-decided", await world.start(Action.RESIZE, is_over=True)
    world.script(Activity.REVERT_RESIZE, refused("superseded"))
    reset = await world.start(Action.RESIZE)
    world.script(Activity.READ_CONFIRM_WINDOW, ConfirmWindowResult(None, is_over=True))
    await reset.signal("revert", new_operation(Action.REVERT_RESIZE))
    yield "reset-and-told-again", reset
    world.script(Activity.CONFIRM_RESIZE, refused("mock_refused"))
    yield "confirm-failed", await succeeding(world, Action.RESIZE)
    world.reached[Activity.READ_CONFIRM_WINDOW].clear()
    waiting = await world.start(Action.RESIZE, window=60.0)
    await world.reached[Activity.READ_CONFIRM_WINDOW].wait()
    await waiting.cancel()
    yield "canceled-while-waiting", waiting
    world.script(Activity.FINISH_RESIZE, refused("resize_not_applied"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE, ServerStatus.ACTIVE)
    yield "put-back", await world.start(Action.RESIZE)


async def save(name: str, handle: WorkflowHandle[Any, Any]) -> None:
    """Write the workflow's history once it has ended, without anything specific to this machine."""
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()
    path = HISTORIES / f"{name}.json"
    if not path.exists():
        history = json.dumps(json.loads((await handle.fetch_history()).to_json()), indent=1)
        path.write_text(MACHINE_SPECIFIC.sub(r'"\1": ""', history) + "\n")


async def main() -> None:
    """Record on the dev server: its histories are like those of a production server."""
    HISTORIES.mkdir(exist_ok=True)
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=embedded_temporal.TEMPORAL, search_attributes=search_attributes.ALL
        ) as environment,
        World(environment) as world,
    ):
        async for name, handle in endings(world):
            await save(name, handle)


if __name__ == "__main__":
    asyncio.run(main())
