"""What a new VM is made of beside the catalogue: the snapshot that it boots from, and the volumes that it gets.

They are looked up for all new VMs of a request at once. Volumes are locked, because the create claims them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.new_vm import NewVM, WantedVolume
from domain.commands.offers import OfferedImage
from domain.data.bulk import insert_all, to_parameter
from domain.data.models import VM, Attachment, Image, Operation, Snapshot, Volume
from domain.data.queries import fetch_all
from domain.progress import resource_claims
from domain.rules import disks
from domain.rules.disks import NotBootableError
from domain.rules.errors import FieldIssue, InvalidTransitionError, UnusableSourceError, unknown_id
from domain.rules.lifecycle import accept_change, allowed_changes, change_of
from domain.rules.references import check_once
from domain.rules.resources import Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus


@dataclass(frozen=True, slots=True)
class BootSource:
    """What a new VM boots from. `image_id` is the image of the catalogue from which that was made.

    The flavor's disk must hold `content`, of `size_gb` GiB. A VM that boots from a volume does not use that disk.
    """

    image_id: UUID
    content: str = ""
    size_gb: int = 0


@dataclass(frozen=True, slots=True)
class Sources:
    """The snapshots and volumes that a request names, by id."""

    snapshots: Mapping[UUID, Snapshot]
    volumes: Mapping[UUID, Volume]

    def unknown(self, new: NewVM, project_id: UUID) -> list[FieldIssue]:
        """The fields of the new VM that name something that does not exist in the project of the VM."""

        def is_there(found: Snapshot | Volume | None) -> bool:
            return found is not None and found.owner_id == project_id

        volumes = [each for each in new.all_volumes if not is_there(self.volumes.get(each.volume_id))]
        issues = [unknown_id(each.field, each.volume_id) for each in volumes]
        if new.snapshot_id and not is_there(self.snapshots.get(new.snapshot_id)):
            issues.append(unknown_id(f"{new.at}snapshot_id", new.snapshot_id))
        return issues

    def boot_source(self, new: NewVM, image: OfferedImage | None) -> BootSource:
        """What the new VM boots from. `image` is None if that is no image of the catalogue.

        InvalidTransitionError unless the snapshot and all volumes are AVAILABLE, NotBootableError if no VM can boot
        from the volume.
        """
        for wanted in new.volumes:
            _check_attachable(self.volumes[wanted.volume_id], wanted)
        if new.snapshot_id:
            snapshot = self.snapshots[new.snapshot_id]
            if snapshot.status is not SnapshotStatus.AVAILABLE:
                allowed = allowed_changes(Kind.SNAPSHOT, snapshot.status)
                raise UnusableSourceError(Kind.SNAPSHOT, snapshot.status, allowed, f"{new.at}snapshot_id")
            return BootSource(snapshot.image_id, f"snapshot {snapshot.name}", snapshot.size_gb)
        if new.boot_volume:
            volume = self.volumes[new.boot_volume.volume_id]
            if volume.status is not VolumeStatus.AVAILABLE:
                allowed = allowed_changes(Kind.VOLUME, volume.status)
                raise UnusableSourceError(Kind.VOLUME, volume.status, allowed, new.boot_volume.field)
            if volume.image_id is None:
                raise NotBootableError(volume.name, new.boot_volume.field)
            return BootSource(volume.image_id)
        assert image is not None  # noqa: S101 - a VM boots from one of the three
        return BootSource(image.id, f"image {image.name}", image.size_gb)


def _check_attachable(volume: Volume, wanted: WantedVolume) -> None:
    try:
        accept_change(Action.ATTACH_VOLUME, Kind.VOLUME, volume.status)
    except InvalidTransitionError as refusal:
        refusal.fields = [FieldIssue(wanted.field, refusal.code, str(refusal))]
        raise


async def find_sources(tx: AsyncConnection, project_ids: Collection[UUID], wanted: Sequence[NewVM]) -> Sources:
    """The snapshots and volumes of the projects that the new VMs name; the volumes are locked.

    RepeatedItemsError if a volume is named twice.
    """
    snapshots: Sequence[Snapshot] = []
    volumes: Sequence[Volume] = []
    snapshot_ids = [new.snapshot_id for new in wanted if new.snapshot_id]
    if snapshot_ids:
        named = select(Snapshot).where(Snapshot.owner_id == _any(project_ids), Snapshot.id == _any(snapshot_ids))
        snapshots = await fetch_all(tx, named)
    taken = [(each.volume_id, each.field) for new in wanted for each in new.all_volumes]
    if taken:
        check_once(taken, "volume")
        ids = [id for id, _ in taken]
        named_ones = select(Volume).where(Volume.owner_id == _any(project_ids), Volume.id == _any(ids))
        # Sorted, so that two requests for the same volumes do not wait for each other.
        volumes = await fetch_all(tx, named_ones.order_by(Volume.id).with_for_update())
    return Sources({each.id: each for each in snapshots}, {each.id: each for each in volumes})


async def claim_volumes(tx: AsyncConnection, created: Sequence[tuple[VM, NewVM]]) -> None:
    """Let the create of each VM claim the VM's volumes, and attach them."""
    wanted = [(vm, volume) for vm, new in created for volume in new.all_volumes]
    if not wanted:
        return
    claims = [(volume.volume_id, vm.operation_id) for vm, volume in wanted]
    await resource_claims.claim_volumes(tx, Action.CREATE, claims)
    rows = [
        {
            "volume_id": volume.volume_id,
            "vm_id": vm.id,
            "device": volume.device,
            "status": change_of(Action.CREATE, Kind.ATTACHMENT).during,
            "delete_on_termination": volume.delete_on_termination,
            "operation_id": vm.operation_id,
        }
        for vm, volume in wanted
    ]
    await tx.execute(_ATTACH, {"attachments": to_parameter(rows)})


async def check_fits(tx: AsyncConnection, vm: VM, flavor: str, disk_gb: int, field: str) -> None:
    """Raise FlavorTooSmallError if the disk of a new flavor cannot hold what the VM was built from or restored to."""
    if vm.boot_volume_id is not None:
        return
    image = (await tx.execute(select(Image.name, Image.size_gb).where(Image.id == vm.image_id))).one()
    disks.check_fits(flavor, disk_gb, f"image {image.name}", image.size_gb, field)
    is_restored = (
        Operation.vm_id == vm.id,
        Operation.action == Action.RESTORE,
        Operation.status == OperationStatus.SUCCEEDED,
    )
    restored_to = select(Operation.resource_id).where(*is_restored).order_by(Operation.created_at.desc()).limit(1)
    held = or_(Snapshot.id == vm.snapshot_id, Snapshot.id == restored_to.scalar_subquery())
    # Nobody needs the row of a deleted snapshot any more, so it may be gone.
    for name, size_gb in await tx.execute(select(Snapshot.name, Snapshot.size_gb).where(held)):
        disks.check_fits(flavor, disk_gb, f"snapshot {name}", size_gb, field)


_ATTACH = insert_all(
    Attachment,
    "attachments",
    ("volume_id", "vm_id", "device", "status", "delete_on_termination", "operation_id"),
)


def _any(ids: Collection[UUID]) -> Any:
    return any_(literal(list(ids), ARRAY(Uuid)))
