"""The mock cloud's images, which take time to save, and its volumes, which change at once."""

from collections.abc import Collection, Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock.boot import free_device
from activities.backends.mock.calls import (
    MockCalls,
    clock_in,
    id_by_mark,
    is_meant,
    is_one_of,
    lock_idle_server,
    means,
    refuse_volume_backed,
)
from activities.backends.mock.schema import images, servers, volumes
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Image, Ref, Volume
from domain.rules.cloud import ImageState, ServerStatus, VolumeState

_IMAGE_ID: Final = id_by_mark(images.c.cloud_id, images.c.id)
_VOLUME_ID: Final = id_by_mark(volumes.c.cloud_id, volumes.c.id)


class MockStorage(MockCalls):
    """Images and volumes."""

    async def create_server_image(self, token: Token, vm: Ref, image_id: UUID, name: str) -> str:
        doomed = self._is_doomed(token.operation_id)

        async def save(tx: AsyncConnection) -> None:
            server = await lock_idle_server(tx, vm, ServerStatus.ACTIVE, ServerStatus.SHUTOFF)
            refuse_volume_backed(server)
            row = {
                "id": image_id,
                "vm_id": vm.id,
                "name": name,
                "content": server.content,
                "due_at": clock_in(self._settings.mock_snapshot_delay),
                "fault": "The mock cloud failed the snapshot (MOCK_ERROR_RATE)." if doomed else None,
            }
            saved_at = await tx.scalar(insert(images).values(row).returning(images.c.due_at))
            busy = {"next_status": server.status, "due_at": saved_at}
            await tx.execute(update(servers).where(servers.c.vm_id == vm.id).values(busy))

        await self._call("create_server_image", token, vm.id, save)
        return await self._created("image", _IMAGE_ID, image_id)

    async def delete_image(self, token: Token, image: Ref) -> None:
        async def remove(tx: AsyncConnection) -> None:
            await tx.execute(delete(images).where(is_meant(images.c.id, images.c.cloud_id, image)))

        await self._call("delete_image", token, image.id, remove, may_be_doomed=True)

    async def list_images(self, wanted: Collection[Ref]) -> Mapping[UUID, Image]:
        refs = {ref.id: ref for ref in wanted}
        is_saved = (images.c.due_at <= func.clock_timestamp()).label("is_saved")
        async with self._engine.begin() as tx:
            rows = await tx.execute(select(images, is_saved).where(is_one_of(images.c.id, refs)))
            return {row.id: _image_from(row) for row in rows if means(refs[row.id], row.cloud_id)}

    async def create_volume(
        self, token: Token, volume_id: UUID, name: str, size_gb: int, image: Ref | None = None
    ) -> str:
        async def create(tx: AsyncConnection) -> None:
            row = {"id": volume_id, "name": name, "size_gb": size_gb, "state": VolumeState.AVAILABLE}
            await tx.execute(insert(volumes).values(row | {"image_id": image.id if image else None}))

        await self._call("create_volume", token, volume_id, create, may_be_doomed=True)
        return await self._created("volume", _VOLUME_ID, volume_id)

    async def delete_volume(self, token: Token, volume: Ref) -> None:
        async def remove(tx: AsyncConnection) -> None:
            row = await _lock_volume(tx, volume)
            if row is not None and row.state != VolumeState.AVAILABLE:
                raise _conflict(row)
            await tx.execute(delete(volumes).where(is_meant(volumes.c.id, volumes.c.cloud_id, volume)))

        await self._call("delete_volume", token, volume.id, remove, may_be_doomed=True)

    async def extend_volume(self, token: Token, volume: Ref, size_gb: int) -> None:
        async def extend(tx: AsyncConnection) -> None:
            row = await _lock_volume(tx, volume)
            if row is None:
                raise _no_volume()
            if row.state not in {VolumeState.AVAILABLE, VolumeState.IN_USE}:
                raise _conflict(row)
            is_smaller = (volumes.c.id == row.id, volumes.c.size_gb < size_gb)
            await tx.execute(update(volumes).where(*is_smaller).values(size_gb=size_gb))

        await self._call("extend_volume", token, volume.id, extend, may_be_doomed=True)

    async def attach_volume(self, token: Token, vm: Ref, volume: Ref, device: str | None) -> str:
        async def attach(tx: AsyncConnection) -> None:
            # The server before the volume, as a delete of the server locks them. The lock also keeps the server from
            # being deleted in the middle, which would leave the volume attached to nothing.
            await lock_idle_server(tx, vm, ServerStatus.ACTIVE, ServerStatus.SHUTOFF, ServerStatus.VERIFY_RESIZE)
            row = await _lock_volume(tx, volume)
            if row is None:
                raise _no_volume()
            if row.vm_id == vm.id:
                return
            if row.state != VolumeState.AVAILABLE:
                raise _conflict(row)
            values = {"state": VolumeState.IN_USE, "vm_id": vm.id, "device": device or await free_device(tx, vm.id)}
            await tx.execute(update(volumes).where(volumes.c.id == volume.id).values(values))

        await self._call("attach_volume", token, vm.id, attach, may_be_doomed=True)
        attached = (await self.list_volumes([volume])).get(volume.id)
        if attached is None or attached.vm_id != vm.id or attached.device is None:
            raise BackendError("volume_detached", "The cloud no longer has the volume at the server.", retryable=False)
        return attached.device

    async def detach_volume(self, token: Token, vm: Ref, volume: Ref) -> None:
        async def detach(tx: AsyncConnection) -> None:
            is_root = (servers.c.vm_id == vm.id, servers.c.boot_volume_id == volume.id)
            if await tx.scalar(select(servers.c.vm_id).where(*is_root)):
                raise BackendError("conflict", "Cannot detach a root device volume", retryable=False)
            attached = (is_meant(volumes.c.id, volumes.c.cloud_id, volume), volumes.c.vm_id == vm.id)
            values = {"state": VolumeState.AVAILABLE, "vm_id": None, "device": None}
            await tx.execute(update(volumes).where(*attached).values(values))

        await self._call("detach_volume", token, vm.id, detach, may_be_doomed=True)

    async def list_volumes(self, wanted: Collection[Ref], *, with_faults: bool = True) -> Mapping[UUID, Volume]:
        del with_faults  # its volumes have none
        refs = {ref.id: ref for ref in wanted}
        async with self._engine.begin() as tx:
            rows = await tx.execute(select(volumes).where(is_one_of(volumes.c.id, refs)))
            return {row.id: volume_from(row) for row in rows if means(refs[row.id], row.cloud_id)}


async def _lock_volume(tx: AsyncConnection, volume: Ref) -> Row[Any] | None:
    is_it = is_meant(volumes.c.id, volumes.c.cloud_id, volume)
    return (await tx.execute(select(volumes).where(is_it).with_for_update())).one_or_none()


def volume_from(row: Row[Any]) -> Volume:
    """Return the volume that a row describes."""
    return Volume(row.id, VolumeState(row.state), row.vm_id, row.device, size_gb=row.size_gb)


def _no_volume() -> BackendError:
    return BackendError("volume_not_found", "The cloud does not have the volume.", retryable=False)


def _conflict(volume: Row[Any]) -> BackendError:
    """Return the error for calls that Cinder would answer with 400."""
    message = f"The cloud refused the call, because the volume is {volume.state}."
    return BackendError("conflict", message, retryable=False)


def _image_from(row: Row[Any]) -> Image:
    state = ImageState.SAVING if not row.is_saved else ImageState.ERROR if row.fault else ImageState.ACTIVE
    return Image(row.id, str(row.cloud_id), state, row.fault if row.is_saved else None)
