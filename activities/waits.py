"""Waiting for the cloud: one activity per operation, one list call per worker however many wait."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.backends.protocol import BackendError, ComputeBackend, Image, Server, Volume
from activities.steps import StepActivities
from domain.rules.cloud import ImageState, ServerStatus, VolumeState
from domain.rules.messages import Activity, OperationInput, WaitForServerInput, WaitForVolumeInput

T = TypeVar("T")

LOOK_TIMEOUT = 10.0  # seconds
PATIENCE = timedelta(minutes=30)
UNDER_WAY = {VolumeState.CREATING, VolumeState.ATTACHING, VolumeState.DETACHING, VolumeState.DELETING}
AS_BEFORE = {ServerStatus.ACTIVE, ServerStatus.SHUTOFF}  # what a resize begins with


class Poll(Generic[T]):
    """Answers every waiter of this worker from the same look at the cloud's servers, volumes or images."""

    def __init__(self, look_at: Callable[[Collection[UUID]], Awaitable[Mapping[UUID, T]]], interval: float) -> None:
        self._look_at = look_at
        self._interval = interval
        self._asked: set[UUID] = set()
        self._next: asyncio.Task[Mapping[UUID, T]] | None = None

    async def look(self, id: UUID) -> T | None:
        """What a look that has yet to begin will see; None where it is gone."""
        if self._next is None:
            self._next = asyncio.create_task(self._list())
        self._asked.add(id)
        return (await asyncio.shield(self._next)).get(id)

    async def _list(self) -> Mapping[UUID, T]:
        await asyncio.sleep(self._interval)
        asked, self._asked, self._next = self._asked, set(), None
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                return await self._look_at(asked)
        except TimeoutError:
            raise BackendError(
                "no_answer", "The cloud does not answer a look at what it has.", retryable=True
            ) from None


class WaitActivities(StepActivities):
    """Activities that wait for the cloud; they heartbeat and can be cancelled at any time."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend) -> None:
        super().__init__(engine, backend)
        self._servers = Poll(backend.list_servers, backend.poll_interval)
        self._volumes = Poll(backend.list_volumes, backend.poll_interval)
        self._images = Poll(backend.list_images, backend.poll_interval)

    @activity.defn(name=Activity.WAIT_FOR_SERVER)
    async def wait_for_server(self, input: WaitForServerInput) -> None:
        """Return once the server is in the status.

        `server_error`, `server_gone` or, of a resize, `no_valid_host` where it will not get there, `timed_out` where a
        look after PATIENCE finds it still under way.
        """
        while not _arrived(await self._servers.look(input.operation.vm), input.status):
            _be_patient(f"The server did not become {input.status}")

    @activity.defn(name=Activity.WAIT_FOR_VOLUME)
    async def wait_for_volume(self, input: WaitForVolumeInput) -> None:
        """Return once the volume is in the state.

        `volume_error`, `volume_gone` or, where it is back in the state before, `volume_unchanged` if it will not get
        there; `timed_out` as for a server.
        """
        while not _is_there(await self._volumes.look(input.operation.resource), input.state):
            _be_patient(f"The volume did not become {input.state}")

    @activity.defn(name=Activity.WAIT_FOR_IMAGE)
    async def wait_for_image(self, input: OperationInput) -> None:
        """Return once the snapshot's image is saved; `image_error` or `image_gone` where it will not be."""
        while not _is_saved(await self._images.look(input.resource)):
            _be_patient("The image was not saved")

    @activity.defn(name=Activity.SETTLE_SERVER)
    async def settle_server(self, input: OperationInput) -> ServerStatus:
        """Refuse the operation's further calls, let the cloud end what it is at, and return what then shows.

        SupersededError where the operation no longer holds its VM. A server still busy after PATIENCE is taken as is.
        """
        await self._revoke(input)
        while (server := await self._servers.look(input.vm)) and server.is_busy and _waited() < PATIENCE:
            pass
        return server.status if server else ServerStatus.GONE

    @activity.defn(name=Activity.SETTLE_VOLUME)
    async def settle_volume(self, input: OperationInput) -> VolumeState:
        """As SETTLE_SERVER, for a volume."""
        await self._revoke(input)
        while (volume := await self._volumes.look(input.resource)) and volume.state in UNDER_WAY:
            if _waited() > PATIENCE:
                break
        return volume.state if volume else VolumeState.GONE


def _be_patient(what: str) -> None:
    if _waited() > PATIENCE:
        raise BackendError("timed_out", f"{what} within {PATIENCE.seconds // 60} minutes.", retryable=False)


def _waited() -> timedelta:
    return datetime.now(UTC) - activity.info().scheduled_time


def _arrived(server: Server | None, wanted: ServerStatus) -> bool:
    status = server.status if server else ServerStatus.GONE
    if status is wanted:
        return True
    if wanted is ServerStatus.VERIFY_RESIZE and server and status in AS_BEFORE and not server.is_busy:
        # How Nova tells that its scheduler found no host: the server is as it was, without any fault.
        message = "No valid host was found: the cloud left the server at its flavor."
        raise BackendError("no_valid_host", message, retryable=False)
    if status is ServerStatus.GONE:
        raise BackendError("server_gone", "The cloud no longer has the server.", retryable=False)
    if server and status is ServerStatus.ERROR and not server.is_busy:
        raise BackendError("server_error", server.fault or "The cloud shows the server in ERROR.", retryable=False)
    return False


def _is_there(volume: Volume | None, wanted: VolumeState) -> bool:
    state = volume.state if volume else VolumeState.GONE
    if state is wanted:
        return True
    if state in UNDER_WAY:
        return False
    if state is VolumeState.GONE:
        raise BackendError("volume_gone", "The cloud no longer has the volume.", retryable=False)
    if state is VolumeState.ERROR:
        raise BackendError("volume_error", "The cloud shows the volume in error.", retryable=False)
    raise BackendError("volume_unchanged", f"The cloud left the volume {state}.", retryable=False)


def _is_saved(image: Image | None) -> bool:
    if image is None:
        raise BackendError("image_gone", "The cloud no longer has the image.", retryable=False)
    if image.state is ImageState.ERROR:
        raise BackendError("image_error", image.fault or "The cloud shows the image in error.", retryable=False)
    return image.state is ImageState.ACTIVE
