"""Record a history of every ending of every workflow: `python -m tests.replay.record`.

Histories that a release has produced are never rewritten: a file that exists is left alone.
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

import local
from domain import search_attributes
from domain.rules.cloud import ImageState, PortState, ServerStatus, VolumeState
from domain.rules.messages import Activity, ClaimConfirmResult, ConfirmWindowResult, FailedAttemptInput
from domain.rules.states import Action
from domain.rules.table import TABLE
from tests.workflows.world import HANG, LEAVES, World, decision, failed, refused

# Where an action fails, is superseded or canceled, if not while it waits for the server.
BREAKS = {
    Action.SNAPSHOT: Activity.WAIT_FOR_IMAGE,
    Action.DELETE_SNAPSHOT: Activity.DELETE_IMAGE,
    Action.CREATE_VOLUME: Activity.WAIT_FOR_VOLUME,
    Action.DELETE_VOLUME: Activity.WAIT_FOR_VOLUME,
    Action.ATTACH_VOLUME: Activity.WAIT_FOR_VOLUME,
    Action.DETACH_VOLUME: Activity.WAIT_FOR_VOLUME,
    Action.ATTACH_INTERFACE: Activity.CREATE_INTERFACE,
    Action.DETACH_INTERFACE: Activity.DELETE_INTERFACE,
}
ARRIVES = {
    Action.DELETE_SNAPSHOT: (Activity.SETTLE_IMAGE, ImageState.GONE),
    Action.DELETE_VOLUME: (Activity.SETTLE_VOLUME, VolumeState.GONE),
    Action.DETACH_VOLUME: (Activity.SETTLE_VOLUME, VolumeState.AVAILABLE),
    Action.DETACH_INTERFACE: (Activity.SETTLE_INTERFACE, PortState.GONE),
}
NOT_UNDONE = {Action.ATTACH_VOLUME: Activity.UNDO_ATTACH, Action.ATTACH_INTERFACE: Activity.UNDO_INTERFACE}
RESTORED = True
HISTORIES = Path(__file__).parent / "histories"
OF_THIS_MACHINE = re.compile(r'"(stackTrace|identity|binaryChecksum|workerInstanceKey)": "(?:[^"\\]|\\.)*"')


async def endings(world: World) -> AsyncIterator[tuple[str, WorkflowHandle[Any, Any]]]:
    """Run every workflow to each kind of end, the first effect failing where one must."""
    for action in (action for action, rule in TABLE.items() if rule.workflow):
        point = BREAKS.get(action, Activity.WAIT_FOR_SERVER)
        yield f"{action}-succeeded", await well(world, action)
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


async def canceled(world: World, action: Action) -> WorkflowHandle[Any, Any]:
    """Start what is canceled when it has come to where others fail."""
    point = BREAKS.get(action, Activity.WAIT_FOR_SERVER)
    world.reached[point].clear()
    world.script(point, HANG)
    handle = await world.start(action)
    await world.reached[point].wait()
    await handle.cancel()
    return handle


async def endings_of_resources(world: World) -> AsyncIterator[tuple[str, WorkflowHandle[Any, Any]]]:
    """What else can become of operations on snapshots, volumes and interfaces, and of a delete that releases them."""
    world.script(Activity.DELETE_SERVER, LEAVES)
    yield f"{Action.DELETE}-releasing", await world.start(Action.DELETE)
    world.script(Activity.DELETE_SERVER, LEAVES)
    world.script(Activity.RELEASE_RESOURCES, refused("volume_conflict"))
    yield f"{Action.DELETE}-release-failed", await world.start(Action.DELETE)
    world.script(Activity.CHECK_FLAVOR, refused("resize_not_applied"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    world.script(Activity.IS_RESTORED, RESTORED)
    yield f"{Action.RESTORE}-applied", await world.start(Action.RESTORE)
    for action, (look, seen) in ARRIVES.items():
        world.script(look, seen)
        yield f"{action}-canceled-too-late", await canceled(world, action)
    world.script(Activity.CREATE_SERVER_IMAGE, refused("mock_refused"))
    world.script(Activity.UNDO_IMAGE, refused("forbidden"))
    yield f"{Action.SNAPSHOT}-not-undone", await world.start(Action.SNAPSHOT)
    for action, undo in NOT_UNDONE.items():
        world.script(BREAKS[action], refused("mock_refused"))
        world.script(undo, refused("forbidden"))
        yield f"{action}-not-undone", await world.start(action)


async def well(world: World, action: Action) -> WorkflowHandle[Any, Any]:
    """Start what ends well; a resize only when it is decided."""
    handle = await world.start(action)
    if action is Action.RESIZE:
        await handle.signal("confirm", decision(Action.CONFIRM_RESIZE))
    return handle


async def endings_of_resize(world: World) -> AsyncIterator[tuple[str, WorkflowHandle[Any, Any]]]:
    """What else can become of a resize, once it waits and before."""
    reverted = await world.start(Action.RESIZE)
    await reverted.signal("note_failed_attempt", FailedAttemptInput("prepare_resize", 1, "busy"))
    await reverted.signal("revert", decision(Action.REVERT_RESIZE))
    yield "reverted", reverted
    world.script(Activity.CLAIM_CONFIRM, ClaimConfirmResult(decision(Action.CONFIRM_RESIZE)))
    yield "confirmed-unasked", await world.start(Action.RESIZE, window=0.5)
    world.reached[Activity.CLAIM_CONFIRM].clear()
    late = await world.start(Action.RESIZE, window=0.5)
    await world.reached[Activity.CLAIM_CONFIRM].wait()
    await late.signal("revert", decision(Action.REVERT_RESIZE))
    yield "reverted-at-the-last-moment", late
    world.script(Activity.REVERT_RESIZE, refused("superseded"))
    doubtful = await world.start(Action.RESIZE)
    await doubtful.signal("revert", decision(Action.REVERT_RESIZE))
    await doubtful.signal("confirm", decision(Action.CONFIRM_RESIZE))
    yield "decided-after-nonsense", doubtful
    world.script(Activity.CLAIM_CONFIRM, ClaimConfirmResult(None, is_over=True))
    yield "decided-by-others", await world.start(Action.RESIZE, window=0.5)
    yield "reset-when-decided", await world.start(Action.RESIZE, is_over=True)
    world.script(Activity.REVERT_RESIZE, refused("superseded"))
    fenced = await world.start(Action.RESIZE)
    world.script(Activity.READ_CONFIRM_WINDOW, ConfirmWindowResult(None, is_over=True))
    await fenced.signal("revert", decision(Action.REVERT_RESIZE))
    yield "reset-and-told-again", fenced
    world.script(Activity.CONFIRM_RESIZE, refused("mock_refused"))
    yield "confirm-failed", await well(world, Action.RESIZE)
    world.reached[Activity.READ_CONFIRM_WINDOW].clear()
    left = await world.start(Action.RESIZE, window=60.0)
    await world.reached[Activity.READ_CONFIRM_WINDOW].wait()
    await left.cancel()
    yield "canceled-while-waiting", left
    world.script(Activity.FINISH_RESIZE, refused("resize_not_applied"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE, ServerStatus.ACTIVE)
    yield "put-back", await world.start(Action.RESIZE)


async def save(name: str, handle: WorkflowHandle[Any, Any]) -> None:
    """Write the workflow's history once it has ended, without what is of this machine only."""
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()
    path = HISTORIES / f"{name}.json"
    if not path.exists():
        history = json.dumps(json.loads((await handle.fetch_history()).to_json()), indent=1)
        path.write_text(OF_THIS_MACHINE.sub(r'"\1": ""', history) + "\n")


async def main() -> None:
    """Record on the dev server, as the histories of production come from a real one."""
    HISTORIES.mkdir(exist_ok=True)
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=local.TEMPORAL, search_attributes=search_attributes.ALL
        ) as environment,
        World(environment) as world,
    ):
        async for name, handle in endings(world):
            await save(name, handle)


if __name__ == "__main__":
    asyncio.run(main())
