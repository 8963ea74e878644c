"""Waiting for the cloud: one activity per operation, but one list call per worker for all of them.

A thousand builds in progress are a thousand waiting activities. If each polled the cloud, the polls would be the
cloud's main load. So all waiters of a worker share one poll per kind of resource and interval. For the same reason they
send few heartbeats: a poll also asks the database whose operations have ended or are to be canceled.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import timedelta
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.backends.protocol import BackendError, ComputeBackend
from activities.backends.resources import Fault, Image, Ref, Server, Volume
from activities.endings import EndingActivities
from activities.patience import WAIT_LIMIT, Patience
from activities.steps import read_ref
from activities.waiting_operations import Waiter, WaitingOperations
from domain.data.models import VM, Operation, Snapshot
from domain.data.models import Volume as VolumeRow
from domain.data.parameters import ExtendVolume, parameters_of
from domain.progress import step_records
from domain.rules.cloud import ImageState, ServerStatus, VolumeState
from domain.rules.errors import ServiceError
from domain.rules.messages import Activity, OperationInput, WaitForServerInput, WaitForVolumeInput
from domain.rules.states import Action

T = TypeVar("T", bound=Server | Volume | Image)

SLOW_DELETE = timedelta(seconds=30)
SLOW_BUILD = timedelta(minutes=5)
TRANSITIONAL = {
    *(VolumeState.CREATING, VolumeState.ATTACHING, VolumeState.DETACHING, VolumeState.EXTENDING, VolumeState.DELETING)
}
RESIZE_STARTS_FROM = {ServerStatus.ACTIVE, ServerStatus.SHUTOFF}


class Poll(Generic[T]):
    """Answers all waiters of this worker with one list call per interval, of servers, volumes or images."""

    def __init__(
        self,
        list_items: Callable[[Collection[Ref]], Awaitable[Mapping[UUID, T]]],
        backend: ComputeBackend,
        operations: WaitingOperations,
    ) -> None:
        self._list_items = list_items
        self._backend = backend
        self._operations = operations
        self._waiters: dict[Waiter, Ref] = {}
        self._next: asyncio.Task[tuple[Mapping[UUID, T], Mapping[Waiter, ServiceError]]] | None = None

    async def next_result(self, ref: Ref, waiter: Waiter) -> T | None:
        """Return the item as the next list call shows it; None if the cloud does not have it.

        The list call begins after this method is called, so the answer is never older than the question. Raises
        SupersededError or CanceledError if the waiter's operation should not go on.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._list())
        self._waiters[waiter] = ref
        # Shielded, because the task is shared: one waiter that is canceled must not cancel it for the others.
        items, refusals = await asyncio.shield(self._next)
        if waiter in refusals:
            raise refusals[waiter]
        return items.get(ref.id)

    async def _list(self) -> tuple[Mapping[UUID, T], Mapping[Waiter, ServiceError]]:
        await asyncio.sleep(self._backend.poll_interval)
        # A waiter that comes from here on belongs to the next list call, because this one begins without its id. All
        # three names change in one statement without an `await`, so no waiter can come in between and be lost.
        waiters, self._waiters, self._next = self._waiters, {}, None
        try:
            async with asyncio.timeout(self._backend.poll_timeout):
                items = await self._list_items(set(waiters.values()))
        except TimeoutError:
            message = f"The cloud did not answer within {self._backend.poll_timeout:g} seconds."
            raise BackendError("no_answer", message, retryable=True) from None
        reasons = {waiter: item.waits_for for waiter, ref in waiters.items() if (item := items.get(ref.id))}
        return items, await self._operations.refusals(waiters, reasons)


class WaitActivities(EndingActivities):
    """Activities that wait for the cloud; they send heartbeats and can be canceled at any time."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend) -> None:
        super().__init__(engine, backend)
        self._servers = Poll(backend.list_servers, backend, WaitingOperations(engine))
        self._volumes = Poll(backend.list_volumes, backend, WaitingOperations(engine))
        self._images = Poll(backend.list_images, backend, WaitingOperations(engine))

    @activity.defn(name=Activity.WAIT_FOR_SERVER)
    async def wait_for_server(self, input: WaitForServerInput) -> bool:
        """Return once the server has the status. With `records`, record the success of the operation, and return true.

        If the server can no longer get it, fail for good with the code that the cloud gives, or with `server_error`,
        `server_gone` or `no_valid_host`. After WAIT_LIMIT fail for good with `timed_out`.
        """
        operation, patience = input.operation, Patience()
        if input.records and await self._has_ended(operation):
            return True
        has_ports = has_devices = False
        if operation.action is Action.CREATE:
            vm, has_ports, has_devices = await self._new_server(operation)
        else:
            vm = await read_ref(self._engine, VM, operation.vm)
        waiter = Waiter.of(operation)
        while not await self._has_reached(server := await self._servers.next_result(vm, waiter), vm, input, patience):
            patience.check(f"The server did not become {input.status}")
        if has_ports:
            await self._note_new_ports(operation, vm)
        if has_devices:
            await self._note_devices(operation)
        if input.records:
            await self._end(operation, server)
        elif operation.action is Action.CREATE and server and server.availability_zone:
            async with self._autocommit.connect() as connection:
                await step_records.note_zone(connection, operation, server.availability_zone)
        return input.records

    async def _has_reached(self, server: Server | None, vm: Ref, input: WaitForServerInput, patience: Patience) -> bool:
        """Return whether the server has the status that is waited for; BackendError if it will never have it."""
        # The status alone is no proof. After a reboot that failed, it is the right one. And a delete that meets a dead
        # host does not go on until it is asked for again, nor does a build whose message was lost. The backend sees to
        # that when it is asked.
        is_slow_delete = input.status is ServerStatus.GONE and patience.is_longer_than(SLOW_DELETE)
        is_slow_build = input.operation.action is Action.CREATE and patience.is_longer_than(SLOW_BUILD)
        is_missing = server is None and input.status is not ServerStatus.GONE
        is_slow = is_slow_delete or is_slow_build
        may_be_over = is_missing or (server is not None and (not server.is_busy or is_slow))
        if may_be_over and not await self._backend.is_over(input.operation.operation_id, vm):
            return False
        return _server_reached(server, input.status)

    @activity.defn(name=Activity.WAIT_FOR_VOLUME)
    async def wait_for_volume(self, input: WaitForVolumeInput) -> bool:
        """Return once the volume has the state. With `records`, record the success of the operation, and return true.

        If the volume can no longer get it, fail for good with the code that the cloud gives, or with `volume_error`,
        `volume_gone` or `volume_unchanged`. After WAIT_LIMIT fail for good with `timed_out`.
        """
        patience = Patience()
        if input.records and await self._has_ended(input.operation):
            return True
        volume, waiter = await read_ref(self._engine, VolumeRow, input.operation.resource), Waiter.of(input.operation)
        try:
            while not _volume_reached(await self._volumes.next_result(volume, waiter), input.state):
                patience.check(f"The volume did not become {input.state}")
        except BackendError as error:
            await self._explain(error, input.operation)
            raise
        return await self._end_if(input.operation, records=input.records)

    @activity.defn(name=Activity.WAIT_FOR_EXTENSION)
    async def wait_for_extension(self, input: OperationInput) -> bool:
        """Return once the volume has the size that the operation gives it; fail as WAIT_FOR_VOLUME does.

        With `combines`, record the success, and return true.
        """
        patience = Patience()
        if input.combines and await self._has_ended(input):
            return True
        operation = await self._fetch(select(Operation).where(Operation.id == input.operation_id))
        size_gb = parameters_of(operation, ExtendVolume).size_gb
        volume, waiter = await read_ref(self._engine, VolumeRow, input.resource), Waiter.of(input)
        while not _is_extended(await self._volumes.next_result(volume, waiter), size_gb):
            patience.check(f"The volume did not get {size_gb} GiB")
        return await self._end_if(input, records=input.combines)

    @activity.defn(name=Activity.WAIT_FOR_IMAGE)
    async def wait_for_image(self, input: OperationInput) -> bool:
        """Return once the snapshot's image is saved. With `combines`, record the success, and return true.

        If it can no longer be saved, fail for good with the code that the cloud gives, or with `image_error` or
        `image_gone`. After WAIT_LIMIT fail for good with `timed_out`.
        """
        patience = Patience()
        if input.combines and await self._has_ended(input):
            return True
        image, waiter = await read_ref(self._engine, Snapshot, input.resource), Waiter.of(input)
        try:
            while not _image_saved(await self._images.next_result(image, waiter)):
                patience.check("The image was not saved")
        except BackendError as error:
            await self._explain(error, input)
            raise
        return await self._end_if(input, records=input.combines)

    async def _explain(self, error: BackendError, input: OperationInput) -> None:
        """Raise a BackendError with the reason of a failure if the cloud has one; a volume or an image shows none."""
        if not error.retryable and input.vm_id is not None:
            await self._backend.is_over(input.operation_id, await read_ref(self._engine, VM, input.vm_id))

    @activity.defn(name=Activity.SETTLE_SERVER)
    async def settle_server(self, input: OperationInput) -> ServerStatus:
        """Revoke the operation, wait until the cloud is done with the server, and return the server's status.

        A server that is still busy after WAIT_LIMIT is returned as it is. SupersededError if the operation no longer
        holds its VM.
        """
        patience = Patience()
        await self._revoke(input)
        vm, waiter = await read_ref(self._engine, VM, input.vm), Waiter.of(input, may_be_canceled=False)
        server = await self._servers.next_result(vm, waiter)
        while server and server.is_busy and not patience.is_longer_than(WAIT_LIMIT):
            server = await self._servers.next_result(vm, waiter)
        return server.status if server else ServerStatus.GONE

    @activity.defn(name=Activity.SETTLE_VOLUME)
    async def settle_volume(self, input: OperationInput) -> VolumeState:
        """Do the same as SETTLE_SERVER for a volume."""
        patience = Patience()
        await self._revoke(input)
        ref, waiter = await read_ref(self._engine, VolumeRow, input.resource), Waiter.of(input, may_be_canceled=False)
        volume = await self._volumes.next_result(ref, waiter)
        while volume and volume.state in TRANSITIONAL and not patience.is_longer_than(WAIT_LIMIT):
            volume = await self._volumes.next_result(ref, waiter)
        return volume.state if volume else VolumeState.GONE


def _server_reached(server: Server | None, target: ServerStatus) -> bool:
    """Return whether the server has the target status; BackendError if it will never have it."""
    status = server.status if server else ServerStatus.GONE
    if status is target:
        return True
    if target is ServerStatus.VERIFY_RESIZE and server and status in RESIZE_STARTS_FROM and not server.is_busy:
        # Nova reports no fault when its scheduler finds no host for a resize: it leaves the server as it was.
        message = "No valid host was found for the new flavor; the server keeps its old one."
        raise BackendError("no_valid_host", message, retryable=False)
    if status is ServerStatus.GONE:
        raise BackendError("server_gone", "The cloud no longer has the server.", retryable=False)
    # A server in ERROR that is busy may still leave it: a reboot or a stop can repair it.
    if server and status is ServerStatus.ERROR and not server.is_busy:
        fault = server.fault or Fault("server_error", "The cloud reports the server in status ERROR.")
        raise BackendError(fault.code, fault.message, retryable=False)
    return False


def _volume_reached(volume: Volume | None, target: VolumeState) -> bool:
    """Return whether the volume has the target state; BackendError if it will never have it."""
    state = volume.state if volume else VolumeState.GONE
    if state is target:
        return True
    if state in TRANSITIONAL:
        return False
    raise _volume_failure(volume, f"The volume did not become {target}: the cloud left it {state}.")


def _is_extended(volume: Volume | None, size_gb: int) -> bool:
    """Return whether the volume is at rest and has the size; BackendError if it will never have it."""
    if volume and volume.state in TRANSITIONAL:
        return False
    if volume and volume.state is not VolumeState.ERROR and volume.size_gb >= size_gb:
        return True
    size = volume.size_gb if volume else 0
    raise _volume_failure(volume, f"The volume did not get {size_gb} GiB: the cloud left it at {size} GiB.")


def _volume_failure(volume: Volume | None, unchanged: str) -> BackendError:
    """Return why a volume that is at rest does not have what was asked."""
    if volume is None:
        return BackendError("volume_gone", "The cloud no longer has the volume.", retryable=False)
    if volume.state is VolumeState.ERROR:
        message = volume.fault or "The cloud reports the volume in state error."
        return BackendError("volume_error", message, retryable=False)
    # Cinder reports no fault when it gives up on a volume: it returns the volume to its previous state.
    return BackendError("volume_unchanged", unchanged, retryable=False)


def _image_saved(image: Image | None) -> bool:
    """Return whether the image is complete; BackendError if it never will be."""
    if image is None:
        raise BackendError("image_gone", "The cloud no longer has the image.", retryable=False)
    if image.state is ImageState.ERROR:
        message = image.fault or "The cloud reports the image in state error."
        raise BackendError("image_error", message, retryable=False)
    return image.state is ImageState.ACTIVE
