"""Volumes: create, delete, attach to a VM, detach."""

from dataclasses import asdict, dataclass
from string import ascii_lowercase
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import (
    Accepted,
    Requester,
    accept,
    accept_without_vm,
    check_allowed,
    check_may,
    lock_changeable_vm,
    requested,
)
from domain.commands.claimed_rows import about, insert_claimed, lock_row
from domain.data.models import VM, Attachment, Image, Volume
from domain.data.parameters import AttachVolume, Control, CreateVolume, DeleteVolume, DetachVolume, ExtendVolume
from domain.data.queries import fetch_one, lock_vm
from domain.data.views import VOLUMES
from domain.progress import resource_claims
from domain.rules.access import Verb
from domain.rules.disks import AttachedError, RootVolumeError, VolumeTooSmallError
from domain.rules.errors import (
    InvalidTransitionError,
    NoFreeDeviceError,
    NotFoundError,
    UnknownReferenceError,
    unknown_id,
)
from domain.rules.resources import MOST_VOLUMES_OF_CLOUD, AttachmentStatus, Kind, VolumeStatus
from domain.rules.states import Action

ROOT_DEVICE: Final = "/dev/vda"  # the VM's own disk, or the volume that it boots from
DEVICES: Final = tuple(f"/dev/vd{letter}" for letter in ascii_lowercase[1:])


@dataclass(frozen=True, slots=True)
class NewVolume:
    """The volume to create, of `size_gb` GiB: empty, or a copy of an image. By default it is the requester's own."""

    name: str
    size_gb: int
    image_id: UUID | None
    labels: dict[str, str]
    project_id: UUID | None = None


async def create_volume(tx: AsyncConnection, requester: Requester, wanted: NewVolume) -> Accepted[Volume]:
    """Create a volume.

    UnknownReferenceError if there is no such image, VolumeTooSmallError if the volume cannot hold it.
    """
    if wanted.image_id is not None:
        await _check_image_fits(tx, wanted.image_id, wanted.size_gb)
    project_id = wanted.project_id or requester.user_id
    await check_may(tx, requester, Verb.CHANGE, project_id, "project", project_id, "project_id")
    parameters = CreateVolume(wanted.name, wanted.size_gb, wanted.image_id)
    new = requested(requester, Action.CREATE_VOLUME, parameters, **about(Kind.VOLUME, uuid4()))
    await accept_without_vm(tx, project_id, new)
    values = asdict(wanted) | {"id": new.resource_id, "owner_id": project_id}
    del values["project_id"]
    return Accepted(await insert_claimed(tx, Volume, new, **values), new.id)


async def delete_volume(tx: AsyncConnection, requester: Requester, volume_id: UUID) -> Accepted[Volume]:
    """Delete a volume that is not attached; if it is DELETING or DELETED already, return that operation."""
    volume = await _lock_changeable(tx, requester, volume_id)
    if volume.status in {VolumeStatus.DELETING, VolumeStatus.DELETED}:
        return Accepted(volume, volume.operation_id, is_new=False)
    parameters, control = DeleteVolume(volume.name), Control(was=volume.status)
    new = requested(requester, Action.DELETE_VOLUME, parameters, control=control, **about(Kind.VOLUME, volume.id))
    await accept_without_vm(tx, volume.owner_id, new)
    await resource_claims.claim(tx, Volume, volume, new.action, new.id)
    if await tx.scalar(select(Attachment.vm_id).where(Attachment.volume_id == volume.id)) is not None:
        raise AttachedError("delete", volume.status, None, [], resource=Kind.VOLUME)
    return Accepted(volume, new.id)


async def extend_volume(tx: AsyncConnection, requester: Requester, volume_id: UUID, size_gb: int) -> Accepted[Row[Any]]:
    """Make a volume larger, attached or not, and return it with its attachment.

    VolumeTooSmallError unless `size_gb` is more than it has.
    """
    vm_id, volume = await _lock_with_vm(tx, requester, volume_id)
    parameters, control = ExtendVolume(volume.name, size_gb, volume.size_gb), Control(was=volume.status)
    new = requested(requester, Action.EXTEND_VOLUME, parameters, control=control, **about(Kind.VOLUME, volume.id))
    # A delete of the VM supersedes the operation, which therefore names the VM.
    await accept_without_vm(tx, volume.owner_id, new, vm_id)
    await resource_claims.claim(tx, Volume, volume, new.action, new.id)
    if size_gb <= volume.size_gb:  # last, because a refusal by the status comes first
        raise VolumeTooSmallError(f"The volume has {volume.size_gb} GiB already. It can only become larger.")
    await tx.execute(update(Volume).where(Volume.id == volume.id).values(reserved_gb=size_gb))
    return Accepted((await tx.execute(VOLUMES.where(Volume.id == volume.id))).one(), new.id)


async def attach_volume(  # noqa: PLR0913 - what an attach consists of
    tx: AsyncConnection,
    requester: Requester,
    vm_id: UUID,
    volume_id: UUID,
    *,
    delete_on_termination: bool,
    chooses_device: bool,
) -> Accepted[Attachment]:
    """Attach an available volume to a VM of the same project.

    It becomes the VM's first free device, unless the cloud chooses the device (`chooses_device` is false).
    """
    vm = await lock_changeable_vm(tx, requester, vm_id)
    of_project = select(Volume).where(Volume.id == volume_id, Volume.owner_id == vm.owner_id)
    volume = await fetch_one(tx, of_project.with_for_update())
    if volume is None:
        raise NotFoundError(Kind.VOLUME, volume_id, field="volume_id")
    await check_allowed(
        tx, vm, Action.ATTACH_VOLUME
    )  # a refusal by the VM's state comes before the lack of a free device
    device = await _free_device(tx, vm, chooses_device=chooses_device)
    parameters = AttachVolume(volume.name, device, delete_on_termination)
    new = requested(requester, Action.ATTACH_VOLUME, parameters, **about(Kind.VOLUME, volume.id))
    await accept(tx, vm, new)
    await resource_claims.claim(tx, Volume, volume, new.action, new.id)
    values = {"vm_id": vm.id, "device": device, "delete_on_termination": delete_on_termination}
    return Accepted(await insert_claimed(tx, Attachment, new, volume_id=volume.id, **values), new.id)


async def detach_volume(
    tx: AsyncConnection, requester: Requester, vm_id: UUID, volume_id: UUID
) -> Accepted[Attachment]:
    """Detach a volume from the requester's VM; if it is DETACHING already, return that operation."""
    vm = await lock_changeable_vm(tx, requester, vm_id)
    of_project = select(Volume).where(Volume.id == volume_id, Volume.owner_id == vm.owner_id)
    volume = await fetch_one(tx, of_project.with_for_update())
    if (
        volume is None
    ):  # the words of an attachment that is missing: they must not tell that the volume exists elsewhere
        raise NotFoundError(Kind.ATTACHMENT, volume_id)
    in_vm = select(Attachment).where(Attachment.volume_id == volume_id, Attachment.vm_id == vm.id)
    attachment = await lock_row(tx, Attachment, in_vm, volume_id)
    if attachment.status is AttachmentStatus.DETACHING:
        return Accepted(attachment, attachment.operation_id, is_new=False)
    if vm.boot_volume_id == volume.id:
        raise RootVolumeError
    parameters = DetachVolume(volume.name, attachment.device)
    new = requested(requester, Action.DETACH_VOLUME, parameters, **about(Kind.VOLUME, volume.id))
    await accept(tx, vm, new)
    await resource_claims.claim(tx, Volume, volume, new.action, new.id)
    await resource_claims.claim(tx, Attachment, attachment, new.action, new.id)
    return Accepted(attachment, new.id)


async def _check_image_fits(tx: AsyncConnection, id: UUID, size_gb: int) -> None:
    image = await fetch_one(tx, select(Image).where(Image.id == id, Image.is_available))
    if image is None:
        raise UnknownReferenceError("There is no such image.", [unknown_id("image_id", id)])
    if size_gb < image.size_gb:
        raise VolumeTooSmallError(f"Image {image.name} needs {image.size_gb} GiB.")


async def _lock_with_vm(tx: AsyncConnection, requester: Requester, volume_id: UUID) -> tuple[UUID | None, Volume]:
    """Lock the volume, and before it the VM that has it, if one has; return the VM's id and the volume."""
    of_volume = select(Attachment.vm_id).where(Attachment.volume_id == volume_id)
    vm_id = await tx.scalar(of_volume)
    if vm_id is not None:
        await lock_vm(tx, vm_id)
    volume = await _lock_changeable(tx, requester, volume_id)
    if await tx.scalar(of_volume) != vm_id:
        # It was attached or detached in this moment. Its new VM can no longer be locked: the VM comes first.
        raise InvalidTransitionError(Action.EXTEND_VOLUME.word, volume.status, None, [], resource=Kind.VOLUME)
    return vm_id, volume


async def _lock_changeable(tx: AsyncConnection, requester: Requester, id: UUID) -> Volume:
    volume = await lock_row(tx, Volume, select(Volume).where(Volume.id == id), id)
    await check_may(tx, requester, Verb.CHANGE, volume.owner_id, "volume", id)
    return volume


async def _free_device(tx: AsyncConnection, vm: VM, *, chooses_device: bool) -> str | None:
    # The VM is locked, so no other attach can choose the same device meanwhile.
    taken = (await tx.scalars(select(Attachment.device).where(Attachment.vm_id == vm.id))).all()
    if not chooses_device:
        if len(taken) >= MOST_VOLUMES_OF_CLOUD:
            raise NoFreeDeviceError(MOST_VOLUMES_OF_CLOUD, "volumes")
        return None
    free = [device for device in DEVICES if device not in taken]
    if not free:
        raise NoFreeDeviceError(len(DEVICES), "volumes")
    return free[0]
