"""The interface that a cloud must implement. Its verbs are those of openstacksdk.

Everything that is created is marked with our id, and what is created for a VM also with the VM's id. So it can be found
and removed even if the database does not know the cloud's id, or has lost track of it.

An activity may run twice. So every call that changes the cloud carries a token, and a second call with the same token
changes nothing and returns the same. `purge` and `revoke` carry no token, because repeating them is harmless.

"Begin to" means that the call returns before the change is complete; the lists show when it is.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from activities.backends.catalogue import Catalogue
from activities.backends.found import FoundServer
from activities.backends.resources import Console, Image, InventoryPage, Port, PortSpec, Ref, Server, ServerSpec, Volume
from domain.rules.resources import Kind

KnownServers = Callable[[Collection[str]], Awaitable[Collection[str]]]
"""Returns which of these ids of the cloud are of servers of VMs."""


@dataclass(frozen=True, slots=True)
class Token:
    """Identifies one call of an operation: it takes effect once, and never after the operation was revoked.

    A token that `compensates` is still accepted after the revocation. The calls that undo an operation carry such
    tokens, because undoing begins with the revocation.
    """

    operation_id: UUID
    step: str
    compensates: bool = False


class BackendError(Exception):
    """The cloud refused a call, or failed to carry it out; `retryable` means that the same call may succeed later.

    Programs read the `code`. Users read the message, so it must be plain. `retry_after` is the pause in seconds that
    the cloud asks for, if it does.
    """

    def __init__(self, code: str, message: str, *, retryable: bool, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after


class UnusableCloudError(BackendError):
    """The service cannot work with this cloud or this configuration; the message is one line that says why."""

    def __init__(self, message: str) -> None:
        super().__init__("not_supported_by_cloud", message, retryable=False)


class ComputeBackend(Protocol):
    """A cloud. Every method may raise BackendError; none waits until a change is complete."""

    poll_interval: float
    """Seconds between two list calls while a worker waits for changes."""

    poll_timeout: float
    """Seconds in which a list call answers, if the cloud does."""

    async def prepare(self) -> None:
        """Get ready for use; every worker calls this once when it starts."""

    async def close(self) -> None:
        """Close all connections."""

    async def identity(self) -> str:
        """Return what tells this cloud from others of its kind, in words that people know."""

    async def list_catalogue(self) -> Catalogue | None:
        """Return what new VMs can be made of; None if the service has that already, as it has the mock's."""

    async def create_ports(self, token: Token, vm: Ref, wanted: Collection[PortSpec]) -> Collection[Port]:
        """Create those ports of a VM that must exist before its server, and return them.

        These are the ports for which an address is wanted. `create_server` makes the others.
        """

    async def create_server(self, token: Token, spec: ServerSpec, ports: Collection[PortSpec] = ()) -> str:
        """Begin to build the VM's server on these ports, and return the cloud's id; it becomes ACTIVE or ERROR.

        The ports of a server that is ACTIVE all exist. If no host has room, it becomes ERROR with the fault
        `no_valid_host`. The volumes of the spec must be available; they become in-use with the server.
        """

    async def start_server(self, token: Token, vm: Ref) -> None:
        """Begin to power the server on; it becomes ACTIVE."""

    async def stop_server(self, token: Token, vm: Ref) -> None:
        """Begin to shut the server down; it becomes SHUTOFF."""

    async def reboot_server(self, token: Token, vm: Ref, *, hard: bool) -> None:
        """Begin to reboot the server; it becomes ACTIVE."""

    async def resize_server(self, token: Token, spec: ServerSpec) -> None:
        """Begin to give the server the spec's flavor; it becomes VERIFY_RESIZE.

        If no host has room, the server returns to its status before, ACTIVE or SHUTOFF, without a fault. The cloud
        reserves the old size beside the new one until the resize is confirmed or reverted.
        """

    async def confirm_server_resize(self, token: Token, vm: Ref) -> None:
        """Begin to release the old size; the server becomes ACTIVE or SHUTOFF, as it was before the resize."""

    async def revert_server_resize(self, token: Token, vm: Ref) -> None:
        """Begin to return to the old size; the server becomes ACTIVE or SHUTOFF, as it was before the resize."""

    async def rebuild_server(self, token: Token, spec: ServerSpec) -> None:
        """Begin to replace the server's disk by the spec's image; it becomes ACTIVE or SHUTOFF, as it was before."""

    async def create_server_interface(self, token: Token, vm: Ref, wanted: PortSpec) -> Port:
        """Create a port, plug it into the server, and return it."""

    async def delete_server_interface(self, token: Token, vm: Ref, port: Ref) -> None:
        """Unplug a port from the server and delete it; no error if it does not exist."""

    async def list_ports(self, vms: Collection[Ref]) -> Collection[Port]:
        """Return all ports of these VMs."""

    async def create_server_image(self, token: Token, vm: Ref, image_id: UUID, name: str) -> str:
        """Begin to save the server's disk as an image, and return the cloud's id; it becomes active or error."""

    async def delete_image(self, token: Token, image: Ref) -> None:
        """Delete an image, saved or not; no error if it does not exist."""

    async def list_images(self, wanted: Collection[Ref]) -> Mapping[UUID, Image]:
        """Return the images by our id, without those that do not exist."""

    async def create_volume(
        self, token: Token, volume_id: UUID, name: str, size_gb: int, image: Ref | None = None
    ) -> str:
        """Begin to create a volume of `size_gb` GiB, and return the cloud's id; it becomes available or error.

        It is empty or has the content of an image of the catalogue. Only in the second case can a server boot from it.
        """

    async def delete_volume(self, token: Token, volume: Ref) -> None:
        """Begin to delete a volume that is not attached; no error if it does not exist."""

    async def extend_volume(self, token: Token, volume: Ref, size_gb: int) -> None:
        """Begin to make a volume larger, attached or not; it becomes what it was before, with `size_gb` GiB."""

    async def attach_volume(self, token: Token, vm: Ref, volume: Ref, device: str | None) -> str:
        """Begin to attach a volume to the server, and return its device; it becomes in-use.

        `device` is a wish, and None leaves the choice to the cloud.
        """

    async def detach_volume(self, token: Token, vm: Ref, volume: Ref) -> None:
        """Begin to detach a volume from the server; it becomes available. No error if it is not attached to it."""

    async def list_volumes(self, wanted: Collection[Ref], *, with_faults: bool = True) -> Mapping[UUID, Volume]:
        """Return the volumes by our id, without those that do not exist.

        The faults may take a request for each volume in error.
        """

    async def delete_server(self, token: Token, vm: Ref) -> None:
        """Begin to delete the server and its ports; its volumes become available. No error if it does not exist."""

    async def list_servers(self, vms: Collection[Ref]) -> Mapping[UUID, Server]:
        """Return the servers of these VMs by the VM's id, without those that do not exist."""

    async def is_over(self, operation_id: UUID, vm: Ref) -> bool:
        """Return whether the operation's last call on a server that is not busy is over; BackendError if it has failed.

        A delete or a build that takes long is asked about while the server is busy, too, and may be sent again.
        Some failures do not show in the server's status: after a stop that failed, it is ACTIVE again. For a call that
        a volume or an image shows, such as an attach, this only tells whether it has failed.
        """

    async def get_server_console_output(self, vm: Ref, lines: int) -> str:
        """Return the last lines that the server's console has shown; BackendError `no_console` if it has none now."""

    async def create_console(self, vm: Ref) -> Console:
        """Return an address at which the server's console can be used for a while.

        BackendError `no_console` if it has none now, and `not_supported_by_cloud` if the cloud has no such consoles.
        """

    async def inventory(self, kind: Kind, marker: str | None) -> InventoryPage:
        """Return a page of what this service has in the cloud, known to its database or not.

        The kinds are VM (servers), INTERFACE (ports), VOLUME, and SNAPSHOT (images). The first page has no marker, and
        each page has the marker of the next one. What exists during all the calls is on one of the pages.
        """

    async def list_other_servers(self, known: KnownServers) -> Collection[FoundServer]:
        """Return the servers of the project that `known` does not have, whoever made them.

        They are read in pages, and `known` is asked about each, so that a large cloud is never in memory at once.
        """

    async def revoke(self, operation_id: UUID) -> None:
        """Refuse the operation's calls from now on, except those that compensate.

        Once this has returned, no call of the operation takes effect any more, not even one that is still running.
        """

    async def purge(self, vm: Ref) -> None:
        """Remove the VM's server and ports at once."""
