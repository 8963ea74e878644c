"""Volumes: create, delete, attach to a VM, detach."""

from string import ascii_lowercase
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import (
    Accepted,
    Requester,
    accept,
    accept_without_vm,
    check_allowed,
    lock_owned_vm,
    requested,
)
from domain.commands.claimed_rows import about, insert_claimed, lock_row
from domain.data.models import VM, Attachment, Volume
from domain.data.parameters import AttachVolume, Control, CreateVolume, DeleteVolume, DetachVolume
from domain.data.queries import fetch_one
from domain.progress import resource_claims
from domain.rules.errors import NoFreeDeviceError, NotFoundError
from domain.rules.resources import AttachmentStatus, Kind, VolumeStatus
from domain.rules.states import Action

DEVICES: Final = tuple(f"/dev/vd{letter}" for letter in ascii_lowercase[1:])  # /dev/vda is the VM's own disk


async def create_volume(tx: AsyncConnection, requester: Requester, name: str, size_gb: int) -> Accepted[Volume]:
    """Create a volume of `size_gb` GiB."""
    new = requested(requester, Action.CREATE_VOLUME, CreateVolume(name, size_gb), **about(Kind.VOLUME, uuid4()))
    await accept_without_vm(tx, requester.user_id, new)
    values = {"id": new.resource_id, "owner_id": requester.user_id, "name": name, "size_gb": size_gb}
    return Accepted(await insert_claimed(tx, Volume, new, **values), new.id)


async def delete_volume(tx: AsyncConnection, requester: Requester, volume_id: UUID) -> Accepted[Volume]:
    """Delete a volume that is not attached; if it is DELETING or DELETED already, return that operation."""
    volume = await lock_row(tx, Volume, _volume(requester, volume_id), volume_id)
    if volume.status in {VolumeStatus.DELETING, VolumeStatus.DELETED}:
        return Accepted(volume, volume.operation_id, is_new=False)
    parameters, control = DeleteVolume(volume.name), Control(was=volume.status)
    new = requested(requester, Action.DELETE_VOLUME, parameters, control=control, **about(Kind.VOLUME, volume.id))
    await accept_without_vm(tx, requester.user_id, new)
    await resource_claims.claim(tx, Volume, volume, new.action, new.id)
    return Accepted(volume, new.id)


async def attach_volume(  # noqa: PLR0913 - what an attach consists of
    tx: AsyncConnection,
    requester: Requester,
    vm_id: UUID,
    volume_id: UUID,
    *,
    delete_on_termination: bool,
    chooses_device: bool,
) -> Accepted[Attachment]:
    """Attach an available volume of the requester to their VM.

    It becomes the VM's first free device, unless the cloud chooses the device (`chooses_device` is false).
    """
    vm = await lock_owned_vm(tx, requester, vm_id)
    volume = await fetch_one(tx, _volume(requester, volume_id).with_for_update())
    if volume is None:
        raise NotFoundError(Kind.VOLUME, volume_id, field="volume_id")
    check_allowed(vm, Action.ATTACH_VOLUME)  # a refusal by the VM's state comes before the lack of a free device
    device = await _free_device(tx, vm) if chooses_device else None
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
    vm = await lock_owned_vm(tx, requester, vm_id)
    volume = await lock_row(tx, Volume, _volume(requester, volume_id), volume_id)
    in_vm = select(Attachment).where(Attachment.volume_id == volume_id, Attachment.vm_id == vm.id)
    attachment = await lock_row(tx, Attachment, in_vm, volume_id)
    if attachment.status is AttachmentStatus.DETACHING:
        return Accepted(attachment, attachment.operation_id, is_new=False)
    parameters = DetachVolume(volume.name, attachment.device)
    new = requested(requester, Action.DETACH_VOLUME, parameters, **about(Kind.VOLUME, volume.id))
    await accept(tx, vm, new)
    await resource_claims.claim(tx, Volume, volume, new.action, new.id)
    await resource_claims.claim(tx, Attachment, attachment, new.action, new.id)
    return Accepted(attachment, new.id)


def _volume(requester: Requester, id: UUID) -> Select[Volume]:
    return select(Volume).where(Volume.id == id, Volume.owner_id == requester.user_id)


async def _free_device(tx: AsyncConnection, vm: VM) -> str:
    # The VM is locked, so no other attach can choose the same device meanwhile.
    taken = (await tx.scalars(select(Attachment.device).where(Attachment.vm_id == vm.id))).all()
    free = [device for device in DEVICES if device not in taken]
    if not free:
        raise NoFreeDeviceError(len(DEVICES))
    return free[0]
