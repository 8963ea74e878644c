"""What a VM has beside itself: snapshots, volumes, attachments of volumes, interfaces; their statuses and changes.

The lifecycle table says, for each action, which of these changes it makes. Pure, as the table.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What an operation can be about, as its `resource_type` says it."""

    VM = "vm"
    SNAPSHOT = "snapshot"
    VOLUME = "volume"
    ATTACHMENT = "attachment"  # of a volume to a VM; operations on it are about the volume
    INTERFACE = "interface"


class SnapshotStatus(StrEnum):
    """The state of a snapshot, as clients see it."""

    CREATING = "CREATING"
    AVAILABLE = "AVAILABLE"
    RESTORING = "RESTORING"
    DELETING = "DELETING"
    DELETED = "DELETED"
    ERROR = "ERROR"


class VolumeStatus(StrEnum):
    """The state of a volume, as clients see it."""

    CREATING = "CREATING"
    AVAILABLE = "AVAILABLE"
    ATTACHING = "ATTACHING"
    IN_USE = "IN_USE"
    DETACHING = "DETACHING"
    DELETING = "DELETING"
    DELETED = "DELETED"
    ERROR = "ERROR"


class AttachmentStatus(StrEnum):
    """The state of what ties a volume or a network to a VM; what is not tied has no row."""

    ATTACHING = "ATTACHING"
    ATTACHED = "ATTACHED"
    DETACHING = "DETACHING"


ResourceStatus = SnapshotStatus | VolumeStatus | AttachmentStatus


@dataclass(frozen=True, slots=True)
class Change:
    """What an action does to a resource of one kind.

    Without `sources` the action makes it. `target` and `on_failure` are None where the resource's row is removed.
    After a failure that is seen to have left it `intact`, it is there.
    """

    kind: Kind
    sources: tuple[ResourceStatus, ...]
    during: ResourceStatus
    target: ResourceStatus | None
    on_failure: ResourceStatus | None
    intact: ResourceStatus | None = None
