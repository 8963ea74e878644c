# Generated from aio/storage.py by `python -m tests.vmctl.generated`.

"""Volumes and snapshots."""

from typing import Unpack

from vmctl.client.models import Snapshot, Volume
from vmctl.client.requests import Extension, NewVolume
from vmctl.client.sync.collections import Collection, Id, change, remove
from vmctl.client.sync.transport import Transport
from vmctl.client.sync.waiting import Accepted


class Volumes(Collection[Volume]):
    """Your volumes."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/volumes", Volume, filters_names=True)

    def create(self, *, idempotency_key: str | None = None, **fields: Unpack[NewVolume]) -> Accepted[Volume]:
        """Create a volume; `size_gb` in GiB."""
        return change(self.transport, "POST", "/volumes", Volume, self._read, body=fields, key=idempotency_key)

    def extend(self, id: Id, *, idempotency_key: str | None = None, **fields: Unpack[Extension]) -> Accepted[Volume]:
        """Make a volume larger."""
        path = f"/volumes/{id}/actions/extend"
        return change(self.transport, "POST", path, Volume, self._read, body=fields, key=idempotency_key)

    def delete(self, id: Id, *, idempotency_key: str | None = None) -> Accepted[None]:
        """Delete a volume that is attached to no VM."""
        return remove(self.transport, f"/volumes/{id}", key=idempotency_key)

    def _read(self, volume: Volume) -> Volume:
        return self.get(volume.id)


class Snapshots(Collection[Snapshot]):
    """Your snapshots, also those whose VM is gone. `vms.create_snapshot` takes one."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/snapshots", Snapshot)

    def delete(self, id: Id, *, idempotency_key: str | None = None) -> Accepted[None]:
        """Delete a snapshot."""
        return remove(self.transport, f"/snapshots/{id}", key=idempotency_key)
