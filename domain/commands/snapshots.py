"""Snapshots: take one, restore a VM to one, delete one."""

from collections.abc import Mapping
from uuid import UUID, uuid4

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import (
    Accepted,
    Requester,
    accept,
    accept_without_vm,
    check_may,
    lock_changeable_vm,
    requested,
)
from domain.commands.claimed_rows import about, insert_claimed, lock_row
from domain.commands.quotas import reserve
from domain.data.models import VM, Flavor, Image, Snapshot
from domain.data.parameters import Control, DeleteSnapshot, Restore, TakeSnapshot
from domain.data.queries import fetch_all, lock_vm
from domain.data.views import shown_vm
from domain.progress import resource_claims
from domain.rules import disks
from domain.rules.access import Verb
from domain.rules.disks import VolumeBackedError
from domain.rules.errors import NotFoundError
from domain.rules.resources import Kind, SnapshotStatus
from domain.rules.states import Action


async def create_snapshot(
    tx: AsyncConnection, requester: Requester, vm_id: UUID, name: str, labels: Mapping[str, str]
) -> Accepted[Snapshot]:
    """Take a snapshot of the requester's VM."""
    vm = await lock_changeable_vm(tx, requester, vm_id)
    new = requested(requester, Action.SNAPSHOT, TakeSnapshot(name), **about(Kind.SNAPSHOT, uuid4()))
    await accept(tx, vm, new)
    if vm.boot_volume_id is not None:  # after a refusal by the states
        # Nova would make an image without content and a snapshot of each volume, which nothing deletes again.
        raise VolumeBackedError
    values = {
        "vm_id": vm.id,
        "owner_id": vm.owner_id,
        "name": name,
        "labels": labels,
        "size_gb": await tx.scalar(select(Flavor.disk_gb).where(Flavor.id == vm.flavor_id)),
        "flavor_id": vm.flavor_id,
        "image_id": vm.image_id,
    }
    return Accepted(await insert_claimed(tx, Snapshot, new, id=new.resource_id, **values), new.id)


async def restore_vm(tx: AsyncConnection, requester: Requester, vm_id: UUID, snapshot_id: UUID) -> Accepted[VM]:
    """Put the requester's VM back to the snapshot; FlavorTooSmallError if its disk does not fit its flavor."""
    vm = await lock_changeable_vm(tx, requester, vm_id)
    flavor_id = vm.flavor_id
    snapshot = await lock_row(tx, Snapshot, _snapshot(vm_id, snapshot_id), snapshot_id)
    parameters = Restore(snapshot.name, snapshot.flavor_id, snapshot.image_id)
    new = requested(requester, Action.RESTORE, parameters, **about(Kind.SNAPSHOT, snapshot.id))
    vm = await accept(tx, vm, new)
    await resource_claims.claim(tx, Snapshot, snapshot, new.action, new.id)
    await _check_disk(tx, snapshot)  # last, because a refusal by the states comes first
    flavors = await fetch_all(tx, select(Flavor).where(Flavor.id.in_({flavor_id, snapshot.flavor_id})))
    await reserve(tx, vm.id, *flavors)
    return Accepted(await shown_vm(tx, vm.id), new.id)


async def delete_snapshot(
    tx: AsyncConnection, requester: Requester, snapshot_id: UUID, vm_id: UUID | None = None
) -> Accepted[Snapshot]:
    """Delete a snapshot in any state of its VM; if it is DELETING or DELETED already, return that operation.

    With `vm_id`, it must be one of that VM.
    """
    if vm_id is None:
        # Not locked, because the VM is locked first. A snapshot keeps its VM, and the VM of a snapshot keeps its row.
        vm_id = await tx.scalar(select(Snapshot.vm_id).where(Snapshot.id == snapshot_id))
        if vm_id is None:
            raise NotFoundError(Kind.SNAPSHOT, snapshot_id)
        await lock_vm(tx, vm_id)
    else:
        await lock_changeable_vm(tx, requester, vm_id)
    snapshot = await lock_row(tx, Snapshot, _snapshot(vm_id, snapshot_id), snapshot_id)
    await check_may(tx, requester, Verb.CHANGE, snapshot.owner_id, Kind.SNAPSHOT, snapshot_id)
    if snapshot.status in {SnapshotStatus.DELETING, SnapshotStatus.DELETED}:
        return Accepted(snapshot, snapshot.operation_id, is_new=False)
    parameters, control = DeleteSnapshot(snapshot.name), Control(was=snapshot.status)
    new = requested(requester, Action.DELETE_SNAPSHOT, parameters, control=control, **about(Kind.SNAPSHOT, snapshot.id))
    await accept_without_vm(tx, snapshot.owner_id, new, vm_id)
    await resource_claims.claim(tx, Snapshot, snapshot, new.action, new.id)
    return Accepted(snapshot, new.id)


async def _check_disk(tx: AsyncConnection, snapshot: Snapshot) -> None:
    """Raise FlavorTooSmallError if the flavor that a restore brings back cannot hold the snapshot or its image.

    It was large enough for the VM when the snapshot was taken, unless the VM is older than this rule or the catalogue
    has changed since.
    """
    sizes = select(Flavor.name.label("flavor"), Flavor.disk_gb, Image.name.label("image"), Image.size_gb)
    found = sizes.join(Image, Image.id == snapshot.image_id).where(Flavor.id == snapshot.flavor_id)
    flavor, disk_gb, image, size_gb = (await tx.execute(found)).one()
    disks.check_fits(flavor, disk_gb, f"snapshot {snapshot.name}", snapshot.size_gb)
    disks.check_fits(flavor, disk_gb, f"image {image}", size_gb)


def _snapshot(vm_id: UUID, id: UUID) -> Select[Snapshot]:
    return select(Snapshot).where(Snapshot.id == id, Snapshot.vm_id == vm_id)
