"""The resources of a cloud: how they are named, what we ask for, and what the cloud shows.

A resource has two ids: ours, which our row has, and the cloud's own, which the cloud chooses when it creates the
resource. A `Ref` names a resource by both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from domain.rules.cloud import ImageState, ServerStatus, VolumeState


@dataclass(frozen=True, slots=True)
class Ref:
    """A resource in the cloud: `id` is ours, `cloud_id` is the cloud's, or None while we do not know it.

    A resource with another `cloud_id` is not meant, even if it has our mark. Without a `cloud_id` the mark decides.
    """

    id: UUID
    cloud_id: str | None = None


@dataclass(frozen=True, slots=True)
class DataVolume:
    """A volume that a new server has beside its disk. `device` is a wish, and None leaves the choice to the cloud."""

    volume: Ref
    device: str | None = None


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """The server that a VM should have: `ram_mb` in MiB, `disk_gb` in GiB; `image` is the catalogue's or a snapshot's.

    The refs of a flavor and of an image of the catalogue have the cloud's ids. With a `boot_volume`, the server boots
    from that instead of the image. `security_groups` are ids of the cloud. Without a zone or groups the cloud chooses.
    `user_data` and `volumes` are for a new server; the first is for cloud-init in it.
    """

    vm: Ref
    name: str
    flavor: Ref
    vcpus: int
    ram_mb: int
    disk_gb: int
    image: Ref
    boot_volume: Ref | None = None
    availability_zone: str | None = None
    security_groups: tuple[str, ...] = ()
    user_data: bytes | None = field(default=None, repr=False)  # it may hold secrets
    volumes: tuple[DataVolume, ...] = ()


@dataclass(frozen=True, slots=True)
class PortSpec:
    """The port that an interface should have; the cloud chooses an address that is None.

    `interface` has a `cloud_id` if the port exists already. `security_groups` as in ServerSpec.
    """

    interface: Ref
    network_id: UUID
    ip_address: str | None = None
    mac_address: str | None = None
    security_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a server is in ERROR: `code` is for programs, `message` for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server as the cloud shows it; units as in ServerSpec.

    `is_busy`: the cloud is still working on it (in Nova: it has a task state). `fault`: why its status is ERROR.
    `image_id`: the cloud's id of the image from which it was built or rebuilt last. `flavor_id`: None if the cloud does
    not tell it. `availability_zone`: None while it has no host. `waits_for`: a sentence for people about what a cloud
    that works on it for long is waiting for, else None.
    """

    vm_id: UUID
    status: ServerStatus
    vcpus: int
    ram_mb: int
    disk_gb: int
    is_busy: bool = False
    fault: Fault | None = None
    image_id: str | None = None
    flavor_id: UUID | None = None
    availability_zone: str | None = None
    waits_for: str | None = None

    def has_flavor(self, id: UUID, vcpus: int, ram_mb: int, disk_gb: int) -> bool:
        """Return whether the server has the flavor with this id or, if the cloud tells no id, of this size."""
        if self.flavor_id is not None:
            return self.flavor_id == id
        return (self.vcpus, self.ram_mb, self.disk_gb) == (vcpus, ram_mb, disk_gb)

    def has_size_of(self, spec: ServerSpec) -> bool:
        """Return whether the server has the flavor of the spec."""
        return self.has_flavor(spec.flavor.id, spec.vcpus, spec.ram_mb, spec.disk_gb)


@dataclass(frozen=True, slots=True)
class Port:
    """A port as the cloud shows it; `id` is that of its interface.

    `id` is None if the port has no mark: the cloud made it together with the server.
    """

    cloud_id: str
    vm_id: UUID
    network_id: UUID
    ip_address: str | None
    mac_address: str
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """The image of a snapshot as the cloud shows it; `fault` says why its state is error; `waits_for` as in Server."""

    id: UUID
    cloud_id: str
    state: ImageState
    fault: str | None = None
    waits_for: str | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as the cloud shows it; `size_gb` in GiB; `vm_id` and `device` are set while it is attached.

    `fault` says why its state is error, if the cloud tells that. `waits_for` as in Server.
    """

    id: UUID
    state: VolumeState
    vm_id: UUID | None = None
    device: str | None = None
    fault: str | None = None
    size_gb: int = 0
    waits_for: str | None = None


@dataclass(frozen=True, slots=True)
class Console:
    """A console that somebody may use: its type in Nova's words, such as `novnc`, and the address, which is secret."""

    type: str
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Listed:
    """What the cloud's inventory shows of a resource: our id, which is its mark, its state, and the VM of a port.

    A server has the id of its VM. `id` is None if the mark is missing. `operation_id`: the operation that made it, by
    its mark, unless it is a port. `is_plugged`: the port is in use. `created_at`: since when a volume exists, by the
    clock of the cloud.
    """

    id: UUID | None
    state: str
    vm_id: UUID | None = None
    operation_id: UUID | None = None
    is_plugged: bool = False
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class InventoryPage:
    """A page of the cloud's inventory of one kind, by the cloud's ids. `next` is None on the last page."""

    items: Mapping[str, Listed]
    next: str | None
