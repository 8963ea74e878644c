"""What the cloud shows, as plain data: servers, their actions, volumes, images, ports, and what servers are made of.

Ids are the cloud's own, as text: most are UUIDs, but not every service promises that. Those of networks and of images
to boot from become ids of ours, so they must be UUIDs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a flavor. A server carries a copy of it, without the flavor's id."""

    vcpus: int
    ram_mb: int
    disk_gb: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a server is in ERROR. It may be older than the last operation."""

    code: int
    message: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A server. `tags` and `metadata` are empty once it is DELETED, so only its id tells whose it was.

    `is_from_list`: the row is from a list, which leaves out the fault of a server that never reached a host.
    """

    id: str
    name: str
    status: str
    task_state: str | None
    vm_state: str
    size: Size
    created_at: datetime
    updated_at: datetime
    is_from_list: bool
    image_id: str | None = None
    fault: Fault | None = None
    is_locked: bool = False
    volume_ids: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict)
    zone: str | None = None

    @property
    def is_idle(self) -> bool:
        """Return whether the cloud is done with it. A build is never idle: it has no task between two of its steps."""
        return self.task_state is None and self.status != "BUILD"

    @property
    def is_deleted(self) -> bool:
        """Return whether the cloud only remembers it, or keeps it for a while in case that its owner wants it back."""
        return self.status in {"DELETED", "SOFT_DELETED"}


@dataclass(frozen=True, slots=True)
class DownServer:
    """A server in a cell that is down: the cloud knows that it exists, and not what it does."""

    id: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A thing that the cloud no longer has: its own service answered 404."""

    id: str


@dataclass(frozen=True, slots=True)
class ActionEvent:
    """A part of an action, on a host or in the conductor. `result` and `finished_at` are None until it ends."""

    name: str
    started_at: datetime
    finished_at: datetime | None
    result: str | None


@dataclass(frozen=True, slots=True)
class ActionEntry:
    """What the cloud recorded of one request that changed a server. The newest event is the first.

    The lists of entries have no events.
    """

    action: str
    request_id: str
    user_id: str
    started_at: datetime
    message: str | None
    events: tuple[ActionEvent, ...] = ()

    @property
    def has_failed(self) -> bool:
        """Return whether the action failed. The entry says no more than that.

        Nova writes the result of the event first, and the message a moment later.
        """
        return self.message is not None or (bool(self.events) and self.events[0].result == "Error")

    @property
    def has_ended(self) -> bool:
        """Return whether every part of the action that began has also ended, and at least one began.

        An event that a killed host left open does not count if the host began it again and ended that: Nova closes only
        one of the two.
        """
        ended = {event.name for event in self.events if event.finished_at}
        return bool(self.events) and all(event.name in ended for event in self.events)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A server to which a volume is attached; the cloud chose the device."""

    server_id: str
    device: str | None


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume."""

    id: str
    name: str
    status: str
    size_gb: int
    created_at: datetime
    updated_at: datetime
    attachments: tuple[Attachment, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def attachment_to(self, server_id: str) -> Attachment | None:
        """Return its attachment to the server, if it is attached to it."""
        return next((found for found in self.attachments if found.server_id == server_id), None)


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image. `server_id`: the server of which it is a snapshot, unless that was volume-backed: then Nova omits it.

    `base_image_id`: the image that this server was built from.
    `marks`: its properties that begin with `osvm_`. They alone do not make it ours: a snapshot inherits the properties
    of the image that its server was built from. `volume_snapshot_ids`: the snapshots of volumes that it consists of, if
    its server was volume-backed.
    """

    id: str
    name: str
    status: str
    size_bytes: int
    created_at: datetime
    updated_at: datetime
    server_id: str | None = None
    base_image_id: str | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    volume_snapshot_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PortRow:
    """A port. `device_id`: the server that it is plugged into, or None."""

    id: str
    name: str
    description: str
    status: str
    network_id: str
    mac_address: str
    device_id: str | None = None
    ip_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FlavorRow:
    """A flavor. Only operators see those that are disabled."""

    id: str
    name: str
    size: Size
    is_disabled: bool


@dataclass(frozen=True, slots=True)
class BootImageRow:
    """An image as something to boot from; `marks` are our properties.

    `needs_bytes` is the size of the disk that it holds, and `min_disk_gb` what its owner asks for.
    """

    id: UUID
    name: str
    status: str
    visibility: str
    project_id: str | None
    is_hidden: bool
    disk_format: str | None
    needs_bytes: int
    min_disk_gb: int
    created_at: datetime
    os_distro: str | None
    os_version: str | None
    server_id: str | None
    base_image_id: str | None
    marks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """A network. `is_shared`: all projects, or ours, may plug servers in. `is_external`: it leads out of the cloud."""

    id: UUID
    name: str
    project_id: str
    is_up: bool
    is_shared: bool
    is_external: bool
    created_at: str


@dataclass(frozen=True, slots=True)
class SubnetRow:
    """Addresses of a network. `services` are the kinds of ports that may have them; if it names none, all may."""

    id: UUID
    network_id: UUID
    ip_version: int
    cidr: str
    gateway: str | None
    services: tuple[str, ...]
    created_at: str


@dataclass(frozen=True, slots=True)
class SecurityGroupRow:
    """A security group of a project; names may repeat."""

    id: UUID
    name: str
    description: str
    project_id: str


@dataclass(frozen=True, slots=True)
class ZoneRow:
    """An availability zone; it is up if one of its hosts is."""

    name: str
    is_up: bool
