# Generated from aio/vms.py by `python -m tests.vmctl.generated`.

"""Virtual machines: their life, and what is attached to them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

from vmctl.client.errors import answer_of
from vmctl.client.models import VM, Attachment, Console, ConsoleLog, Interface, Operation, Snapshot, Status
from vmctl.client.models import VMs as NewVMsAnswer
from vmctl.client.requests import NewAttachment, NewInterface, NewSnapshot, NewVM, Reboot, Resize, VMChanges
from vmctl.client.sending import Filter
from vmctl.client.sync.collections import Id, SharedCollection, accepted, change, remove
from vmctl.client.sync.transport import Transport
from vmctl.client.sync.waiting import Accepted


class VMs(SharedCollection[VM]):
    """Your VMs. A change answers at once; `wait()` on the answer waits until it is made."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/vms", VM, filters_names=True)

    def create(self, *, idempotency_key: str | None = None, **fields: Unpack[NewVM]) -> Accepted[VM]:
        """Create a VM."""
        return self._change("", fields, idempotency_key)

    def create_all(self, vms: Sequence[NewVM], *, idempotency_key: str | None = None) -> list[Accepted[VM]]:
        """Create up to a hundred VMs: all of them, or none if one is refused."""
        response = self.transport.send("POST", "/vms/batch", body={"vms": vms}, key=idempotency_key)
        made = answer_of(response, NewVMsAnswer).items
        return [accepted(self.transport, vm, vm.operation_id, self._read) for vm in made]

    def change(self, id: Id, *, if_match: str | None = None, **fields: Unpack[VMChanges]) -> VM:
        """Change the name or labels. A label that is None is removed; those that are not named stay."""
        response = self.transport.send("PATCH", f"/vms/{id}", body=fields, if_match=if_match)
        return answer_of(response, VM)

    def delete(self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None) -> Accepted[None]:
        """Delete a VM, in any state."""
        return remove(self.transport, f"/vms/{id}", key=idempotency_key, if_match=if_match)

    def start(self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None) -> Accepted[VM]:
        """Switch a VM on."""
        return self._change(f"/{id}/actions/start", None, idempotency_key, if_match)

    def stop(self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None) -> Accepted[VM]:
        """Switch a VM off."""
        return self._change(f"/{id}/actions/stop", None, idempotency_key, if_match)

    def reboot(
        self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None, **fields: Unpack[Reboot]
    ) -> Accepted[VM]:
        """Restart a VM. SOFT asks the guest to restart; HARD cycles its power."""
        return self._change(f"/{id}/actions/reboot", fields, idempotency_key, if_match)

    def resize(
        self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None, **fields: Unpack[Resize]
    ) -> Accepted[VM]:
        """Give a VM another flavor. It is then in VERIFY_RESIZE until that is confirmed or reverted."""
        return self._change(f"/{id}/actions/resize", fields, idempotency_key, if_match)

    def confirm_resize(
        self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None
    ) -> Accepted[VM]:
        """Keep the new flavor."""
        return self._change(f"/{id}/actions/confirm-resize", None, idempotency_key, if_match)

    def revert_resize(self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None) -> Accepted[VM]:
        """Go back to the old flavor."""
        return self._change(f"/{id}/actions/revert-resize", None, idempotency_key, if_match)

    def wait(self, id: Id, *, until: Sequence[Status] = (), seconds: int = 60) -> VM:
        """Read a VM as soon as it is at rest, or has one of the statuses; at the latest after `seconds` (0 to 60)."""
        filters: dict[str, Filter] = {"wait": seconds, "for": ",".join(until) or None}
        response = self.transport.send("GET", f"/vms/{id}", filters=filters)
        return answer_of(response, VM)

    def console_log(self, id: Id, *, lines: int | None = None) -> ConsoleLog:
        """Read the last lines that the console has shown."""
        return self.transport.get(f"/vms/{id}/console-log", ConsoleLog, lines=lines)

    def open_console(self, id: Id) -> Console:
        """Get an address to use the console, where the cloud has such."""
        response = self.transport.send("POST", f"/vms/{id}/console")
        return answer_of(response, Console)

    def operations(self, id: Id, **filters: Filter) -> Iterator[Operation]:
        """Yield what was asked of a VM, newest first. This works for a DELETED VM, too."""
        return self.transport.items(f"/vms/{id}/operations", Operation, filters)

    def _change(
        self, path: str, body: Mapping[str, Any] | None, key: str | None, if_match: str | None = None
    ) -> Accepted[VM]:
        return change(self.transport, f"/vms{path}", VM, self._read, body=body, key=key, if_match=if_match)

    def _read(self, vm: VM) -> VM:
        return self.get(vm.id)

    def volumes(self, id: Id) -> Iterator[Attachment]:
        """Yield the volumes that are attached to a VM."""
        return self.transport.items(f"/vms/{id}/volumes", Attachment, {})

    def attach_volume(
        self,
        id: Id,
        *,
        idempotency_key: str | None = None,
        if_match: str | None = None,
        **fields: Unpack[NewAttachment],
    ) -> Accepted[Attachment]:
        """Attach a volume."""

        def read(attachment: Attachment) -> Attachment:
            return self.transport.get(f"/vms/{id}/volumes/{attachment.volume_id}", Attachment)

        path = f"/vms/{id}/volumes"
        return change(self.transport, path, Attachment, read, body=fields, key=idempotency_key, if_match=if_match)

    def detach_volume(
        self, id: Id, volume_id: Id, *, idempotency_key: str | None = None, if_match: str | None = None
    ) -> Accepted[None]:
        """Detach a volume."""
        return remove(self.transport, f"/vms/{id}/volumes/{volume_id}", key=idempotency_key, if_match=if_match)

    def interfaces(self, id: Id) -> Iterator[Interface]:
        """Yield the interfaces of a VM, with their addresses."""
        return self.transport.items(f"/vms/{id}/interfaces", Interface, {})

    def attach_interface(
        self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None, **fields: Unpack[NewInterface]
    ) -> Accepted[Interface]:
        """Attach a VM to a network."""

        def read(interface: Interface) -> Interface:
            return self.transport.get(f"/vms/{id}/interfaces/{interface.id}", Interface)

        path = f"/vms/{id}/interfaces"
        return change(self.transport, path, Interface, read, body=fields, key=idempotency_key, if_match=if_match)

    def detach_interface(
        self, id: Id, interface_id: Id, *, idempotency_key: str | None = None, if_match: str | None = None
    ) -> Accepted[None]:
        """Take an interface away."""
        return remove(self.transport, f"/vms/{id}/interfaces/{interface_id}", key=idempotency_key, if_match=if_match)

    def snapshots(self, id: Id, **filters: Filter) -> Iterator[Snapshot]:
        """Yield the snapshots of a VM."""
        return self.transport.items(f"/vms/{id}/snapshots", Snapshot, filters)

    def create_snapshot(
        self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None, **fields: Unpack[NewSnapshot]
    ) -> Accepted[Snapshot]:
        """Take a snapshot."""

        def read(snapshot: Snapshot) -> Snapshot:
            return self.transport.get(f"/vms/{id}/snapshots/{snapshot.id}", Snapshot)

        path = f"/vms/{id}/snapshots"
        return change(self.transport, path, Snapshot, read, body=fields, key=idempotency_key, if_match=if_match)

    def restore(
        self, id: Id, snapshot_id: Id, *, idempotency_key: str | None = None, if_match: str | None = None
    ) -> Accepted[VM]:
        """Put a VM back to a snapshot."""
        return self._change(f"/{id}/snapshots/{snapshot_id}/restore", None, idempotency_key, if_match)

    def delete_snapshot(
        self, id: Id, snapshot_id: Id, *, idempotency_key: str | None = None, if_match: str | None = None
    ) -> Accepted[None]:
        """Delete a snapshot."""
        return remove(self.transport, f"/vms/{id}/snapshots/{snapshot_id}", key=idempotency_key, if_match=if_match)
