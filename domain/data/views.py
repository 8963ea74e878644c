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
    FromClause,
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
from domain.data.prepared import Prepared
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
_VOLUME = _object(volume_id=Attachment.volume_id, device=Attachment.device)


def shown(vms: FromClause, interfaces: FromClause) -> Rows:
    """Select VMs as clients see them, from the tables or from something with their columns."""
    vm, interface = vms.c, interfaces.c
    address = _object(
        network_id=interface.network_id,
        network=Network.name,
        ip_address=interface.ip_address,
        mac_address=interface.mac_address,
    )
    flavor = select(_FLAVOR).where(Flavor.id == vm.flavor_id)
    addresses = (
        select(_list(address, interface.created_at, interface.id))
        .select_from(interfaces.join(Network.__table__, Network.id == interface.network_id))
        .where(interface.vm_id == vm.id)
    )
    volumes = select(_list(_VOLUME, Attachment.device.nulls_first(), Attachment.volume_id)).where(
        Attachment.vm_id == vm.id
    )
    previous_flavor = latest_resize(vm.id, cast(Operation.input["previous_flavor_id"].astext, Uuid))
    return select(
        vms,
        flavor.scalar_subquery().label("flavor"),
        addresses.scalar_subquery().label("addresses"),
        volumes.scalar_subquery().label("volumes"),
        # CASE, so that PostgreSQL looks for a resize only where there is one to decide.
        case((vm.status == Status.VERIFY_RESIZE, previous_flavor.scalar_subquery())).label("previous_flavor_id"),
    )


VMS: Final = shown(VM.__table__, Interface.__table__)
"""VMs, each with its flavor, addresses and volumes and, while a resize waits for a decision, the flavor before it."""

VOLUMES: Final[Rows] = select(Volume, Attachment.vm_id, Attachment.device).outerjoin(
    Attachment, Attachment.volume_id == Volume.id
)
"""Volumes, each with the VM and the device of its attachment."""


_SOME_VMS: Final = Prepared(VMS.where(VM.id == any_(bindparam("ids", type_=ARRAY(Uuid)))))


async def shown_vms(tx: AsyncConnection, vm_ids: Iterable[UUID]) -> dict[UUID, VM]:
    """The VMs as clients see them, by id: their rows have the further columns of VMS, too."""
    rows = await _SOME_VMS.fetch_in(tx, {"ids": list(vm_ids)})
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
        return self.rows.where(is_it, may_read(self.model.owner_id))

    @cached_property
    def prepared(self) -> Prepared:
        """The same, for the driver."""
        return Prepared(self.one_readable)

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
