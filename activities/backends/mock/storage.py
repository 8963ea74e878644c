"""The mock cloud's images, which take time to save, and its volumes, which change at once."""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock.calls import MockCalls, clock_in, is_one_of
from activities.backends.mock.schema import images, servers, volumes
from activities.backends.protocol import BackendError, Image, Token, Volume
from domain.rules.cloud import ImageState, ServerStatus, VolumeState


class MockStorage(MockCalls):
    """Images and volumes."""

    async def create_server_image(self, token: Token, vm_id: UUID, image_id: UUID, name: str) -> None:
        doomed = self._is_doomed(token.operation_id)

        async def save(tx: AsyncConnection) -> None:
            server = await _lock_server(tx, vm_id)
            row = {
                "id": image_id,
                "vm_id": vm_id,
                "name": name,
                "content": server.content,
                "due_at": clock_in(self._settings.mock_snapshot_delay),
                "fault": "The mock cloud failed the snapshot (MOCK_ERROR_RATE)." if doomed else None,
            }
            await tx.execute(insert(images).values(row))

        await self._call("create_server_image", token, vm_id, save)

    async def delete_image(self, token: Token, image_id: UUID) -> None:
        async def remove(tx: AsyncConnection) -> None:
            await tx.execute(delete(images).where(images.c.id == image_id))

        await self._call("delete_image", token, image_id, remove, may_be_doomed=True)

    async def list_images(self, image_ids: Collection[UUID]) -> Mapping[UUID, Image]:
        is_saved = (images.c.due_at <= func.clock_timestamp()).label("is_saved")
        async with self._engine.begin() as tx:
            rows = await tx.execute(select(images, is_saved).where(is_one_of(images.c.id, image_ids)))
            return {row.id: _image_from(row) for row in rows}

    async def create_volume(self, token: Token, volume_id: UUID, name: str, size_gb: int) -> None:
        async def create(tx: AsyncConnection) -> None:
            row = {"id": volume_id, "name": name, "size_gb": size_gb, "state": VolumeState.AVAILABLE}
            await tx.execute(insert(volumes).values(row))

        await self._call("create_volume", token, volume_id, create, may_be_doomed=True)

    async def delete_volume(self, token: Token, volume_id: UUID) -> None:
        async def remove(tx: AsyncConnection) -> None:
            volume = await _lock_volume(tx, volume_id)
            if volume is not None and volume.state != VolumeState.AVAILABLE:
                raise _conflict(volume)
            await tx.execute(delete(volumes).where(volumes.c.id == volume_id))

        await self._call("delete_volume", token, volume_id, remove, may_be_doomed=True)

    async def attach_volume(self, token: Token, vm_id: UUID, volume_id: UUID, device: str) -> None:
        async def attach(tx: AsyncConnection) -> None:
            # The server before the volume, as a delete of the server locks them. The lock also keeps the server from
            # being deleted in the middle, which would leave the volume attached to nothing.
            await _lock_server(tx, vm_id)
            volume = await _lock_volume(tx, volume_id)
            if volume is None:
                raise BackendError("volume_not_found", "The cloud does not have the volume.", retryable=False)
            if volume.state != VolumeState.AVAILABLE:
                raise _conflict(volume)
            values = {"state": VolumeState.IN_USE, "vm_id": vm_id, "device": device}
            await tx.execute(update(volumes).where(volumes.c.id == volume_id).values(values))

        await self._call("attach_volume", token, vm_id, attach, may_be_doomed=True)

    async def detach_volume(self, token: Token, vm_id: UUID, volume_id: UUID) -> None:
        async def detach(tx: AsyncConnection) -> None:
            attached = (volumes.c.id == volume_id, volumes.c.vm_id == vm_id)
            values = {"state": VolumeState.AVAILABLE, "vm_id": None, "device": None}
            await tx.execute(update(volumes).where(*attached).values(values))

        await self._call("detach_volume", token, vm_id, detach, may_be_doomed=True)

    async def list_volumes(self, volume_ids: Collection[UUID]) -> Mapping[UUID, Volume]:
        async with self._engine.begin() as tx:
            rows = await tx.execute(select(volumes).where(is_one_of(volumes.c.id, volume_ids)))
            return {row.id: volume_from(row) for row in rows}


async def _lock_server(tx: AsyncConnection, vm_id: UUID) -> Row[Any]:
    """Lock the VM's server and return its row; BackendError if it does not exist or is being deleted."""
    server = (await tx.execute(select(servers).where(servers.c.vm_id == vm_id).with_for_update())).one_or_none()
    if server is None or server.status == ServerStatus.DELETING:
        raise BackendError("server_not_found", "The cloud has no server for this VM.", retryable=False)
    return server


async def _lock_volume(tx: AsyncConnection, volume_id: UUID) -> Row[Any] | None:
    return (await tx.execute(select(volumes).where(volumes.c.id == volume_id).with_for_update())).one_or_none()


def volume_from(row: Row[Any]) -> Volume:
    """Return the volume that a row describes."""
    return Volume(row.id, VolumeState(row.state), row.vm_id, row.device)


def _conflict(volume: Row[Any]) -> BackendError:
    """Return the error for calls that Cinder would answer with 400."""
    message = f"The cloud refused the call, because the volume is {volume.state}."
    return BackendError("volume_conflict", message, retryable=False)


def _image_from(row: Row[Any]) -> Image:
    state = ImageState.SAVING if not row.is_saved else ImageState.ERROR if row.fault else ImageState.ACTIVE
    return Image(row.id, state, row.fault if row.is_saved else None)
