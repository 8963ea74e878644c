"""Gives interfaces and attachments their rows again after the cloud has not shown them for a while.

A port or a volume that the cloud does not show looks as if somebody had removed it, so its row is deleted. The
operation that records this keeps what the row had.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, exists, insert, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.backends.resources import Image, Port, Volume
from activities.recovery.rows import Rows, is_one_of, read
from domain.data import queries
from domain.data.models import VM, Attachment, Interface, Operation
from domain.progress import step_records
from domain.rules.resources import AttachmentStatus, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status
from domain.upkeep.findings import Difference, Drift


async def lost_attachments(
    reader: AsyncEngine, rows: Rows, volumes: Mapping[UUID, Volume]
) -> Mapping[UUID, Mapping[str, Any]]:
    """Return the attachments of volumes in ERROR that VMs have lost here and have in the cloud, by the volume's id."""
    vm_of = {
        id: volume.vm_id
        for id, volume in volumes.items()
        if rows[id].status is VolumeStatus.ERROR and rows[id].vm_id is None and volume.vm_id
    }
    # A delete of the volume that came to nothing does not matter: it is none of the VM's operations.
    latest = await _latest(reader, set(vm_of.values()), Operation.resource_id.in_(vm_of))
    return {
        id: operation.input.get("seen", {}).get("attachment", {})  # earlier versions have not kept it
        for id, operation in latest.items()
        if operation.input.get("because") == Drift.VOLUME_GONE and operation.vm_id == vm_of[id]
    }


async def lost_snapshots(reader: AsyncEngine, rows: Rows, images: Mapping[UUID, Image]) -> Collection[UUID]:
    """Return the snapshots in ERROR that are complete, and have an image in the cloud again."""
    vm_of = {id: rows[id].vm_id for id in images if rows[id].status is SnapshotStatus.ERROR}
    if not vm_of:
        return ()
    of_them = (Operation.vm_id.in_(set(vm_of.values())), Operation.resource_id.in_(vm_of))
    async with reader.connect() as connection:
        return set(await connection.scalars(queries.snapshots_without_image(*of_them)))


async def _latest(reader: AsyncEngine, vm_ids: Collection[UUID], of_resources: ColumnElement[bool]) -> Rows:
    """Return the latest operation of these VMs on each of the resources, by the resource's id."""
    if not vm_ids:
        return {}
    columns = (Operation.resource_id.label("id"), Operation.vm_id, Operation.action, Operation.input)
    query = select(*columns).where(Operation.vm_id.in_(vm_ids), of_resources)
    ordered = query.order_by(Operation.resource_id, Operation.created_at.desc())
    return await read(reader, ordered.ext(distinct_on(Operation.resource_id)))


async def returned_interfaces(reader: AsyncEngine, others: Collection[Port], vms: Rows) -> Sequence[Difference]:
    """Return the interfaces that idle VMs have again; `others` are those of their ports that no interface has now."""
    if not others:
        return ()
    vm_ids = {port.vm_id for port in others}
    # A statement of its own: PostgreSQL could join the operations with themselves, one by one.
    ids = await _once_lost(reader, vm_ids, {port.cloud_id for port in others})
    # Had a user detached it, a later operation would say so.
    latest = await _latest(reader, vm_ids, is_one_of(Operation.resource_id, ids)) if ids else {}
    lost = {
        (operation.vm_id, operation.input.get("seen", {}).get("cloud_id")): id
        for id, operation in latest.items()
        if operation.action is Action.RESET_STATE
    }
    return [
        Difference(
            Drift.INTERFACE_RECOVERED,
            Kind.INTERFACE,
            lost[port.vm_id, port.cloud_id],
            {"vm_id": str(port.vm_id), "cloud_id": port.cloud_id},
            vms[port.vm_id].operation_id,
        )
        for port in others
        if (port.vm_id, port.cloud_id) in lost
    ]


async def _once_lost(reader: AsyncEngine, vm_ids: Collection[UUID], cloud_ids: Collection[str]) -> Collection[UUID]:
    """Return the interfaces of these VMs that were once gone with one of these ports."""
    is_repair = (Operation.vm_id.in_(vm_ids), Operation.action == Action.RESET_STATE)
    had_port = Operation.input["seen"]["cloud_id"].astext.in_(cloud_ids)
    async with reader.connect() as connection:
        return set(await connection.scalars(select(Operation.resource_id).where(*is_repair, had_port)))


def is_idle(vm: VM) -> bool:
    """Return whether the VM exists and no operation works on it, nor on its volumes and interfaces."""
    return vm.status is not Status.DELETED and vm.task_state is None and not vm.attaching


async def add_interface(tx: AsyncConnection, vm: VM, id: UUID, port: Port, operation_id: UUID) -> None:
    """Add the row of a port that a locked VM has again. Others that have its addresses here lose them."""
    row = {
        "id": id,
        "vm_id": vm.id,
        "network_id": port.network_id,
        "cloud_id": port.cloud_id,
        "status": AttachmentStatus.ATTACHED,
        "operation_id": operation_id,
    }
    await tx.execute(insert(Interface).values(row))
    addresses = {"ip_address": port.ip_address, "mac_address": port.mac_address}
    await step_records.take_addresses(tx, id, addresses)
    await tx.execute(update(Interface).where(Interface.id == id).values(addresses))
    await queries.note_vm_changed(tx, vm.id)


async def add_attachment(tx: AsyncConnection, vm: VM, found: Difference, operation_id: UUID) -> None:
    """Add the row of a volume that a locked VM has again: as it was before the volume was missing."""
    had = found.seen["attachment"]
    device = had.get("device")
    is_taken = exists().where(Attachment.vm_id == vm.id, Attachment.device == device)
    row = {
        "volume_id": found.id,
        "vm_id": vm.id,
        "device": None if await tx.scalar(select(is_taken)) else device,
        "status": AttachmentStatus.ATTACHED,
        "delete_on_termination": had.get("delete_on_termination", False),
        "operation_id": operation_id,
    }
    await tx.execute(insert(Attachment).values(row))
    await queries.note_vm_changed(tx, vm.id)
