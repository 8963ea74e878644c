"""What a cloud must be able to do, in openstacksdk's verbs.

An activity may run twice, so every call that changes the cloud carries a token, and a second call with the same
token changes nothing; `purge` and `revoke`, which carry none, may be repeated. Everything made for a VM is tagged
with its id, so that it can be found and removed without any record of ours.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from domain.rules.cloud import ImageState, ServerStatus, VolumeState


@dataclass(frozen=True, slots=True)
class Token:
    """Makes a call idempotent, and refusable once its operation is revoked, unless it `compensates` the operation."""

    operation_id: UUID
    step: str
    compensates: bool = False


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """The server to be made for a VM: `ram_mb` in MiB, `disk_gb` in GiB."""

    vm_id: UUID
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    image_id: UUID


@dataclass(frozen=True, slots=True)
class Server:
    """A server as the cloud shows it; sizes as in ServerSpec.

    `is_busy` says that the cloud still works on it (in Nova: it has a task state); `fault` why its status is ERROR;
    `image_id` what it was built from last.
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
        """Whether it is as large as it should be."""
        return (self.vcpus, self.ram_mb, self.disk_gb) == (spec.vcpus, spec.ram_mb, spec.disk_gb)


@dataclass(frozen=True, slots=True)
class Port:
    """A port to be made for an interface."""

    id: UUID
    network_id: UUID
    ip_address: str
    mac_address: str


@dataclass(frozen=True, slots=True)
class Image:
    """What a snapshot is kept in, as the cloud shows it; `fault` says why it is in error."""

    id: UUID
    state: ImageState
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as the cloud shows it, and where it is attached."""

    id: UUID
    state: VolumeState
    vm_id: UUID | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that the cloud has of ours: servers by VM, ports with their VMs, volumes, and the ids of images."""

    servers: Mapping[UUID, Server]
    ports: Mapping[UUID, UUID]
    volumes: Mapping[UUID, Volume]
    images: Collection[UUID]


class BackendError(Exception):
    """The cloud refused or failed a call; `retryable` where the same call may succeed later."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class ComputeBackend(Protocol):
    """A cloud. Every method raises BackendError; none waits for a server to change state."""

    poll_interval: float
    """Seconds between two looks at servers that are being waited for."""

    async def prepare(self) -> None:
        """Make ready for use; called once by every worker that starts."""

    async def close(self) -> None:
        """Give connections back."""

    async def select_host(self, token: Token, spec: ServerSpec) -> None:
        """Check that a host can hold the server; code `no_valid_host` where none can."""

    async def create_ports(self, token: Token, vm_id: UUID, wanted: Collection[Port]) -> None:
        """Make ports for a VM that is to be built."""

    async def create_server(self, token: Token, spec: ServerSpec) -> None:
        """Begin to build the VM's server on its ports; it becomes ACTIVE or ERROR."""

    async def start_server(self, token: Token, vm_id: UUID) -> None:
        """Begin to power the server on; it becomes ACTIVE."""

    async def stop_server(self, token: Token, vm_id: UUID) -> None:
        """Begin to shut the server down; it becomes SHUTOFF."""

    async def reboot_server(self, token: Token, vm_id: UUID, *, hard: bool) -> None:
        """Begin to reboot the server; it becomes ACTIVE."""

    async def resize_server(self, token: Token, spec: ServerSpec) -> None:
        """Begin to give the server another size; it becomes VERIFY_RESIZE.

        Where no host is found it may show itself as it was, ACTIVE or SHUTOFF. The cloud holds the old size beside the
        new one until the resize is confirmed or reverted.
        """

    async def confirm_server_resize(self, token: Token, vm_id: UUID) -> None:
        """Begin to give up the old size; the server becomes ACTIVE or SHUTOFF, whichever it was."""

    async def revert_server_resize(self, token: Token, vm_id: UUID) -> None:
        """Begin to go back to the old size; the server becomes ACTIVE or SHUTOFF, whichever it was."""

    async def rebuild_server(self, token: Token, spec: ServerSpec) -> None:
        """Begin to make the server anew from the spec's image; it becomes ACTIVE or SHUTOFF, whichever it was."""

    async def create_server_interface(self, token: Token, vm_id: UUID, port: Port) -> None:
        """Make a port and plug it into the server."""

    async def delete_server_interface(self, token: Token, vm_id: UUID, port_id: UUID) -> None:
        """Take a port from the server and remove it; one that is not there is no error."""

    async def list_ports(self, vm_id: UUID) -> Collection[UUID]:
        """The ids of the VM's ports."""

    async def create_server_image(self, token: Token, vm_id: UUID, image_id: UUID, name: str) -> None:
        """Begin to save the server's disk as an image; it becomes active or error."""

    async def delete_image(self, token: Token, image_id: UUID) -> None:
        """Remove an image, however much of it there is; one that is not there is no error."""

    async def list_images(self, image_ids: Collection[UUID]) -> Mapping[UUID, Image]:
        """The images, by id; those that are gone are left out."""

    async def create_volume(self, token: Token, volume_id: UUID, name: str, size_gb: int) -> None:
        """Begin to make a volume of `size_gb` GiB; it becomes available or error."""

    async def delete_volume(self, token: Token, volume_id: UUID) -> None:
        """Begin to delete a volume that is not attached; it becomes gone, and one that is not there is no error."""

    async def attach_volume(self, token: Token, vm_id: UUID, volume_id: UUID, device: str) -> None:
        """Begin to attach a volume to the server; it becomes in-use."""

    async def detach_volume(self, token: Token, vm_id: UUID, volume_id: UUID) -> None:
        """Begin to take a volume from the server; it becomes available, and one that is not there is no error."""

    async def list_volumes(self, volume_ids: Collection[UUID]) -> Mapping[UUID, Volume]:
        """The volumes, by id; those that are gone are left out."""

    async def delete_server(self, token: Token, vm_id: UUID) -> None:
        """Begin to delete the server and its ports; it becomes GONE, and its volumes become available."""

    async def list_servers(self, vm_ids: Collection[UUID]) -> Mapping[UUID, Server]:
        """The servers of these VMs, by VM; those that are gone are left out."""

    async def inventory(self) -> Inventory:
        """Everything that was made with these calls and is there, whoever remembers it."""

    async def revoke(self, operation_id: UUID) -> None:
        """Refuse every later call for this operation but compensations; none in flight takes effect afterwards."""

    async def purge(self, vm_id: UUID) -> None:
        """Remove server and ports of the VM at once; again is harmless."""
