"""What the service shows of its resources: each kind is read in one statement, whatever the number of rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final
from typing import cast as cast_type
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import VM, Attachment, Flavor, Interface, Network, Operation, Snapshot, Volume
from domain.data.parameters import SHAPES
from domain.data.projects import may_read
from domain.data.queries import HAS_BEGUN, lock_vm
from domain.rules.states import OPEN_STATUSES, Action, OperationStatus, Status

Rows = Select[*tuple[Any, ...]]


def latest_resize(vm_id: Any, *columns: Any) -> Rows:
    """Select the latest resize of a VM that has moved the server: the one that VERIFY_RESIZE waits to have decided.

    A resize has moved the server if it SUCCEEDED, or if it had begun when an admin's reset of the VM cut it off.
    """
    cut_off = and_(Operation.status.in_((*OPEN_STATUSES, OperationStatus.SUPERSEDED)), HAS_BEGUN)
    has_moved = or_(Operation.status == OperationStatus.SUCCEEDED, cut_off)
    resizes = select(*columns or (Operation,)).where(Operation.vm_id == vm_id, Operation.action == Action.RESIZE)
    return resizes.where(has_moved).order_by(Operation.created_at.desc()).limit(1)


def shown_parameters(action: Action, input: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in the column `input` of an operation, without what only the service needs."""
    return {field.name: input[field.name] for field in fields(SHAPES[action]) if field.name in input}


def _object(**columns: Any) -> ColumnElement[Any]:
    parts = list[Any]()
    for name, column in columns.items():
        parts += [literal_column(f"'{name}'"), column]
    return func.json_build_object(*parts, type_=JSON)


def _list(item: ColumnElement[Any], *order: Any) -> ColumnElement[Any]:
    return func.coalesce(func.json_agg(aggregate_order_by(item, *order)), func.json_build_array(), type_=JSON)


_FLAVOR = _object(id=Flavor.id, name=Flavor.name, vcpus=Flavor.vcpus, ram_mb=Flavor.ram_mb, disk_gb=Flavor.disk_gb)
_ADDRESS = _object(
    network_id=Interface.network_id,
    network=Network.name,
    ip_address=Interface.ip_address,
    mac_address=Interface.mac_address,
)
_VOLUME = _object(volume_id=Attachment.volume_id, device=Attachment.device)
_FLAVOR_OF_VM = select(_FLAVOR).where(Flavor.id == VM.flavor_id).scalar_subquery()
_ADDRESSES_OF_VM = (
    select(_list(_ADDRESS, Interface.created_at, Interface.id))
    .join(Network, Network.id == Interface.network_id)
    .where(Interface.vm_id == VM.id)
    .scalar_subquery()
)
_VOLUMES_OF_VM = (
    select(_list(_VOLUME, Attachment.device.nulls_first(), Attachment.volume_id))
    .where(Attachment.vm_id == VM.id)
    .scalar_subquery()
)
_PREVIOUS_FLAVOR = latest_resize(VM.id, cast(Operation.input["previous_flavor_id"].astext, Uuid)).scalar_subquery()

VMS: Final[Rows] = select(
    VM,
    _FLAVOR_OF_VM.label("flavor"),
    _ADDRESSES_OF_VM.label("addresses"),
    _VOLUMES_OF_VM.label("volumes"),
    # CASE, so that PostgreSQL looks for a resize only where there is one to decide.
    case((VM.status == Status.VERIFY_RESIZE, _PREVIOUS_FLAVOR)).label("previous_flavor_id"),
)
"""VMs, each with its flavor, addresses and volumes and, while a resize waits for a decision, the flavor before it."""

VOLUMES: Final[Rows] = select(Volume, Attachment.vm_id, Attachment.device).outerjoin(
    Attachment, Attachment.volume_id == Volume.id
)
"""Volumes, each with the VM and the device of its attachment."""


_SOME_VMS: Final = VMS.where(VM.id == any_(bindparam("ids", type_=ARRAY(Uuid))))


async def shown_vms(tx: AsyncConnection, vm_ids: Iterable[UUID]) -> dict[UUID, VM]:
    """The VMs as clients see them, by id: their rows have the further columns of VMS, too."""
    rows = await tx.execute(_SOME_VMS, {"ids": list(vm_ids)})
    return {row.id: cast_type("VM", row) for row in rows}


async def shown_vm(tx: AsyncConnection, vm_id: UUID) -> VM:
    """The VM as clients see it."""
    return (await shown_vms(tx, [vm_id]))[vm_id]


@dataclass(frozen=True)
class View:
    """How resources of a kind are read: the statement, and the model with the id by which one is found."""

    kind: str
    rows: Rows
    model: Any

    @cached_property
    def one_readable(self) -> Rows:
        """The statement for the one with the `id` if the user with the `user_id` may read it; built only once."""
        is_it = self.id == bindparam("id", type_=Uuid())
        return self.rows.where(is_it, may_read(self.model.owner_id, bindparam("user_id", type_=Uuid())))

    @property
    def id(self) -> Any:
        """The column with the id."""
        return self.model.id


async def lock(tx: AsyncConnection, view: View, id: UUID) -> None:
    """Lock the resource until the transaction ends, and before it the VM that has it, if there is one."""
    # In the order of models.py: the VM comes first.
    match view.kind:
        case "volume":
            await lock_vm(tx, select(Attachment.vm_id).where(Attachment.volume_id == id).scalar_subquery())
        case "snapshot":
            await lock_vm(tx, select(Snapshot.vm_id).where(Snapshot.id == id).scalar_subquery())
    await tx.execute(select(view.id).where(view.id == id).with_for_update())


def views(temporal_url: ColumnElement[str]) -> dict[str, View]:
    """The views of what clients can follow, by table; operations have their link into the Temporal Web UI."""
    return {
        VM.__tablename__: View("vm", VMS, VM),
        Volume.__tablename__: View("volume", VOLUMES, Volume),
        Snapshot.__tablename__: View("snapshot", select(Snapshot), Snapshot),
        Operation.__tablename__: View("operation", select(Operation, temporal_url), Operation),
    }
