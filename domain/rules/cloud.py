"""What a cloud says of servers, volumes, images and ports, in the words of Nova, Cinder, Glance and Neutron."""

from enum import StrEnum


class ServerStatus(StrEnum):
    """What a backend says of a server, in Nova's words; GONE is a server it does not have."""

    BUILD = "BUILD"
    ACTIVE = "ACTIVE"
    SHUTOFF = "SHUTOFF"
    REBOOT = "REBOOT"
    RESIZE = "RESIZE"
    VERIFY_RESIZE = "VERIFY_RESIZE"
    REVERT_RESIZE = "REVERT_RESIZE"
    REBUILD = "REBUILD"
    ERROR = "ERROR"
    DELETING = "DELETING"
    GONE = "GONE"


class VolumeState(StrEnum):
    """What a backend says of a volume, in Cinder's words; GONE is a volume it does not have."""

    CREATING = "creating"
    AVAILABLE = "available"
    ATTACHING = "attaching"
    IN_USE = "in-use"
    DETACHING = "detaching"
    DELETING = "deleting"
    ERROR = "error"
    GONE = "gone"


class ImageState(StrEnum):
    """What a backend says of an image that a snapshot is kept in, in Glance's words; GONE is one it does not have."""

    QUEUED = "queued"
    SAVING = "saving"
    ACTIVE = "active"
    ERROR = "error"
    GONE = "gone"


class PortState(StrEnum):
    """Whether a backend has an interface's port, in Neutron's word for it."""

    ACTIVE = "ACTIVE"
    GONE = "GONE"
