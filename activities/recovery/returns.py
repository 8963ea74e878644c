"""What was missing in the cloud and has come back: interfaces and attachments get their rows again.

A cloud that hides a port or a volume for a minute looks as if somebody had removed it, so the row goes, and the
operation that records the repair keeps what it had.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import exists, insert, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.backends.protocol import ComputeBackend
from activities.backends.resources import Port
from activities.recovery.rows import Rows, is_one_of, read, refs
from domain.data import queries
from domain.data.models import VM, Attachment, Interface, Operation
from domain.data.parameters import ResetState, parameters_of
from domain.rules.resources import AttachmentStatus
from domain.rules.states import Action, Status
from domain.upkeep.findings import Difference, Drift


async def with_returned(
    reader: AsyncEngine, backend: ComputeBackend, orphans: Sequence[Difference], vms: Rows
) -> Sequence[Difference]:
    """Return these ports of idle VMs; those whose interface was missing, and that the VM has again, are no orphans."""
    vm_of = {found.id: vms[UUID(found.seen["vm_id"])] for found in orphans}
    lost = await _lost(reader, vm_of)
    had_them = {vm.id: vm for id, vm in vm_of.items() if id in lost}
    plugged = {port.cloud_id for port in await backend.list_ports(refs(had_them))} if had_them else set()
    result = []
    for found in orphans:
        if found.id in lost and found.seen["cloud_id"] in plugged:
            seen = {name: found.seen[name] for name in ("vm_id", "cloud_id")}
            held_by = vm_of[found.id].operation_id
            result.append(Difference(Drift.INTERFACE_RECOVERED, found.kind, found.id, seen, held_by))
        else:
            result.append(found)
    return result


async def _lost(reader: AsyncEngine, vm_of: Rows) -> set[UUID]:
    """Return those of these former interfaces that were missing in the cloud; the others were detached here."""
    if not vm_of:
        return set()
    latest = select(Operation.resource_id.label("id"), Operation.action).ext(distinct_on(Operation.resource_id))
    of_vms = Operation.vm_id.in_({vm.id for vm in vm_of.values()})
    ordered = latest.order_by(Operation.resource_id, Operation.created_at.desc())
    operations = await read(reader, ordered.where(of_vms, is_one_of(Operation.resource_id, vm_of)))
    return {id for id, operation in operations.items() if operation.action is Action.RESET_STATE}


def is_idle(vm: VM) -> bool:
    """Return whether the VM is not deleted, and no operation works on it or on what is attached to it."""
    return vm.status is not Status.DELETED and vm.task_state is None and not vm.attaching


async def add_interface(tx: AsyncConnection, vm: VM, id: UUID, port: Port, operation_id: UUID) -> None:
    """Add the row of a port that a locked VM has again."""
    row = {
        "id": id,
        "vm_id": vm.id,
        "network_id": port.network_id,
        "ip_address": port.ip_address,
        "mac_address": port.mac_address,
        "cloud_id": port.cloud_id,
        "status": AttachmentStatus.ATTACHED,
        "operation_id": operation_id,
    }
    await tx.execute(insert(Interface).values(row))
    await queries.note_vm_changed(tx, vm.id)


async def add_attachment(tx: AsyncConnection, vm: VM, found: Difference, operation_id: UUID) -> None:
    """Add the row of a volume that a locked VM has again: as it was before the volume was missing."""
    lost = await queries.fetch_one(tx, select(Operation).where(Operation.id == found.held_by))
    assert lost is not None  # noqa: S101 - the volume's row has named it until now
    had = (parameters_of(lost, ResetState).seen or {}).get("attachment", {})
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
