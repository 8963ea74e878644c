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
from domain.commands import service
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
from tests.activities.cloud import count_rows, server_spec
from tests.activities.conftest import Run
from tests.support.rows import FLAVOR_IDS, INPUTS, add_held_vm, add_operation, claim, read_operation, read_vm

SMALL, MEDIUM = FLAVOR_IDS["m1.small"], FLAVOR_IDS["m1.medium"]


@pytest.fixture
def resize(engine: AsyncEngine, backend: MockBackend) -> ResizeActivities:
    """The steps, on the mock cloud."""
    return ResizeActivities(engine, backend)


async def finish_changes(engine: AsyncEngine, backend: MockBackend, input: OperationInput) -> tuple[ServerStatus, int]:
    """How the cloud shows the server when everything is due, and its size."""
    async with engine.begin() as tx:
        due = {"due_at": servers.c.created_at}
        await tx.execute(update(servers).where(servers.c.due_at.is_not(None)).values(due))
    server = (await backend.list_servers([input.vm]))[input.vm]
    return server.status, server.ram_mb


async def add_resize(
    engine: AsyncEngine, backend: MockBackend, *, previous: Status = Status.ACTIVE, **values: Any
) -> OperationInput:
    """A resize in its first step, of a server that is there."""
    input = await add_held_vm(engine, Action.RESIZE, previous=previous, **values)
    await backend.create_server(Token(uuid4(), "spawning"), server_spec(input.vm))
    await finish_changes(engine, backend, input)
    if previous is Status.SHUTOFF:
        await backend.stop_server(Token(uuid4(), "powering_off"), input.vm)
        await finish_changes(engine, backend, input)
    return input


async def add_verified_resize(
    engine: AsyncEngine, backend: MockBackend, run: Run, resize: ResizeActivities, **how: Any
) -> OperationInput:
    """A resize that has come to VERIFY_RESIZE."""
    input = await add_resize(engine, backend, **how)
    for step in (resize.prepare_resize, resize.resize_server):
        await run(step, input)
    await finish_changes(engine, backend, input)
    await run(resize.finish_resize, input)
    async with engine.begin() as tx:
        await step_records.finish(tx, input)
    return input


async def accept_decision(engine: AsyncEngine, resize: OperationInput, action: Action) -> OperationInput:
    """The operation that confirms or reverts, accepted."""
    async with engine.begin() as tx:
        return workflow_input.input_of(await claim(tx, resize.vm, action), "test-vm")


def with_window(seconds: float) -> dict[str, Any]:
    """What a resize is asked for whose window is that long."""
    return INPUTS[Action.RESIZE] | {"confirm_window": seconds}


async def test_the_cloud_keeps_the_old_size_until_the_decision(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_verified_resize(engine, backend, run, resize)
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.task_state, vm.flavor_id, vm.confirm_by) == (Status.VERIFY_RESIZE, None, MEDIUM, None)
    assert await finish_changes(engine, backend, input) == (ServerStatus.VERIFY_RESIZE, 4096)
    assert await count_rows(engine, "migrations", input.vm_id) == 1


@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
@pytest.mark.parametrize(
    ("action", "flavor", "size"),
    [
        (Action.CONFIRM_RESIZE, MEDIUM, 4096),
        (Action.REVERT_RESIZE, SMALL, 2048),
    ],
)
async def test_a_decision_restores_the_power_state_and_keeps_one_flavor(  # noqa: PLR0913, PLR0917 - fixtures
    resize: ResizeActivities,
    backend: MockBackend,
    engine: AsyncEngine,
    run: Run,
    previous: Status,
    action: Action,
    flavor: object,
    size: int,
) -> None:
    input = await accept_decision(
        engine, await add_verified_resize(engine, backend, run, resize, previous=previous), action
    )
    step = resize.confirm_resize if action is Action.CONFIRM_RESIZE else resize.revert_resize
    for _ in range(2):
        await run(step, input)
    assert await finish_changes(engine, backend, input) == (ServerStatus(str(previous)), size)
    assert await count_rows(engine, "migrations", input.vm_id) == 0
    async with engine.begin() as tx:
        await step_records.finish(tx, input)
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.task_state, vm.flavor_id) == (previous, None, flavor)


async def test_a_resize_to_a_flavor_without_a_host_fails_before_any_effect(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    colossal = INPUTS[Action.RESIZE] | {"flavor_id": str(FLAVOR_IDS["m1.colossal"])}
    input = await add_resize(engine, backend, input=colossal)
    with pytest.raises(BackendError) as refusal:
        await run(resize.prepare_resize, input)
    assert (refusal.value.code, refusal.value.retryable) == ("no_valid_host", False)
    assert await count_rows(engine, "migrations", input.vm_id) == 0


async def test_finishing_a_resize_fails_if_the_server_does_not_have_its_new_size(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_resize(engine, backend, step=TaskState.RESIZE_MIGRATING)
    with pytest.raises(BackendError) as refusal:
        await run(resize.finish_resize, input)
    assert (refusal.value.code, refusal.value.retryable) == ("resize_not_applied", False)


@pytest.mark.parametrize("action", [Action.CONFIRM_RESIZE, Action.REVERT_RESIZE])
async def test_the_check_fails_if_the_opposite_decision_was_made_in_the_cloud(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run, action: Action
) -> None:
    """As Nova's own resize_confirm_window does, or an administrator: the server is ACTIVE either way."""
    input = await accept_decision(engine, await add_verified_resize(engine, backend, run, resize), action)
    other = Token(uuid4(), "by hand")
    if action is Action.CONFIRM_RESIZE:
        await backend.revert_server_resize(other, input.vm)
    else:
        await backend.confirm_server_resize(other, input.vm)
    await finish_changes(engine, backend, input)
    with pytest.raises(BackendError) as refusal:
        await run(resize.check_flavor, CheckFlavorInput(input))
    assert (refusal.value.code, refusal.value.retryable) == ("resize_not_applied", False)


async def test_the_check_compares_with_the_new_or_the_previous_flavor(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_resize(engine, backend)
    await run(resize.check_flavor, CheckFlavorInput(input, previous=True))
    with pytest.raises(BackendError, match="size of the expected flavor"):
        await run(resize.check_flavor, CheckFlavorInput(input))
    with pytest.raises(SupersededError):
        await run(resize.check_flavor, CheckFlavorInput(replace(input, operation_id=uuid4())))


async def test_another_decision_is_possible_after_one_was_canceled(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    moved_once = await add_verified_resize(engine, backend, run, resize, previous=Status.SHUTOFF)
    confirm = await accept_decision(engine, moved_once, Action.CONFIRM_RESIZE)
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(confirm, "canceled", "Canceled.", canceled=True, intact=True))
    assert (await read_vm(engine, confirm.vm)).status is Status.VERIFY_RESIZE
    revert = await accept_decision(engine, moved_once, Action.REVERT_RESIZE)
    assert revert.previous_status is Status.SHUTOFF
    await run(resize.revert_resize, revert)
    assert await finish_changes(engine, backend, revert) == (ServerStatus.SHUTOFF, 2048)


async def test_undoing_a_resize_does_not_revert_an_earlier_one(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    """An admin has put its VM into ACTIVE, and somebody asked for another size, which the cloud refuses."""
    earlier = await add_verified_resize(engine, backend, run, resize)
    async with engine.begin() as tx:
        vm = await queries.fetch_one(tx, select(VM).where(VM.id == earlier.vm_id))
        assert vm is not None
        sizes = {"flavor_id": str(SMALL), "previous_flavor_id": str(MEDIUM)}
        later = await add_operation(tx, vm, Action.RESIZE, input=INPUTS[Action.RESIZE] | sizes, started_at=func.now())
    await run(resize.undo_resize, workflow_input.input_of(later, vm.name))
    assert await finish_changes(engine, backend, earlier) == (ServerStatus.VERIFY_RESIZE, 4096)
    assert await count_rows(engine, "migrations", earlier.vm_id) == 1


async def test_undoing_reverts_the_resize_and_refuses_its_later_calls(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_resize(engine, backend, previous=Status.SHUTOFF)
    for step in (resize.prepare_resize, resize.resize_server):
        await run(step, input)
    await finish_changes(engine, backend, input)
    for _ in range(2):
        await run(resize.undo_resize, input)
    assert await finish_changes(engine, backend, input) == (ServerStatus.SHUTOFF, 2048)
    assert await count_rows(engine, "migrations", input.vm_id) == 0
    with pytest.raises(BackendError, match="revoked"):
        await run(resize.resize_server, input)
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(input, "canceled", "Canceled.", canceled=True, intact=True))
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.flavor_id) == (Status.SHUTOFF, SMALL)


async def test_a_superseded_resize_is_not_undone(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_resize(engine, backend)
    for step in (resize.prepare_resize, resize.resize_server):
        await run(step, input)
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.DELETE)
    with pytest.raises(SupersededError):
        await run(resize.undo_resize, input)
    assert await count_rows(engine, "migrations", input.vm_id) == 1


async def test_the_confirm_window_is_counted_by_the_databases_clock(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_verified_resize(engine, backend, run, resize, input=with_window(3600))
    window = await run(resize.read_confirm_window, input)
    assert 3590 < window.seconds <= 3600
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(confirm_by=func.now() - timedelta(seconds=60)))
    assert (await run(resize.read_confirm_window, input)).seconds < 0


@pytest.mark.parametrize("action", [None, Action.CONFIRM_RESIZE, Action.DELETE])
async def test_there_is_no_window_if_none_was_requested_or_the_decision_is_made(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run, action: Action | None
) -> None:
    input = await add_verified_resize(engine, backend, run, resize, input=with_window(3600 if action else 0))
    if action:
        await accept_decision(engine, input, action)
    assert (await run(resize.read_confirm_window, input)).seconds is None


async def test_dropping_the_window_changes_nothing_else(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_verified_resize(engine, backend, run, resize, input=with_window(3600))
    await run(resize.drop_confirm_window, input)
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.confirm_by, vm.operation_id) == (Status.VERIFY_RESIZE, None, input.operation_id)
    await accept_decision(engine, input, Action.REVERT_RESIZE)


async def test_the_end_of_the_window_claims_one_confirm_for_the_service_itself(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_verified_resize(engine, backend, run, resize, input=with_window(1))
    claims = [(await run(resize.claim_confirm, input)).confirm for _ in range(2)]
    assert claims[0] == claims[1]
    assert claims[0] is not None
    assert claims[0].previous_status is Status.ACTIVE
    confirm = await read_operation(engine, claims[0].operation_id)
    resized = await read_operation(engine, input.operation_id)
    assert (confirm.actor, confirm.owner_id) == (service.CONFIRM_WINDOW_ACTOR, resized.owner_id)
    assert (confirm.workflow_id, confirm.request_id) == (resized.workflow_id, resized.request_id)
    assert confirm.deliver_after > confirm.created_at
    vm = await read_vm(engine, input.vm)
    assert (vm.status, vm.task_state) == (Status.VERIFY_RESIZE, TaskState.RESIZE_CONFIRMING)
    await run(resize.confirm_resize, claims[0])
    async with engine.begin() as tx:
        await step_records.finish(tx, claims[0])
    assert await run(resize.claim_confirm, input) == ClaimConfirmResult(None, is_over=True)
    assert await run(resize.read_confirm_window, input) == ConfirmWindowResult(None, is_over=True)


@pytest.mark.parametrize("action", [Action.CONFIRM_RESIZE, Action.REVERT_RESIZE, Action.DELETE])
async def test_the_end_of_the_window_claims_nothing_if_a_user_has_decided(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run, action: Action
) -> None:
    input = await add_verified_resize(engine, backend, run, resize, input=with_window(1))
    other = await accept_decision(engine, input, action)
    before = await read_vm(engine, input.vm)
    assert await run(resize.claim_confirm, input) == ClaimConfirmResult(None, is_over=action is Action.DELETE)
    assert await read_vm(engine, input.vm) == before
    assert (await read_operation(engine, other.operation_id)).status is OperationStatus.QUEUED


async def test_an_earlier_resize_claims_nothing(
    resize: ResizeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    """An operator reset its workflow to a point before its end, and the VM has moved on to another resize."""
    input = await add_verified_resize(engine, backend, run, resize)
    older = OperationInput(uuid4(), input.vm_id, Action.RESIZE)
    assert await run(resize.claim_confirm, older) == ClaimConfirmResult(None, is_over=True)
    await run(resize.drop_confirm_window, older)
    assert await run(resize.read_confirm_window, older) == ConfirmWindowResult(None, is_over=True)
