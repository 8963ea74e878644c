"""The bodies of answers about volumes and snapshots."""

from datetime import datetime
from uuid import UUID

from pydantic import Field, computed_field

from api.web.models import Answer, Page
from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus


class Snapshot(Answer):
    """The disk of a VM at one moment; `size_gb` in GiB. A restore also brings `flavor_id` and `image_id` back."""

    id: UUID
    project_id: UUID = Field(validation_alias="owner_id")
    vm_id: UUID
    name: str
    status: SnapshotStatus
    size_gb: int
    labels: dict[str, str]
    flavor_id: UUID
    image_id: UUID
    operation_id: UUID
    created_at: datetime
    updated_at: datetime


class Volume(Answer):
    """A block device that outlives VMs; `size_gb` in GiB. `vm_id` and `device` are set while it is attached.

    `image_id` is the image from which it was created, if any; then it is `bootable`.
    """

    id: UUID
    project_id: UUID = Field(validation_alias="owner_id")
    name: str
    size_gb: int
    status: VolumeStatus
    labels: dict[str, str]
    vm_id: UUID | None = None
    device: str | None = None
    image_id: UUID | None
    operation_id: UUID
    created_at: datetime
    updated_at: datetime

    @computed_field(description="Whether VMs can boot from it.")
    def bootable(self) -> bool:
        """Whether it was created from an image."""
        return self.image_id is not None


class Attachment(Answer):
    """The attachment of a volume to a VM; `device` is null until the cloud has chosen it."""

    volume_id: UUID
    vm_id: UUID
    device: str | None = Field(examples=["/dev/vdb"])
    status: AttachmentStatus
    delete_on_termination: bool
    operation_id: UUID
    created_at: datetime


class SnapshotPage(Page[Snapshot]):
    """Snapshots."""


class VolumePage(Page[Volume]):
    """Volumes."""


class AttachmentPage(Page[Attachment]):
    """Attachments of volumes."""
