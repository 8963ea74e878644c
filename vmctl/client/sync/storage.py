# Generated from aio/storage.py by `python -m tests.vmctl.generated`.

"""Volumes and snapshots."""

from typing import Unpack

from vmctl.client.errors import answer_of
from vmctl.client.models import Snapshot, Volume
from vmctl.client.requests import Extension, NewVolume, SnapshotChanges, VolumeChanges
from vmctl.client.sync.collections import Id, SharedCollection, change, remove
from vmctl.client.sync.transport import Transport
from vmctl.client.sync.waiting import Accepted


class Volumes(SharedCollection[Volume]):
    """Your volumes."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/volumes", Volume, filters_names=True)

    def create(self, *, idempotency_key: str | None = None, **fields: Unpack[NewVolume]) -> Accepted[Volume]:
        """Create a volume; `size_gb` in GiB."""
        return change(self.transport, "/volumes", Volume, self._read, body=fields, key=idempotency_key)

    def change(self, id: Id, *, if_match: str | None = None, **fields: Unpack[VolumeChanges]) -> Volume:
        """Change the name or labels. A label that is None is removed; those that are not named stay."""
        response = self.transport.send("PATCH", f"/volumes/{id}", body=fields, if_match=if_match)
        return answer_of(response, Volume)

    def extend(
        self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None, **fields: Unpack[Extension]
    ) -> Accepted[Volume]:
        """Make a volume larger."""
        path = f"/volumes/{id}/actions/extend"
        return change(self.transport, path, Volume, self._read, body=fields, key=idempotency_key, if_match=if_match)

    def delete(self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None) -> Accepted[None]:
        """Delete a volume that is attached to no VM."""
        return remove(self.transport, f"/volumes/{id}", key=idempotency_key, if_match=if_match)

    def _read(self, volume: Volume) -> Volume:
        return self.get(volume.id)


class Snapshots(SharedCollection[Snapshot]):
    """Your snapshots, also those whose VM is gone. `vms.create_snapshot` takes one."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/snapshots", Snapshot)

    def change(self, id: Id, *, if_match: str | None = None, **fields: Unpack[SnapshotChanges]) -> Snapshot:
        """Change the name or labels. A label that is None is removed; those that are not named stay."""
        response = self.transport.send("PATCH", f"/snapshots/{id}", body=fields, if_match=if_match)
        return answer_of(response, Snapshot)

    def delete(self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None) -> Accepted[None]:
        """Delete a snapshot."""
        return remove(self.transport, f"/snapshots/{id}", key=idempotency_key, if_match=if_match)
