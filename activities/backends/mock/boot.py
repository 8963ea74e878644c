"""What the mock cloud's servers boot from: an image of the catalogue, the image of a snapshot, or a volume."""

from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock.calls import is_meant
from activities.backends.mock.schema import images, volumes
from activities.backends.protocol import BackendError
from activities.backends.resources import Ref, ServerSpec
from domain.rules.cloud import VolumeState

ROOT_DEVICE: Final = "/dev/vda"


async def disk_of(tx: AsyncConnection, spec: ServerSpec) -> dict[str, Any]:
    """Return the columns of a new server that are about its disk; BackendError if it cannot boot from that."""
    disk = {"image_id": UUID(spec.image.cloud_id) if spec.image.cloud_id else spec.image.id, "content": str(uuid4())}
    if spec.boot_volume is not None:
        await _attach_root(tx, spec.vm, spec.boot_volume)
        return disk | {"boot_volume_id": spec.boot_volume.id}
    if spec.image.cloud_id == str(spec.image.id):
        return disk  # an image of the catalogue, which the cloud keeps elsewhere
    saved = (await tx.execute(select(images).where(is_meant(images.c.id, images.c.cloud_id, spec.image)))).one_or_none()
    if saved is None:
        raise BackendError("invalid_image", "The cloud does not have the snapshot's image.", retryable=False)
    return {"image_id": saved.cloud_id, "content": saved.content}


async def _attach_root(tx: AsyncConnection, vm: Ref, volume: Ref) -> None:
    is_it = is_meant(volumes.c.id, volumes.c.cloud_id, volume)
    row = (await tx.execute(select(volumes).where(is_it).with_for_update())).one_or_none()
    if row is None:
        raise BackendError("bad_request", "The cloud does not have the volume to boot from.", retryable=False)
    if row.state != VolumeState.AVAILABLE:
        message = f"The cloud refused the call, because the volume is {row.state}."
        raise BackendError("conflict", message, retryable=False)
    if row.image_id is None:
        raise BackendError("bad_request", "The volume is not bootable.", retryable=False)
    attached = {"state": VolumeState.IN_USE, "vm_id": vm.id, "device": ROOT_DEVICE}
    await tx.execute(update(volumes).where(volumes.c.id == row.id).values(attached))
