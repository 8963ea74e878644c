"""The steps of a resize: what they ask of the cloud, what they record, and who may end it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import servers
from activities.backends.protocol import BackendError, Token
from activities.resize import ResizeActivities
from domain.commands import resize_decisions
from domain.data import queries
from domain.data.models import VM
from domain.progress import step_records, workflow_input
from domain.rules.cloud import ServerStatus
from domain.rules.errors import SupersededError
from domain.rules.messages import (
    CheckFlavorInput,
    ClaimConfirmResult,
    ConfirmWindowResult,
    FailOperationInput,
    OperationInput,
)
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.activities.conftest import Do, count, spec
from tests.support.rows import FLAVOR_IDS, INPUTS, add_held_vm, add_operation, claim, read_operation, read_vm

SMALL, MEDIUM = FLAVOR_IDS["m1.small"], FLAVOR_IDS["m1.medium"]


@pytest.fixture
def resize(engine: AsyncEngine, backend: MockBackend) -> ResizeActivities:
    """The steps, on the mock cloud."""
    return ResizeActivities(engine, backend)


async def settled(engine: AsyncEngine, backend: MockBackend, input: OperationInput) -> tuple[ServerStatus, int]:
    """How the cloud shows the server when everything is due, and its size."""
    async with engine.begin() as tx:
        due = {"due_at": servers.c.created_at}
        await tx.execute(update(servers).where(servers.c.due_at.is_not(None)).values(due))
    server = (await backend.list_servers([input.vm]))[input.vm]
    return server.status, server.ram_mb


async def begun(
    engine: AsyncEngine, backend: MockBackend, *, was: Status = Status.ACTIVE, **values: Any
) -> OperationInput:
    """A resize in its first step, of a server that is there."""
    input = await add_held_vm(engine, Action.RESIZE, previous=was, **values)
    await backend.create_server(Token(uuid4(), "spawning"), spec(input.vm))
    await settled(engine, backend, input)
    if was is Status.SHUTOFF:
        await backend.stop_server(Token(uuid4(), "powering_off"), input.vm)
        await settled(engine, backend, input)
    return input


async def moved(
    engine: AsyncEngine, backend: MockBackend, do: Do, resize: ResizeActivities, **how: Any
) -> OperationInput:
    """A resize that has come to VERIFY_RESIZE."""
    input = await begun(engine, backend, **how)
    for step in (resize.prepare_resize, resize.resize_server):
        await do(step, input)
    await settled(engine, backend, input)
    await do(resize.finish_resize, input)
    async with engine.begin() as tx:
        await step_records.finish(tx, input)
    return input


async def decided(engine: AsyncEngine, resize: OperationInput, action: Action) -> OperationInput:
    """The operation that confirms or reverts, accepted."""
    async with engine.begin() as tx:
        return workflow_input.input_of(await claim(tx, resize.vm, action), "test-vm")


def with_window(seconds: float) -> dict[str, Any]:
    """What a resize is asked for whose window is that long."""
    return INPUTS[Action.RESIZE] | {"confirm_window": seconds}


async def test_the_cloud_holds_both_sizes_until_it_is_decided(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input = await moved(engine, backend, do, resize)
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.task_state, vm.flavor_id, vm.confirm_by) == (Status.VERIFY_RESIZE, None, MEDIUM, None)
    assert await settled(engine, backend, input) == (ServerStatus.VERIFY_RESIZE, 4096)
    assert await count(engine, "migrations", input.vm_id) == 1


@pytest.mark.parametrize("was", [Status.ACTIVE, Status.SHUTOFF])
@pytest.mark.parametrize(
    ("action", "flavor", "size"),
    [
        (Action.CONFIRM_RESIZE, MEDIUM, 4096),
        (Action.REVERT_RESIZE, SMALL, 2048),
    ],
)
async def test_a_decision_ends_as_the_server_was_with_the_flavor_that_is_kept(  # noqa: PLR0913, PLR0917 - fixtures
    resize: ResizeActivities,
    backend: MockBackend,
    engine: AsyncEngine,
    do: Do,
    was: Status,
    action: Action,
    flavor: object,
    size: int,
) -> None:
    input = await decided(engine, await moved(engine, backend, do, resize, was=was), action)
    step = resize.confirm_resize if action is Action.CONFIRM_RESIZE else resize.revert_resize
    for _ in range(2):
        await do(step, input)
    assert await settled(engine, backend, input) == (ServerStatus(str(was)), size)
    assert await count(engine, "migrations", input.vm_id) == 0
    async with engine.begin() as tx:
        await step_records.finish(tx, input)
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.task_state, vm.flavor_id) == (was, None, flavor)


async def test_a_flavor_that_no_host_holds_is_found_out_before_anything_is_done(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    colossal = INPUTS[Action.RESIZE] | {"flavor_id": str(FLAVOR_IDS["m1.colossal"])}
    input = await begun(engine, backend, input=colossal)
    with pytest.raises(BackendError) as refusal:
        await do(resize.prepare_resize, input)
    assert (refusal.value.code, refusal.value.retryable) == ("no_valid_host", False)
    assert await count(engine, "migrations", input.vm_id) == 0


async def test_a_server_that_did_not_get_its_size_is_found_out(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input = await begun(engine, backend, step=TaskState.RESIZE_MIGRATING)
    with pytest.raises(BackendError) as refusal:
        await do(resize.finish_resize, input)
    assert (refusal.value.code, refusal.value.retryable) == ("resize_not_applied", False)


@pytest.mark.parametrize("action", [Action.CONFIRM_RESIZE, Action.REVERT_RESIZE])
async def test_a_server_that_somebody_else_decided_on_is_found_out(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do, action: Action
) -> None:
    """As Nova's own resize_confirm_window does, or an administrator: the server is ACTIVE either way."""
    input = await decided(engine, await moved(engine, backend, do, resize), action)
    other = Token(uuid4(), "by hand")
    if action is Action.CONFIRM_RESIZE:
        await backend.revert_server_resize(other, input.vm)
    else:
        await backend.confirm_server_resize(other, input.vm)
    await settled(engine, backend, input)
    with pytest.raises(BackendError) as refusal:
        await do(resize.check_flavor, CheckFlavorInput(input))
    assert (refusal.value.code, refusal.value.retryable) == ("resize_not_applied", False)


async def test_a_server_that_is_back_at_its_flavor_is_seen_to_be(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input = await begun(engine, backend)
    await do(resize.check_flavor, CheckFlavorInput(input, previous=True))
    with pytest.raises(BackendError, match="size of the flavor"):
        await do(resize.check_flavor, CheckFlavorInput(input))
    with pytest.raises(SupersededError):
        await do(resize.check_flavor, CheckFlavorInput(replace(input, operation_id=uuid4())))


async def test_a_decision_that_was_canceled_in_time_can_be_taken_again(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    moved_once = await moved(engine, backend, do, resize, was=Status.SHUTOFF)
    confirm = await decided(engine, moved_once, Action.CONFIRM_RESIZE)
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(confirm, "canceled", "Canceled.", canceled=True, intact=True))
    assert (await read_vm(engine, confirm.vm)).status is Status.VERIFY_RESIZE
    revert = await decided(engine, moved_once, Action.REVERT_RESIZE)
    assert revert.previous_status is Status.SHUTOFF
    await do(resize.revert_resize, revert)
    assert await settled(engine, backend, revert) == (ServerStatus.SHUTOFF, 2048)


async def test_undoing_leaves_an_earlier_resize_alone_that_waits_to_be_decided(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    """An admin has put its VM into ACTIVE, and somebody asked for another size, which the cloud refuses."""
    earlier = await moved(engine, backend, do, resize)
    async with engine.begin() as tx:
        vm = await queries.fetch_one(tx, select(VM).where(VM.id == earlier.vm_id))
        assert vm is not None
        sizes = {"flavor_id": str(SMALL), "previous_flavor_id": str(MEDIUM)}
        later = await add_operation(tx, vm, Action.RESIZE, input=INPUTS[Action.RESIZE] | sizes, started_at=func.now())
    await do(resize.undo_resize, workflow_input.input_of(later, vm.name))
    assert await settled(engine, backend, earlier) == (ServerStatus.VERIFY_RESIZE, 4096)
    assert await count(engine, "migrations", earlier.vm_id) == 1


async def test_undoing_puts_the_server_back_and_lets_nothing_come_after(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input = await begun(engine, backend, was=Status.SHUTOFF)
    for step in (resize.prepare_resize, resize.resize_server):
        await do(step, input)
    await settled(engine, backend, input)
    for _ in range(2):
        await do(resize.undo_resize, input)
    assert await settled(engine, backend, input) == (ServerStatus.SHUTOFF, 2048)
    assert await count(engine, "migrations", input.vm_id) == 0
    with pytest.raises(BackendError, match="revoked"):
        await do(resize.resize_server, input)
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(input, "canceled", "Canceled.", canceled=True, intact=True))
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.flavor_id) == (Status.SHUTOFF, SMALL)


async def test_a_resize_that_a_delete_took_over_from_undoes_nothing(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input = await begun(engine, backend)
    for step in (resize.prepare_resize, resize.resize_server):
        await do(step, input)
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.DELETE)
    with pytest.raises(SupersededError):
        await do(resize.undo_resize, input)
    assert await count(engine, "migrations", input.vm_id) == 1


async def test_the_window_is_counted_by_the_database_from_the_moment_it_waits(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input = await moved(engine, backend, do, resize, input=with_window(3600))
    window = await do(resize.read_confirm_window, input)
    assert 3590 < window.seconds <= 3600
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(confirm_by=func.now() - timedelta(seconds=60)))
    assert (await do(resize.read_confirm_window, input)).seconds < 0


@pytest.mark.parametrize("action", [None, Action.CONFIRM_RESIZE, Action.DELETE])
async def test_there_is_no_window_where_none_was_asked_for_or_it_is_decided(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do, action: Action | None
) -> None:
    input = await moved(engine, backend, do, resize, input=with_window(3600 if action else 0))
    if action:
        await decided(engine, input, action)
    assert (await do(resize.read_confirm_window, input)).seconds is None


async def test_dropping_the_window_leaves_the_rest(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input = await moved(engine, backend, do, resize, input=with_window(3600))
    await do(resize.drop_confirm_window, input)
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.confirm_by, vm.operation_id) == (Status.VERIFY_RESIZE, None, input.operation_id)
    await decided(engine, input, Action.REVERT_RESIZE)


async def test_the_end_of_the_window_confirms_on_nobodys_behalf_and_once(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input = await moved(engine, backend, do, resize, input=with_window(1))
    claims = [(await do(resize.claim_confirm, input)).confirm for _ in range(2)]
    assert claims[0] == claims[1]
    assert claims[0] is not None
    assert claims[0].previous_status is Status.ACTIVE
    confirm = await read_operation(engine, claims[0].operation_id)
    resized = await read_operation(engine, input.operation_id)
    assert (confirm.actor, confirm.owner_id) == (resize_decisions.CONFIRM_WINDOW_ACTOR, resized.owner_id)
    assert (confirm.workflow_id, confirm.request_id) == (resized.workflow_id, resized.request_id)
    assert confirm.deliver_after > confirm.created_at
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.task_state) == (Status.VERIFY_RESIZE, TaskState.RESIZE_CONFIRMING)
    await do(resize.confirm_resize, claims[0])
    async with engine.begin() as tx:
        await step_records.finish(tx, claims[0])
    assert await do(resize.claim_confirm, input) == ClaimConfirmResult(None, is_over=True)
    assert await do(resize.read_confirm_window, input) == ConfirmWindowResult(None, is_over=True)


@pytest.mark.parametrize("action", [Action.CONFIRM_RESIZE, Action.REVERT_RESIZE, Action.DELETE])
async def test_the_end_of_the_window_comes_too_late_where_somebody_decided(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do, action: Action
) -> None:
    input = await moved(engine, backend, do, resize, input=with_window(1))
    other = await decided(engine, input, action)
    before = await read_vm(engine, input.vm)
    assert await do(resize.claim_confirm, input) == ClaimConfirmResult(None, is_over=action is Action.DELETE)
    assert await read_vm(engine, input.vm) == before
    assert (await read_operation(engine, other.operation_id)).status is OperationStatus.QUEUED


async def test_an_older_resize_confirms_nothing(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    """An operator reset its workflow to a point before its end, and the VM has moved on to another resize."""
    input = await moved(engine, backend, do, resize)
    older = OperationInput(uuid4(), input.vm_id, Action.RESIZE)
    assert await do(resize.claim_confirm, older) == ClaimConfirmResult(None, is_over=True)
    await do(resize.drop_confirm_window, older)
    assert await do(resize.read_confirm_window, older) == ConfirmWindowResult(None, is_over=True)
