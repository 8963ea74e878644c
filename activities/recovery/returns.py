"""What was missing in the cloud and has come back: interfaces and attachments get their rows again.

A cloud that hides a port or a volume for a minute looks as if somebody had removed it, so the row goes, and the
operation that records the repair keeps what it had.
"""

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import case, exists, func, insert, or_, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.backends.resources import Port
from activities.recovery.rows import Rows, read
from domain.data import queries
from domain.data.models import VM, Attachment, Interface, Operation, Volume
from domain.rules.resources import AttachmentStatus, Kind, VolumeStatus
from domain.rules.states import Action, Status
from domain.upkeep.findings import Difference, Drift

_IS_OF_VOLUME_GONE: Final = Operation.input["because"].astext == Drift.VOLUME_GONE
_NAMED_REPAIR: Final = select(Operation.input["seen"]).where(
    Operation.id == Volume.operation_id, Operation.action == Action.RESET_STATE, _IS_OF_VOLUME_GONE
)
# A delete that failed, or was canceled, has written its own id into the row.
_LATEST_REPAIR: Final = (
    select(case((_IS_OF_VOLUME_GONE, Operation.input["seen"])))
    .where(
        Operation.owner_id == Volume.owner_id,
        Operation.action == Action.RESET_STATE,
        Operation.resource_id == Volume.id,
    )
    .order_by(Operation.created_at.desc())
    .limit(1)
)
HOW_IT_WAS_LOST: Final = case(
    (or_(Volume.status != VolumeStatus.ERROR, Attachment.vm_id.is_not(None)), None),
    else_=func.coalesce(_NAMED_REPAIR.scalar_subquery(), _LATEST_REPAIR.scalar_subquery()),
)
"""What was seen of a volume in ERROR when it was gone, as JSON; NULL for others. For a join with attachments.

The latest repair is only looked for if the row does not name it: there may be as many repairs as volumes.
"""


async def returned_interfaces(reader: AsyncEngine, others: Collection[Port], vms: Rows) -> Sequence[Difference]:
    """Return the interfaces that idle VMs have again; `others` are those of their ports that no interface has now."""
    if not others:
        return ()
    # Had a user detached it, a later operation would say so.
    latest = select(Operation.resource_id.label("id"), Operation.action, Operation.input)
    of_vms = Operation.vm_id.in_({port.vm_id for port in others}), Operation.resource_type == Kind.INTERFACE
    order = (Operation.resource_id, Operation.created_at.desc())
    operations = await read(reader, latest.where(*of_vms).order_by(*order).ext(distinct_on(Operation.resource_id)))
    lost = {
        operation.input["seen"].get("cloud_id"): id
        for id, operation in operations.items()
        if operation.action is Action.RESET_STATE
    }
    return [
        Difference(
            Drift.INTERFACE_RECOVERED,
            Kind.INTERFACE,
            lost[port.cloud_id],
            {"vm_id": str(port.vm_id), "cloud_id": port.cloud_id},
            vms[port.vm_id].operation_id,
        )
        for port in others
        if port.cloud_id in lost
    ]


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
    had = found.seen["attachment"]
    device = had["device"]
    is_taken = exists().where(Attachment.vm_id == vm.id, Attachment.device == device)
    row = {
        "volume_id": found.id,
        "vm_id": vm.id,
        "device": None if await tx.scalar(select(is_taken)) else device,
        "status": AttachmentStatus.ATTACHED,
        "delete_on_termination": had["delete_on_termination"],
        "operation_id": operation_id,
    }
    await tx.execute(insert(Attachment).values(row))
    await queries.note_vm_changed(tx, vm.id)
