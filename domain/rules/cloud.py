"""The statuses of servers, volumes, images and ports in the cloud, in the words of Nova, Cinder, Glance and Neutron.

This is also the only place that converts between the status of a VM and the status of its server.
"""

from enum import StrEnum

from domain.rules.states import Status


class ServerStatus(StrEnum):
    """The status of a server, in Nova's words.

    GONE means that the cloud has no such server, and UNKNOWN that the cloud itself cannot tell. This service pauses,
    suspends, rescues and shelves no server, but others may do so.
    """

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
    PAUSED = "PAUSED"
    SUSPENDED = "SUSPENDED"
    RESCUE = "RESCUE"
    SHELVED = "SHELVED"
    SHELVED_OFFLOADED = "SHELVED_OFFLOADED"
    UNKNOWN = "UNKNOWN"


class VolumeState(StrEnum):
    """The state of a volume, in Cinder's words. GONE means that the cloud has no such volume."""

    CREATING = "creating"
    AVAILABLE = "available"
    ATTACHING = "attaching"
    IN_USE = "in-use"
    DETACHING = "detaching"
    EXTENDING = "extending"
    DELETING = "deleting"
    ERROR = "error"
    GONE = "gone"


class ImageState(StrEnum):
    """The state of a snapshot's image, in Glance's words. GONE means that the cloud has no such image."""

    QUEUED = "queued"
    SAVING = "saving"
    ACTIVE = "active"
    ERROR = "error"
    GONE = "gone"


class PortState(StrEnum):
    """The state of an interface's port, in Neutron's word. GONE means that the cloud has no such port."""

    ACTIVE = "ACTIVE"
    GONE = "GONE"


_SERVER_OF_IDLE_VM = {
    Status.ACTIVE: ServerStatus.ACTIVE,
    Status.SHUTOFF: ServerStatus.SHUTOFF,
    Status.VERIFY_RESIZE: ServerStatus.VERIFY_RESIZE,
    Status.ERROR: ServerStatus.ERROR,
    Status.DELETED: ServerStatus.GONE,
}


def server_status_of(status: Status) -> ServerStatus:
    """Return the status that the server of an idle VM should have. VMs in other statuses are never idle."""
    return _SERVER_OF_IDLE_VM[status]


def vm_status_of(server: ServerStatus) -> Status:
    """Return the status of an idle VM whose server is found in this status.

    Every status but ACTIVE and SHUTOFF becomes ERROR, even VERIFY_RESIZE. A VM is in VERIFY_RESIZE only after a resize
    by this service, because only that can be confirmed or reverted.
    """
    match server:
        case ServerStatus.ACTIVE:
            return Status.ACTIVE
        case ServerStatus.SHUTOFF:
            return Status.SHUTOFF
        case _:
            return Status.ERROR
