"""What a VM boots from: an image of the catalogue, the disk of a snapshot, or a volume."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Requester
from domain.data.models import VM, Attachment, Image, Snapshot, Volume
from domain.data.queries import fetch_one, insert_row
from domain.progress import resource_claims
from domain.rules import disks
from domain.rules.disks import NotBootableError
from domain.rules.errors import UnknownReferenceError, UnusableSourceError, unknown_id
from domain.rules.lifecycle import allowed_changes, change_of
from domain.rules.resources import Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action


@dataclass(frozen=True, slots=True)
class BootVolume:
    """The volume from which a new VM should boot; `device` is None if the cloud chooses it."""

    volume_id: UUID
    delete_on_termination: bool
    device: str | None


@dataclass(frozen=True, slots=True)
class BootSource:
    """What a new VM boots from. `image_id` is the image of the catalogue from which that was made.

    The flavor's disk must hold `content`, of `size_gb` GiB. A VM that boots from a `volume` does not use that disk.
    """

    image_id: UUID
    content: str = ""
    size_gb: int = 0
    volume: Volume | None = None


def of_image(image: Any) -> BootSource:
    """An image of the catalogue, by its id, name and size."""
    id, name, size_gb = image
    return BootSource(UUID(id), f"image {name}", size_gb)


async def of_snapshot(tx: AsyncConnection, requester: Requester, id: UUID) -> BootSource:
    """The disk of the requester's snapshot; UnusableSourceError unless it is AVAILABLE."""
    snapshot = await fetch_one(tx, select(Snapshot).where(Snapshot.id == id, Snapshot.owner_id == requester.user_id))
    if snapshot is None:
        raise UnknownReferenceError("There is no such snapshot.", [unknown_id("snapshot_id", id)])
    if snapshot.status is not SnapshotStatus.AVAILABLE:
        allowed = allowed_changes(Kind.SNAPSHOT, snapshot.status)
        raise UnusableSourceError(Kind.SNAPSHOT, snapshot.status, allowed)
    return BootSource(snapshot.image_id, f"snapshot {snapshot.name}", snapshot.size_gb)


async def of_volume(tx: AsyncConnection, requester: Requester, id: UUID) -> BootSource:
    """The requester's volume, locked; UnusableSourceError unless it is AVAILABLE, NotBootableError without an image."""
    mine = select(Volume).where(Volume.id == id, Volume.owner_id == requester.user_id)
    volume = await fetch_one(tx, mine.with_for_update())
    if volume is None:
        raise UnknownReferenceError("There is no such volume.", [unknown_id("boot_volume/volume_id", id)])
    if volume.status is not VolumeStatus.AVAILABLE:
        raise UnusableSourceError(Kind.VOLUME, volume.status, allowed_changes(Kind.VOLUME, volume.status))
    if volume.image_id is None:
        raise NotBootableError(volume.name)
    return BootSource(volume.image_id, volume=volume)


async def claim_volume(tx: AsyncConnection, vm: VM, volume: Volume, wanted: BootVolume) -> None:
    """Let the create of the VM claim the volume, and attach it as the VM's disk."""
    await resource_claims.claim(tx, Volume, volume, Action.CREATE, vm.operation_id)
    values = {"vm_id": vm.id, "device": wanted.device, "delete_on_termination": wanted.delete_on_termination}
    status = change_of(Action.CREATE, Kind.ATTACHMENT).during
    row = {"volume_id": volume.id, "status": status, "operation_id": vm.operation_id}
    await insert_row(tx, Attachment, **row, **values)


async def check_fits(tx: AsyncConnection, vm: VM, flavor: str, disk_gb: int) -> None:
    """Raise FlavorTooSmallError if the disk of a new flavor cannot hold what the VM was built from."""
    if vm.boot_volume_id is not None:
        return
    image = (await tx.execute(select(Image.name, Image.size_gb).where(Image.id == vm.image_id))).one()
    disks.check_fits(flavor, disk_gb, f"image {image.name}", image.size_gb, "flavor_id")
    if vm.snapshot_id is not None:
        built_from = select(Snapshot.name, Snapshot.size_gb).where(Snapshot.id == vm.snapshot_id)
        # Nobody needs the row of a deleted snapshot any more, so it may be gone.
        for name, size_gb in await tx.execute(built_from):
            disks.check_fits(flavor, disk_gb, f"snapshot {name}", size_gb, "flavor_id")
