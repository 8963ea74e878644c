"""The resources beside VMs: snapshots, volumes, attachments of volumes, interfaces. Their statuses and changes.

The lifecycle table lists, for each action, the changes it makes to them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MOST_INTERFACES: Final = 64
"""The most interfaces that a VM gets by requests, so that a delete has few operations to end and few rows to remove."""
MOST_VOLUMES_OF_CLOUD: Final = 64
"""The most volumes that a VM gets by requests where the cloud chooses their devices, for the same reason."""


class Kind(StrEnum):
    """A kind of resource, as in an operation's `resource_type`."""

    VM = "vm"
    SNAPSHOT = "snapshot"
    VOLUME = "volume"
    ATTACHMENT = "attachment"  # of a volume to a VM; the `resource_type` of its operations is VOLUME
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
    EXTENDING = "EXTENDING"
    DELETING = "DELETING"
    DELETED = "DELETED"
    ERROR = "ERROR"


class AttachmentStatus(StrEnum):
    """The state of an attachment or an interface. The end of a detach deletes its row."""

    ATTACHING = "ATTACHING"
    ATTACHED = "ATTACHED"
    DETACHING = "DETACHING"


ResourceStatus = SnapshotStatus | VolumeStatus | AttachmentStatus


class Before(StrEnum):
    """The status of the resource before the action."""

    BEFORE = "as before"


BEFORE = Before.BEFORE


@dataclass(frozen=True, slots=True)
class Change:
    """What an action does to a resource of one kind.

    No `sources` means that the action creates it. A `target` or `on_failure` of None means that its row is deleted.
    BEFORE is the status in which the action found it; the operation keeps that (`Control.was`).
    `if_still_there` is its status after a failure with Residue.STILL_THERE, if that differs from `on_failure`.
    """

    kind: Kind
    sources: tuple[ResourceStatus, ...]
    during: ResourceStatus
    target: ResourceStatus | Before | None
    on_failure: ResourceStatus | Before | None
    if_still_there: ResourceStatus | Before | None = None
