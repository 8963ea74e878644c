"""Waiting for volumes and images: each arrives, or is said never to, and what is under way is let end."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import images, volumes
from activities.backends.protocol import BackendError, Image, Token, Volume
from activities.waits import TRANSITIONAL, WAIT_LIMIT, WaitActivities
from domain.rules.cloud import VolumeState
from domain.rules.errors import SupersededError
from domain.rules.messages import OperationInput, WaitForVolumeInput
from domain.rules.states import Action
from domain.settings import Settings
from tests.activities.cloud import ENDLESS_DELAYS
from tests.activities.conftest import Run
from tests.activities.operations import add_claiming_operation, prepare_operation, supersede

WANTED = (VolumeState.AVAILABLE, VolumeState.IN_USE, VolumeState.GONE)  # what is ever waited for


class LookedAt(MockBackend):
    """The mock cloud, which tells of every look at its volumes and images, and may hold it up."""

    poll_interval = 0.01

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.looked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def list_volumes(self, volume_ids: Collection[UUID]) -> Mapping[UUID, Volume]:
        seen = await super().list_volumes(volume_ids)
        self.looked.set()
        await self.may_answer.wait()
        return seen

    async def list_images(self, image_ids: Collection[UUID]) -> Mapping[UUID, Image]:
        seen = await super().list_images(image_ids)
        self.looked.set()
        await self.may_answer.wait()
        return seen


@pytest.fixture
async def cloud(settings: Settings) -> AsyncIterator[LookedAt]:
    """A cloud where nothing that is begun comes to an end by itself."""
    backend = LookedAt(settings.model_copy(update=ENDLESS_DELAYS))
    await backend.prepare()
    yield backend
    await backend.close()


@pytest.fixture
def waits(engine: AsyncEngine, cloud: LookedAt) -> WaitActivities:
    """The waits, on that cloud."""
    return WaitActivities(engine, cloud)


async def add_volume(engine: AsyncEngine, cloud: MockBackend, state: VolumeState | None) -> OperationInput:
    """An operation on a volume that the cloud shows in the state, or does not have."""
    input = OperationInput(uuid4(), None, Action.CREATE_VOLUME, resource_id=uuid4())
    if state is not VolumeState.GONE:
        await cloud.create_volume(Token(uuid4(), "make"), input.resource, "data", 10)
        await turn(engine, state)
    return input


async def turn(engine: AsyncEngine, state: VolumeState | None) -> None:
    """The volumes are in this state from now on."""
    async with engine.begin() as tx:
        if state is VolumeState.GONE:
            await tx.execute(volumes.delete())
        else:
            await tx.execute(update(volumes).values(state=state))


async def save(engine: AsyncEngine, fault: str | None = None) -> None:
    """The images are saved, or turn out to be in error."""
    async with engine.begin() as tx:
        await tx.execute(update(images).values(due_at=func.now(), fault=fault))


async def looks(cloud: LookedAt, number: int = 3) -> None:
    """Return once the cloud has been looked at so many times more."""
    for _ in range(number):
        cloud.looked.clear()
        await cloud.looked.wait()


async def ended_for_good(call: Any, code: str, *, retryable: bool = False) -> str:
    """Why the wait ended without what it waited for."""
    with pytest.raises(BackendError) as refusal:
        async with asyncio.timeout(5):
            await call
    assert (refusal.value.code, refusal.value.retryable) == (code, retryable)
    return str(refusal.value)


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("meanwhile", sorted(TRANSITIONAL))
async def test_a_wait_continues_while_the_volume_is_transitional(  # noqa: PLR0913, PLR0917 - fixtures
    waits: WaitActivities,
    cloud: LookedAt,
    engine: AsyncEngine,
    run: Run,
    wanted: VolumeState,
    meanwhile: VolumeState,
) -> None:
    input = await add_volume(engine, cloud, meanwhile)
    wait = asyncio.create_task(run(waits.wait_for_volume, WaitForVolumeInput(input, wanted)))
    async with asyncio.timeout(5):
        await looks(cloud)
        assert not wait.done()
        await turn(engine, wanted)
        await wait


@pytest.mark.parametrize(
    ("seen", "wanted", "code"),
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
    cloud: LookedAt,
    engine: AsyncEngine,
    run: Run,
    seen: VolumeState,
    wanted: VolumeState,
    code: str,
) -> None:
    input = await add_volume(engine, cloud, seen)
    await ended_for_good(run(waits.wait_for_volume, WaitForVolumeInput(input, wanted)), code)


async def test_a_wait_for_an_image_ends_when_it_is_saved(
    waits: WaitActivities, cloud: LookedAt, engine: AsyncEngine, run: Run
) -> None:
    input = await _saving(engine, cloud)
    wait = asyncio.create_task(run(waits.wait_for_image, input))
    async with asyncio.timeout(5):
        await looks(cloud)
        assert not wait.done()
        await save(engine)
        await wait


@pytest.mark.parametrize("fault", ["No space left.", ""])
async def test_a_wait_fails_if_the_image_is_in_error(
    waits: WaitActivities, cloud: LookedAt, engine: AsyncEngine, run: Run, fault: str
) -> None:
    input = await _saving(engine, cloud)
    await save(engine, "No space left.")
    said = await ended_for_good(run(waits.wait_for_image, input), "image_error")
    assert fault in said


async def test_a_wait_fails_if_the_image_is_gone(waits: WaitActivities, engine: AsyncEngine, run: Run) -> None:
    input = await add_claiming_operation(engine, Action.SNAPSHOT)
    await ended_for_good(run(waits.wait_for_image, input), "image_gone")


async def _saving(engine: AsyncEngine, cloud: MockBackend) -> OperationInput:
    """A snapshot whose image is being saved."""
    input = await prepare_operation(engine, cloud, Action.SNAPSHOT)
    await cloud.create_server_image(Token(input.operation_id, "image"), input.vm, input.resource, "before")
    return input


def late(environment: ActivityEnvironment) -> None:
    """Whatever the activity waits for, it has been waiting for too long."""
    long_ago = datetime.now(UTC) - WAIT_LIMIT - timedelta(seconds=1)
    environment.info = replace(environment.info, scheduled_time=long_ago)


async def test_an_overdue_wait_for_a_volume_fails_only_after_a_poll(
    waits: WaitActivities, cloud: LookedAt, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = WaitForVolumeInput(await add_volume(engine, cloud, VolumeState.ATTACHING), VolumeState.IN_USE)
    late(environment)
    said = await ended_for_good(environment.run(waits.wait_for_volume, input), "timed_out")
    assert said == "The volume did not become in-use within 30 minutes."
    await turn(engine, VolumeState.IN_USE)
    await environment.run(waits.wait_for_volume, input)


async def test_an_overdue_wait_for_an_image_fails_only_after_a_poll(
    waits: WaitActivities, cloud: LookedAt, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = await _saving(engine, cloud)
    late(environment)
    said = await ended_for_good(environment.run(waits.wait_for_image, input), "timed_out")
    assert said == "The image was not saved within 30 minutes."
    await save(engine)
    await environment.run(waits.wait_for_image, input)


async def test_a_poll_of_volumes_or_images_that_is_not_answered_is_retryable(
    waits: WaitActivities, cloud: LookedAt, engine: AsyncEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.waits.POLL_TIMEOUT", 0.05)
    volume, image = await add_volume(engine, cloud, VolumeState.IN_USE), await _saving(engine, cloud)
    await save(engine)
    wanted = WaitForVolumeInput(volume, VolumeState.IN_USE)
    cloud.may_answer.clear()
    await ended_for_good(run(waits.wait_for_volume, wanted), "no_answer", retryable=True)
    await ended_for_good(run(waits.wait_for_image, image), "no_answer", retryable=True)
    monkeypatch.undo()
    cloud.may_answer.set()
    await run(waits.wait_for_volume, wanted)
    await run(waits.wait_for_image, image)


@pytest.mark.parametrize("meanwhile", sorted(TRANSITIONAL))
@pytest.mark.parametrize("then", [*WANTED, VolumeState.ERROR])
async def test_settling_waits_until_the_volume_is_stable_and_refuses_later_calls(  # noqa: PLR0913, PLR0917
    waits: WaitActivities, cloud: LookedAt, engine: AsyncEngine, run: Run, meanwhile: VolumeState, then: VolumeState
) -> None:
    input = await prepare_operation(engine, cloud, Action.DETACH_VOLUME)
    await turn(engine, meanwhile)
    settling = asyncio.create_task(run(waits.settle_volume, input))
    async with asyncio.timeout(5):
        await looks(cloud)
        assert not settling.done()
        await turn(engine, then)
        assert await settling is then
    with pytest.raises(BackendError, match="revoked"):
        await cloud.detach_volume(Token(input.operation_id, "detach_volume"), input.vm, input.resource)


async def test_settling_an_overdue_volume_returns_its_present_state(
    waits: WaitActivities, cloud: LookedAt, engine: AsyncEngine, environment: ActivityEnvironment
) -> None:
    input = await prepare_operation(engine, cloud, Action.DELETE_VOLUME)
    await turn(engine, VolumeState.DELETING)
    late(environment)
    async with asyncio.timeout(5):
        assert await environment.run(waits.settle_volume, input) is VolumeState.DELETING


@pytest.mark.parametrize("action", [Action.DETACH_VOLUME, Action.DELETE_VOLUME])
async def test_the_volume_of_a_superseded_operation_is_not_settled(
    waits: WaitActivities, cloud: LookedAt, engine: AsyncEngine, run: Run, action: Action
) -> None:
    input = await prepare_operation(engine, cloud, action)
    await supersede(engine, input)
    with pytest.raises(SupersededError):
        await run(waits.settle_volume, input)
    assert not cloud.looked.is_set()
