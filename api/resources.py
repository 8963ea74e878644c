"""What is asked of snapshots, volumes and interfaces: the VM is locked first, then what is held."""

from string import ascii_lowercase
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from fastapi import Response
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api import PREFIX, bodies, schemas
from api.operations import accepted, accepted_vm, asked_by, find_address, going, lock_owned_vm, unknown_reference
from api.web.problems import ProblemError
from api.web.security import Caller
from domain.commands import acceptance
from domain.data import addresses, queries
from domain.data.models import VM, Attachment, Flavor, Interface, Network, Snapshot, Volume
from domain.progress import resource_claims
from domain.rules.errors import NoFreeDeviceError, NotFoundError
from domain.rules.lifecycle import change_of
from domain.rules.resources import AttachmentStatus, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action

M = TypeVar("M", Snapshot, Volume, Attachment, Interface)

DEVICES: Final = tuple(f"/dev/vd{letter}" for letter in ascii_lowercase[1:])  # /dev/vda is the VM's own disk


async def create_snapshot(tx: AsyncConnection, caller: Caller, vm_id: UUID, body: bodies.NewSnapshot) -> Response:
    """Let a snapshot take the caller's VM."""
    vm = await lock_owned_vm(tx, caller, vm_id)
    asked = _about(caller, Action.SNAPSHOT, Kind.SNAPSHOT, uuid4(), name=body.name)
    await acceptance.accept(tx, vm, asked)
    values = {
        "vm_id": vm.id,
        "owner_id": vm.owner_id,
        "name": body.name,
        "size_gb": await tx.scalar(select(Flavor.disk_gb).where(Flavor.id == vm.flavor_id)),
        "flavor_id": vm.flavor_id,
        "image_id": vm.image_id,
    }
    snapshot = await _new(tx, Snapshot, asked, id=asked.resource_id, **values)
    location = f"{PREFIX}/vms/{vm.id}/snapshots/{snapshot.id}"
    return accepted(schemas.Snapshot.model_validate(snapshot), asked.id, Location=location)


async def restore_vm(tx: AsyncConnection, caller: Caller, vm_id: UUID, snapshot_id: UUID) -> Response:
    """Let a restore take the caller's VM and the snapshot."""
    vm = await lock_owned_vm(tx, caller, vm_id)
    snapshot = await _lock(tx, Snapshot, _snapshot(vm, snapshot_id), snapshot_id)
    held = {"flavor_id": str(snapshot.flavor_id), "image_id": str(snapshot.image_id)}
    asked = _about(caller, Action.RESTORE, Kind.SNAPSHOT, snapshot.id, name=snapshot.name, **held)
    vm = await acceptance.accept(tx, vm, asked)
    await resource_claims.claim(tx, Snapshot, snapshot, asked.action, asked.id)
    return accepted_vm(vm)


async def delete_snapshot(tx: AsyncConnection, caller: Caller, vm_id: UUID, snapshot_id: UUID) -> Response:
    """Let a delete take a snapshot, whatever its VM does; one that is going or gone keeps its operation."""
    vm = await lock_owned_vm(tx, caller, vm_id)
    snapshot = await _lock(tx, Snapshot, _snapshot(vm, snapshot_id), snapshot_id)
    if snapshot.status in {SnapshotStatus.DELETING, SnapshotStatus.DELETED}:
        return going(snapshot.operation_id)
    about = {"name": snapshot.name, "was": snapshot.status}
    asked = _about(caller, Action.DELETE_SNAPSHOT, Kind.SNAPSHOT, snapshot.id, **about)
    await acceptance.accept_without_vm(tx, caller.id, asked, vm.id)
    await resource_claims.claim(tx, Snapshot, snapshot, asked.action, asked.id)
    return going(asked.id)


async def create_volume(tx: AsyncConnection, caller: Caller, body: bodies.NewVolume) -> Response:
    """Record a new volume and the operation that makes it."""
    values = {"name": body.name, "size_gb": body.size_gb}
    asked = _about(caller, Action.CREATE_VOLUME, Kind.VOLUME, uuid4(), **values)
    await acceptance.accept_without_vm(tx, caller.id, asked)
    volume = await _new(tx, Volume, asked, id=asked.resource_id, owner_id=caller.id, **values)
    location = f"{PREFIX}/volumes/{volume.id}"
    return accepted(schemas.Volume.model_validate(volume), asked.id, Location=location)


async def delete_volume(tx: AsyncConnection, caller: Caller, volume_id: UUID) -> Response:
    """Let a delete take a volume that no VM has; one that is going or gone keeps its operation."""
    volume = await _lock(tx, Volume, _volume(caller, volume_id), volume_id)
    if volume.status in {VolumeStatus.DELETING, VolumeStatus.DELETED}:
        return going(volume.operation_id)
    asked = _about(caller, Action.DELETE_VOLUME, Kind.VOLUME, volume.id, name=volume.name, was=volume.status)
    await acceptance.accept_without_vm(tx, caller.id, asked)
    await resource_claims.claim(tx, Volume, volume, asked.action, asked.id)
    return going(asked.id)


async def attach_volume(tx: AsyncConnection, caller: Caller, vm_id: UUID, body: bodies.NewAttachment) -> Response:
    """Let an attach take a free volume of the caller's and a free device of the VM."""
    vm = await lock_owned_vm(tx, caller, vm_id)
    volume = await queries.fetch_one(tx, _volume(caller, body.volume_id).with_for_update())
    if volume is None:
        error = unknown_reference("volume_id", body.volume_id)
        raise ProblemError("not_found", str(NotFoundError(Kind.VOLUME, body.volume_id)), [error])
    acceptance.begin(vm, Action.ATTACH_VOLUME)  # what the VM does not allow is said before what it has no more of
    device = await _free_device(tx, vm)
    place = {"device": device, "delete_on_termination": body.delete_on_termination}
    asked = _about(caller, Action.ATTACH_VOLUME, Kind.VOLUME, volume.id, name=volume.name, **place)
    await acceptance.accept(tx, vm, asked)
    await resource_claims.claim(tx, Volume, volume, asked.action, asked.id)
    attachment = await _new(tx, Attachment, asked, volume_id=volume.id, vm_id=vm.id, **place)
    location = f"{PREFIX}/vms/{vm.id}/volumes/{volume.id}"
    return accepted(schemas.Attachment.model_validate(attachment), asked.id, Location=location)


async def detach_volume(tx: AsyncConnection, caller: Caller, vm_id: UUID, volume_id: UUID) -> Response:
    """Let a detach take a volume of the VM; one that is being detached keeps its operation."""
    vm = await lock_owned_vm(tx, caller, vm_id)
    volume = await _lock(tx, Volume, _volume(caller, volume_id), volume_id)
    mine = select(Attachment).where(Attachment.volume_id == volume_id, Attachment.vm_id == vm.id)
    attachment = await _lock(tx, Attachment, mine, volume_id)
    if attachment.status is AttachmentStatus.DETACHING:
        return going(attachment.operation_id)
    place = {"name": volume.name, "device": attachment.device}
    asked = _about(caller, Action.DETACH_VOLUME, Kind.VOLUME, volume.id, **place)
    await acceptance.accept(tx, vm, asked)
    await resource_claims.claim(tx, Volume, volume, asked.action, asked.id)
    await resource_claims.claim(tx, Attachment, attachment, asked.action, asked.id)
    return going(asked.id)


async def attach_interface(tx: AsyncConnection, caller: Caller, vm_id: UUID, body: bodies.NewInterface) -> Response:
    """Give the VM an address in a network; somebody else may take it meanwhile (see `addresses`)."""
    vm = await lock_owned_vm(tx, caller, vm_id)
    acceptance.begin(vm, Action.ATTACH_INTERFACE)
    wanted = select(Network.name, addresses.likely_free).where(Network.id == body.network_id)
    network = (await tx.execute(wanted)).one_or_none()
    if network is None:
        error = unknown_reference("network_id", body.network_id)
        raise ProblemError("unknown_reference", "There is no such network.", [error])
    name, likely = network
    address = likely or await find_address(tx, body.network_id, name)
    asked = _about(caller, Action.ATTACH_INTERFACE, Kind.INTERFACE, uuid4(), ip_address=address, network=name)
    await acceptance.accept(tx, vm, asked)
    place = {"network_id": body.network_id, "ip_address": address, "mac_address": addresses.new_mac_address()}
    interface = await _new(tx, Interface, asked, id=asked.resource_id, vm_id=vm.id, **place)
    location = f"{PREFIX}/vms/{vm.id}/interfaces/{interface.id}"
    return accepted(schemas.Interface.model_validate(interface), asked.id, Location=location)


async def detach_interface(tx: AsyncConnection, caller: Caller, vm_id: UUID, interface_id: UUID) -> Response:
    """Let a detach take an interface of the VM; one that is being detached keeps its operation."""
    vm = await lock_owned_vm(tx, caller, vm_id)
    mine = select(Interface).where(Interface.id == interface_id, Interface.vm_id == vm.id)
    interface = await _lock(tx, Interface, mine, interface_id)
    if interface.status is AttachmentStatus.DETACHING:
        return going(interface.operation_id)
    network = await tx.scalar(select(Network.name).where(Network.id == interface.network_id))
    place = {"ip_address": interface.ip_address, "network": network}
    asked = _about(caller, Action.DETACH_INTERFACE, Kind.INTERFACE, interface.id, **place)
    await acceptance.accept(tx, vm, asked)
    await resource_claims.claim(tx, Interface, interface, asked.action, asked.id)
    return going(asked.id)


def _about(caller: Caller, action: Action, kind: Kind, id: UUID, **input: Any) -> acceptance.Asked:
    return asked_by(caller, action, input, resource_type=kind, resource_id=id)


def _snapshot(vm: VM, id: UUID) -> Select[Snapshot]:
    return select(Snapshot).where(Snapshot.id == id, Snapshot.vm_id == vm.id)


def _volume(caller: Caller, id: UUID) -> Select[Volume]:
    return select(Volume).where(Volume.id == id, Volume.owner_id == caller.id)


async def _lock(tx: AsyncConnection, model: type[M], statement: Select[M], id: UUID) -> M:
    row = await queries.fetch_one(tx, statement.with_for_update())
    if row is None:
        raise NotFoundError(resource_claims.kind_of(model), id)
    return row


async def _new(tx: AsyncConnection, model: type[M], asked: acceptance.Asked, **values: Any) -> M:
    """What the operation makes, in the state that the lifecycle table says."""
    status = change_of(asked.action, resource_claims.kind_of(model)).during
    return await queries.insert_row(tx, model, status=status, operation_id=asked.id, **values)


async def _free_device(tx: AsyncConnection, vm: VM) -> str:
    taken = (await tx.scalars(select(Attachment.device).where(Attachment.vm_id == vm.id))).all()
    free = [device for device in DEVICES if device not in taken]
    if not free:
        raise NoFreeDeviceError(len(DEVICES))
    return free[0]
