"""What a cloud must be able to do, in openstacksdk's verbs.

An activity may run twice, so every call that changes the cloud carries a token, and a second call with the same
token changes nothing. Everything made for a VM is tagged with its id, so that it can be found and removed without
any record of ours.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from domain.messages import ServerStatus


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

    `is_busy` says that the cloud still works on it (in Nova: it has a task state); `fault` why its status is ERROR.
    """

    vm_id: UUID
    status: ServerStatus
    vcpus: int
    ram_mb: int
    disk_gb: int
    is_busy: bool = False
    fault: str | None = None


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

    async def create_ports(self, token: Token, vm_id: UUID, network_ids: Collection[UUID]) -> None:
        """Make a port on each network for the VM."""

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

    async def delete_server(self, token: Token, vm_id: UUID) -> None:
        """Begin to delete the server and all that was made for the VM; it becomes GONE."""

    async def list_servers(self, vm_ids: Collection[UUID]) -> Mapping[UUID, Server]:
        """The servers of these VMs, by VM; those that are gone are left out."""

    async def revoke(self, operation_id: UUID) -> None:
        """Refuse every later call for this operation but compensations; none in flight takes effect afterwards."""

    async def purge(self, vm_id: UUID) -> None:
        """Remove whatever is tagged with the VM, at once; again is harmless."""
