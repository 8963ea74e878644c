"""The interface that a cloud must implement. Its verbs are those of openstacksdk.

An activity may run twice. So every call that changes the cloud carries a token, and a second call with the same token
changes nothing. `purge` and `revoke` carry no token, because repeating them is harmless. Everything that is created for
a VM is tagged with the VM's id, so that it can be found and removed even if the database has lost track of it.

"Begin to" means that the call returns before the change is complete; the lists show when it is.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from domain.rules.cloud import ImageState, ServerStatus, VolumeState
from domain.rules.resources import Kind


@dataclass(frozen=True, slots=True)
class Token:
    """Identifies one call of an operation: it takes effect once, and never after the operation was revoked.

    A token that `compensates` is still accepted after the revocation. The calls that undo an operation carry such
    tokens, because undoing begins with the revocation.
    """

    operation_id: UUID
    step: str
    compensates: bool = False


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """The server that a VM should have: `ram_mb` in MiB, `disk_gb` in GiB."""

    vm_id: UUID
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    image_id: UUID


@dataclass(frozen=True, slots=True)
class Server:
    """A server as the cloud shows it; units as in ServerSpec.

    `is_busy`: the cloud is still working on it (in Nova: it has a task state). `fault`: why its status is ERROR.
    `image_id`: the image from which it was built or rebuilt last.
    """

    vm_id: UUID
    status: ServerStatus
    vcpus: int
    ram_mb: int
    disk_gb: int
    is_busy: bool = False
    fault: str | None = None
    image_id: UUID | None = None

    def has_size_of(self, spec: ServerSpec) -> bool:
        """Return whether the server has the size of the spec."""
        return (self.vcpus, self.ram_mb, self.disk_gb) == (spec.vcpus, spec.ram_mb, spec.disk_gb)


@dataclass(frozen=True, slots=True)
class Port:
    """The port that an interface should have; both have the same id."""

    id: UUID
    network_id: UUID
    ip_address: str
    mac_address: str


@dataclass(frozen=True, slots=True)
class Image:
    """The image of a snapshot as the cloud shows it; `fault` says why its state is error."""

    id: UUID
    state: ImageState
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as the cloud shows it; `vm_id` and `device` are set while it is attached."""

    id: UUID
    state: VolumeState
    vm_id: UUID | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """What the cloud's inventory shows of a resource: its state, and the VM of a port."""

    state: str
    vm_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class InventoryPage:
    """A page of the cloud's inventory of one kind, by id; a server has the id of its VM. `next` is None on the last."""

    items: Mapping[UUID, Listed]
    next: str | None


class BackendError(Exception):
    """The cloud refused a call, or failed to carry it out; `retryable` means that the same call may succeed later.

    Programs read the `code`. Users read the message, so it must be plain.
    """

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class ComputeBackend(Protocol):
    """A cloud. Every method may raise BackendError; none waits until a change is complete."""

    poll_interval: float
    """Seconds between two list calls while a worker waits for changes."""

    async def prepare(self) -> None:
        """Get ready for use; every worker calls this once when it starts."""

    async def close(self) -> None:
        """Close all connections."""

    async def select_host(self, token: Token, spec: ServerSpec) -> None:
        """Check that a host has room for the server; BackendError `no_valid_host` if none has."""

    async def create_ports(self, token: Token, vm_id: UUID, wanted: Collection[Port]) -> None:
        """Create the ports of a VM whose server does not exist yet."""

    async def create_server(self, token: Token, spec: ServerSpec) -> None:
        """Begin to build the VM's server on its ports; it becomes ACTIVE or ERROR."""

    async def start_server(self, token: Token, vm_id: UUID) -> None:
        """Begin to power the server on; it becomes ACTIVE."""

    async def stop_server(self, token: Token, vm_id: UUID) -> None:
        """Begin to shut the server down; it becomes SHUTOFF."""

    async def reboot_server(self, token: Token, vm_id: UUID, *, hard: bool) -> None:
        """Begin to reboot the server; it becomes ACTIVE."""

    async def resize_server(self, token: Token, spec: ServerSpec) -> None:
        """Begin to give the server the spec's size; it becomes VERIFY_RESIZE.

        Where no host has room, the server may return to its status before, ACTIVE or SHUTOFF, without a fault. The
        cloud reserves the old size beside the new one until the resize is confirmed or reverted.
        """

    async def confirm_server_resize(self, token: Token, vm_id: UUID) -> None:
        """Begin to release the old size; the server becomes ACTIVE or SHUTOFF, as it was before the resize."""

    async def revert_server_resize(self, token: Token, vm_id: UUID) -> None:
        """Begin to return to the old size; the server becomes ACTIVE or SHUTOFF, as it was before the resize."""

    async def rebuild_server(self, token: Token, spec: ServerSpec) -> None:
        """Begin to replace the server's disk by the spec's image; it becomes ACTIVE or SHUTOFF, as it was before."""

    async def create_server_interface(self, token: Token, vm_id: UUID, port: Port) -> None:
        """Create a port and plug it into the server."""

    async def delete_server_interface(self, token: Token, vm_id: UUID, port_id: UUID) -> None:
        """Unplug a port from the server and delete it; no error if it does not exist."""

    async def list_ports(self, vm_ids: Collection[UUID]) -> Mapping[UUID, UUID]:
        """Return the VM of each port of these VMs, by the port's id."""

    async def create_server_image(self, token: Token, vm_id: UUID, image_id: UUID, name: str) -> None:
        """Begin to save the server's disk as an image; it becomes active or error."""

    async def delete_image(self, token: Token, image_id: UUID) -> None:
        """Delete an image, saved or not; no error if it does not exist."""

    async def list_images(self, image_ids: Collection[UUID]) -> Mapping[UUID, Image]:
        """Return the images by id, without those that do not exist."""

    async def create_volume(self, token: Token, volume_id: UUID, name: str, size_gb: int) -> None:
        """Begin to create a volume of `size_gb` GiB; it becomes available or error."""

    async def delete_volume(self, token: Token, volume_id: UUID) -> None:
        """Begin to delete a volume that is not attached; no error if it does not exist."""

    async def attach_volume(self, token: Token, vm_id: UUID, volume_id: UUID, device: str) -> None:
        """Begin to attach a volume to the server; it becomes in-use."""

    async def detach_volume(self, token: Token, vm_id: UUID, volume_id: UUID) -> None:
        """Begin to detach a volume from the server; it becomes available. No error if it is not attached to it."""

    async def list_volumes(self, volume_ids: Collection[UUID]) -> Mapping[UUID, Volume]:
        """Return the volumes by id, without those that do not exist."""

    async def delete_server(self, token: Token, vm_id: UUID) -> None:
        """Begin to delete the server and its ports; its volumes become available. No error if it does not exist."""

    async def list_servers(self, vm_ids: Collection[UUID]) -> Mapping[UUID, Server]:
        """Return the servers of these VMs by VM, without those that do not exist."""

    async def inventory(self, kind: Kind, marker: str | None) -> InventoryPage:
        """Return a page of what this service has in the cloud, known to its database or not.

        The kinds are VM (servers), INTERFACE (ports), VOLUME, and SNAPSHOT (images). The first page has no marker, and
        each page has the marker of the next one. What exists during all the calls is on one of the pages.
        """

    async def revoke(self, operation_id: UUID) -> None:
        """Refuse the operation's calls from now on, except those that compensate.

        Once this has returned, no call of the operation takes effect any more, not even one that is still running.
        """

    async def purge(self, vm_id: UUID) -> None:
        """Remove the VM's server and ports at once."""
