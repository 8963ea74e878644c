"""The disks of new servers in the mock cloud: the one that a server boots from, and further volumes."""

from string import ascii_lowercase
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Row, and_, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock.calls import is_meant
from activities.backends.mock.schema import images, volumes
from activities.backends.protocol import BackendError
from activities.backends.resources import Ref, ServerSpec
from domain.rules.cloud import VolumeState
from domain.rules.cloud_init import LARGEST

ROOT_DEVICE: Final = "/dev/vda"


async def attach_data(tx: AsyncConnection, spec: ServerSpec) -> None:
    """Attach the volumes that a new server has beside its disk; BackendError if one of them is not available."""
    for wanted in spec.volumes:
        row = await _lock_available(tx, wanted.volume)
        await _attach(tx, row, spec.vm, wanted.device or await free_device(tx, spec.vm.id))


async def disk_of(tx: AsyncConnection, spec: ServerSpec) -> dict[str, Any]:
    """Return the columns of a new server that are about its disk; BackendError if it cannot boot from that."""
    disk = {"image_id": UUID(spec.image.cloud_id) if spec.image.cloud_id else spec.image.id, "content": str(uuid4())}
    if spec.boot_volume is not None:
        await _attach_root(tx, spec.vm, spec.boot_volume)
        return disk | {"boot_volume_id": spec.boot_volume.id}
    if spec.image.cloud_id == str(spec.image.id):
        return disk  # an image of the catalogue, which the cloud keeps elsewhere
    is_saved = and_(images.c.due_at <= func.clock_timestamp(), images.c.fault.is_(None)).label("is_saved")
    is_it = is_meant(images.c.id, images.c.cloud_id, spec.image)
    saved = (await tx.execute(select(images, is_saved).where(is_it))).one_or_none()
    if saved is None:
        code = "invalid_image" if spec.image.cloud_id else "image_not_found"
        raise BackendError(code, "The cloud does not have the snapshot's image.", retryable=False)
    if not saved.is_saved:
        raise BackendError("invalid_image", "The snapshot's image is not saved.", retryable=False)
    return {"image_id": saved.cloud_id, "content": saved.content}


def check_user_data(user_data: bytes | None) -> None:
    """Raise what Nova's 400 means if the user data is too large."""
    if len(user_data or b"") > LARGEST:
        raise BackendError("bad_request", "The cloud refused the user data: it is too long.", retryable=False)


async def _attach_root(tx: AsyncConnection, vm: Ref, volume: Ref) -> None:
    row = await _lock_available(tx, volume)
    if row.image_id is None:
        raise BackendError("bad_request", "The volume is not bootable.", retryable=False)
    await _attach(tx, row, vm, ROOT_DEVICE)


async def _lock_available(tx: AsyncConnection, volume: Ref) -> Row[Any]:
    is_it = is_meant(volumes.c.id, volumes.c.cloud_id, volume)
    row = (await tx.execute(select(volumes).where(is_it).with_for_update())).one_or_none()
    if row is None:
        raise BackendError("bad_request", "The cloud does not have the volume.", retryable=False)
    if row.state != VolumeState.AVAILABLE:
        message = f"The cloud refused the call, because the volume is {row.state}."
        raise BackendError("conflict", message, retryable=False)
    return row


async def _attach(tx: AsyncConnection, volume: Row[Any], vm: Ref, device: str) -> None:
    attached = {"state": VolumeState.IN_USE, "vm_id": vm.id, "device": device}
    await tx.execute(update(volumes).where(volumes.c.id == volume.id).values(attached))


async def free_device(tx: AsyncConnection, vm_id: UUID) -> str:
    """Return the first free device of the VM; as a real cloud does, in words of its own."""
    taken = (await tx.scalars(select(volumes.c.device).where(volumes.c.vm_id == vm_id))).all()
    return next(device for letter in ascii_lowercase[1:] if (device := f"/dev/sd{letter}") not in taken)
