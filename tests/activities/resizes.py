"""Resizes in the stages in which their activities find them."""

from typing import Any
from uuid import uuid4

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import servers
from activities.backends.protocol import Token
from activities.backends.resources import Ref
from activities.resize import ResizeActivities
from domain.progress import step_records, workflow_input
from domain.rules.cloud import ServerStatus
from domain.rules.messages import OperationInput
from domain.rules.states import Action, Status
from tests.activities.cloud import server_spec
from tests.activities.conftest import Run
from tests.support.rows import INPUTS, add_held_vm, claim


async def complete_cloud_changes(
    engine: AsyncEngine, backend: MockBackend, input: OperationInput
) -> tuple[ServerStatus, int]:
    """Complete all changes; return the status of the server and its RAM in MiB."""
    async with engine.begin() as tx:
        due = {"due_at": servers.c.created_at}
        await tx.execute(update(servers).where(servers.c.due_at.is_not(None)).values(due))
    server = (await backend.list_servers([Ref(input.vm)]))[input.vm]
    return server.status, server.ram_mb


async def add_resize(
    engine: AsyncEngine, backend: MockBackend, *, previous: Status = Status.ACTIVE, **values: Any
) -> OperationInput:
    """Add a resize in its first step, with a server in the cloud."""
    input = await add_held_vm(engine, Action.RESIZE, previous=previous, **values)
    await backend.create_server(Token(uuid4(), "spawning"), server_spec(input.vm))
    await complete_cloud_changes(engine, backend, input)
    if previous is Status.SHUTOFF:
        await backend.stop_server(Token(uuid4(), "powering_off"), Ref(input.vm))
        await complete_cloud_changes(engine, backend, input)
    return input


async def add_undecided_resize(
    engine: AsyncEngine, backend: MockBackend, run: Run, resize: ResizeActivities, **values: Any
) -> OperationInput:
    """Add a resize that has succeeded and awaits its decision."""
    input = await add_resize(engine, backend, **values)
    for step in (resize.prepare_resize, resize.resize_server):
        await run(step, input)
    await complete_cloud_changes(engine, backend, input)
    await run(resize.finish_resize, input)
    async with engine.begin() as tx:
        await step_records.finish(tx, input)
    return input


async def accept_decision(engine: AsyncEngine, resize: OperationInput, action: Action) -> OperationInput:
    """Accept the operation that confirms or reverts the resize."""
    async with engine.begin() as tx:
        return workflow_input.input_of(await claim(tx, resize.vm, action), "test-vm")


def with_window(seconds: float) -> dict[str, Any]:
    """Return the input of a resize with a confirm window of that many seconds."""
    return INPUTS[Action.RESIZE] | {"confirm_window": seconds}
