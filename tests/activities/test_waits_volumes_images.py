"""Waiting for volumes and images: a wait ends when they have the state, or fails once they will never have it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import images, volumes
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref, Volume
from activities.patience import WAIT_LIMIT
from activities.waits import TRANSITIONAL, WaitActivities
from domain.rules.cloud import VolumeState
from domain.rules.errors import SupersededError
from domain.rules.messages import OperationInput, WaitForVolumeInput
from domain.rules.states import Action
from tests.activities.conftest import Run
from tests.activities.operations import add_claiming_operation, prepare_operation, supersede
from tests.activities.polled_cloud import PolledCloud

TARGETS = (VolumeState.AVAILABLE, VolumeState.IN_USE, VolumeState.GONE)  # of all waits for volumes


@pytest.fixture
def waits(engine: AsyncEngine, polled_cloud: PolledCloud) -> WaitActivities:
    """The waits, on a cloud that records its polls."""
    return WaitActivities(engine, polled_cloud)


async def add_volume(engine: AsyncEngine, cloud: MockBackend, state: VolumeState | None) -> OperationInput:
    """Add an operation on a volume that has this state in the cloud."""
    input = OperationInput(uuid4(), None, Action.CREATE_VOLUME, resource_id=uuid4())
    if state is not VolumeState.GONE:
        await cloud.create_volume(Token(uuid4(), "create"), input.resource, "data", 10)
        await set_state(engine, state)
    return input


async def set_state(engine: AsyncEngine, state: VolumeState | None) -> None:
    """Give all volumes this state."""
    async with engine.begin() as tx:
        if state is VolumeState.GONE:
            await tx.execute(volumes.delete())
        else:
            await tx.execute(update(volumes).values(state=state))


async def complete_images(engine: AsyncEngine, fault: str | None = None) -> None:
    """Complete all images, with an error if there is a fault."""
    async with engine.begin() as tx:
        await tx.execute(update(images).values(due_at=func.now(), fault=fault))


async def wait_fails(call: Any, code: str, *, retryable: bool = False) -> str:
    """Check that the wait fails with this code, and return the error's message."""
    with pytest.raises(BackendError) as failure:
        async with asyncio.timeout(5):
            await call
    assert (failure.value.code, failure.value.retryable) == (code, retryable)
    return str(failure.value)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("state", sorted(TRANSITIONAL))
async def test_a_wait_continues_while_the_volume_is_transitional(  # noqa: PLR0913, PLR0917 - fixtures
    waits: WaitActivities,
    polled_cloud: PolledCloud,
    engine: AsyncEngine,
    run: Run,
    target: VolumeState,
    state: VolumeState,
) -> None:
    input = await add_volume(engine, polled_cloud, state)
    wait = asyncio.create_task(run(waits.wait_for_volume, WaitForVolumeInput(input, target)))
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls(3)
        assert not wait.done()
        await set_state(engine, target)
        await wait


@pytest.mark.parametrize(
    ("state", "target", "code"),
    [
        (VolumeState.GONE, VolumeState.AVAILABLE, "volume_gone"),
        (VolumeState.GONE, VolumeState.IN_USE, "volume_gone"),
        (VolumeState.ERROR, VolumeState.AVAILABLE, "volume_error"),
        (VolumeState.ERROR, VolumeState.IN_USE, "volume_error"),
        (VolumeState.ERROR, VolumeState.GONE, "volume_error"),
        (VolumeState.AVAILABLE, VolumeState.IN_USE, "volume_unchanged"),
        (VolumeState.AVAILABLE, VolumeState.GONE, "volume_unchanged"),
        (VolumeState.IN_USE, VolumeState.AVAILABLE, "volume_unchanged"),
        (VolumeState.IN_USE, VolumeState.GONE, "volume_unchanged"),
    ],
)
async def test_a_wait_fails_if_the_volume_will_not_reach_the_state(  # noqa: PLR0913, PLR0917 - fixtures
    waits: WaitActivities,
    polled_cloud: PolledCloud,
    engine: AsyncEngine,
    run: Run,
    state: VolumeState,
    target: VolumeState,
    code: str,
) -> None:
    input = await add_volume(engine, polled_cloud, state)
    await wait_fails(run(waits.wait_for_volume, WaitForVolumeInput(input, target)), code)


async def test_a_wait_for_a_volume_in_error_fails_with_the_reason(
    waits: WaitActivities, polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    input = await add_volume(engine, polled_cloud, VolumeState.ERROR)
    listed = Volume(input.resource, VolumeState.ERROR, fault="There is no space left.")
    monkeypatch.setattr(MockBackend, "list_volumes", AsyncMock(return_value={input.resource: listed}))
    wait = run(waits.wait_for_volume, WaitForVolumeInput(input, VolumeState.AVAILABLE))
    assert "There is no space left." in await wait_fails(wait, "volume_error")


async def test_waits_for_volumes_and_images_fail_with_the_reason_that_the_server_has(
    waits: WaitActivities, polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = BackendError("action_failed", "The host failed.", retryable=False)
    monkeypatch.setattr(polled_cloud, "is_over", AsyncMock(side_effect=reason))
    input = await prepare_operation(engine, polled_cloud, Action.DETACH_VOLUME)
    await wait_fails(run(waits.wait_for_volume, WaitForVolumeInput(input, VolumeState.AVAILABLE)), "action_failed")
    input = await add_claiming_operation(engine, Action.SNAPSHOT)
    await wait_fails(run(waits.wait_for_image, input), "action_failed")


async def test_a_wait_for_an_image_ends_when_it_is_saved(
    waits: WaitActivities, polled_cloud: PolledCloud, engine: AsyncEngine, run: Run
) -> None:
    input = await add_saving_image(engine, polled_cloud)
    wait = asyncio.create_task(run(waits.wait_for_image, input))
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls(3)
        assert not wait.done()
        await complete_images(engine)
        await wait


@pytest.mark.parametrize("fault", ["No space left.", ""])
async def test_a_wait_fails_if_the_image_is_in_error(
    waits: WaitActivities, polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, fault: str
) -> None:
    input = await add_saving_image(engine, polled_cloud)
    await complete_images(engine, "No space left.")
    message = await wait_fails(run(waits.wait_for_image, input), "image_error")
    assert fault in message


async def test_a_wait_fails_if_the_image_is_gone(waits: WaitActivities, engine: AsyncEngine, run: Run) -> None:
    input = await add_claiming_operation(engine, Action.SNAPSHOT)
    await wait_fails(run(waits.wait_for_image, input), "image_gone")


async def add_saving_image(engine: AsyncEngine, polled_cloud: MockBackend) -> OperationInput:
    """Add a snapshot operation whose image is being saved."""
    input = await prepare_operation(engine, polled_cloud, Action.SNAPSHOT)
    await polled_cloud.create_server_image(Token(input.operation_id, "image"), Ref(input.vm), input.resource, "before")
    return input


def make_overdue(environment: ActivityEnvironment) -> None:
    """Let the activity have waited for longer than WAIT_LIMIT."""
    long_ago = datetime.now(UTC) - WAIT_LIMIT - timedelta(seconds=1)
    environment.info = replace(environment.info, scheduled_time=long_ago)


async def test_an_overdue_wait_for_a_volume_fails_only_after_a_poll(
    waits: WaitActivities, polled_cloud: PolledCloud, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = WaitForVolumeInput(await add_volume(engine, polled_cloud, VolumeState.ATTACHING), VolumeState.IN_USE)
    make_overdue(environment)
    message = await wait_fails(environment.run(waits.wait_for_volume, input), "timed_out")
    assert message == "The volume did not become in-use within 30 minutes."
    await set_state(engine, VolumeState.IN_USE)
    await environment.run(waits.wait_for_volume, input)


async def test_an_overdue_wait_for_an_image_fails_only_after_a_poll(
    waits: WaitActivities, polled_cloud: PolledCloud, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = await add_saving_image(engine, polled_cloud)
    make_overdue(environment)
    message = await wait_fails(environment.run(waits.wait_for_image, input), "timed_out")
    assert message == "The image was not saved within 30 minutes."
    await complete_images(engine)
    await environment.run(waits.wait_for_image, input)


async def test_a_poll_of_volumes_or_images_that_is_not_answered_is_retryable(
    waits: WaitActivities, polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polled_cloud, "poll_timeout", 0.05)
    volume = await add_volume(engine, polled_cloud, VolumeState.IN_USE)
    image = await add_saving_image(engine, polled_cloud)
    await complete_images(engine)
    input = WaitForVolumeInput(volume, VolumeState.IN_USE)
    polled_cloud.may_answer.clear()
    await wait_fails(run(waits.wait_for_volume, input), "no_answer", retryable=True)
    await wait_fails(run(waits.wait_for_image, image), "no_answer", retryable=True)
    monkeypatch.undo()
    polled_cloud.may_answer.set()
    await run(waits.wait_for_volume, input)
    await run(waits.wait_for_image, image)


@pytest.mark.parametrize("state", sorted(TRANSITIONAL))
@pytest.mark.parametrize("result", [*TARGETS, VolumeState.ERROR])
async def test_settling_waits_until_the_volume_is_stable_and_refuses_later_calls(  # noqa: PLR0913, PLR0917
    waits: WaitActivities,
    polled_cloud: PolledCloud,
    engine: AsyncEngine,
    run: Run,
    state: VolumeState,
    result: VolumeState,
) -> None:
    input = await prepare_operation(engine, polled_cloud, Action.DETACH_VOLUME)
    await set_state(engine, state)
    settling = asyncio.create_task(run(waits.settle_volume, input))
    async with asyncio.timeout(5):
        await polled_cloud.wait_for_polls(3)
        assert not settling.done()
        await set_state(engine, result)
        assert await settling is result
    with pytest.raises(BackendError, match="revoked"):
        await polled_cloud.detach_volume(Token(input.operation_id, "detach_volume"), Ref(input.vm), Ref(input.resource))


async def test_settling_an_overdue_volume_returns_its_present_state(
    waits: WaitActivities, polled_cloud: PolledCloud, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = await prepare_operation(engine, polled_cloud, Action.DELETE_VOLUME)
    await set_state(engine, VolumeState.DELETING)
    make_overdue(environment)
    async with asyncio.timeout(5):
        assert await environment.run(waits.settle_volume, input) is VolumeState.DELETING


@pytest.mark.parametrize("action", [Action.DETACH_VOLUME, Action.DELETE_VOLUME])
async def test_the_volume_of_a_superseded_operation_is_not_settled(
    waits: WaitActivities, polled_cloud: PolledCloud, engine: AsyncEngine, run: Run, action: Action
) -> None:
    input = await prepare_operation(engine, polled_cloud, action)
    polled_cloud.polls.clear()
    await supersede(engine, input)
    with pytest.raises(SupersededError):
        await run(waits.settle_volume, input)
    assert polled_cloud.polls == []
