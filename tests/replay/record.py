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
from domain.lifecycle import TABLE, Action
from domain.messages import Activity
from tests.workflows.world import HANG, World, failed, refused

HISTORIES = Path(__file__).parent / "histories"
OF_THIS_MACHINE = re.compile(r'"(stackTrace|identity|binaryChecksum|workerInstanceKey)": "(?:[^"\\]|\\.)*"')


async def endings(world: World) -> AsyncIterator[tuple[str, WorkflowHandle[Any, Any]]]:
    """Run every workflow to each kind of end, the first effect failing where one must."""
    for action in (action for action, rule in TABLE.items() if rule.workflow):
        yield f"{action}-succeeded", await world.start(action)
        world.script(Activity.WAIT_FOR_SERVER, failed("mock_transient"), refused("server_error"))
        yield f"{action}-failed", await world.start(action)
        world.script(Activity.WAIT_FOR_SERVER, refused("superseded"))
        yield f"{action}-superseded", await world.start(action)
        world.reached[Activity.WAIT_FOR_SERVER].clear()
        world.script(Activity.WAIT_FOR_SERVER, HANG)
        canceled = await world.start(action)
        await world.reached[Activity.WAIT_FOR_SERVER].wait()
        await canceled.cancel()
        yield f"{action}-canceled", canceled
    world.script(Activity.PREEMPT_OPERATIONS, ["create-a"])
    world.script(Activity.LIST_OPEN_WORKFLOWS, ["create-a"], [])
    yield f"{Action.DELETE}-preempting", await world.start(Action.DELETE)


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
        await WorkflowEnvironment.start_local(dev_server_existing_path=local.TEMPORAL) as environment,
        World(environment.client) as world,
    ):
        async for name, handle in endings(world):
            await save(name, handle)


if __name__ == "__main__":
    asyncio.run(main())
