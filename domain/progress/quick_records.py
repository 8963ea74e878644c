"""The records of the usual case: one statement each, without a transaction around it, built once and run by the driver.

A function here writes everything or nothing. It returns None or False if the fence of `step_records` does not let the
operation pass, or if anything is unusual. The caller then calls `step_records`, in a transaction, which finds out what
is in the way and raises the error for it. So the rules are there, and this module only saves round trips.

Each statement locks the VM's row first and then the operation's, as everybody does. Each of its parts depends on the
part before, so nothing is written if the fence does not hold.
"""

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, Final, Protocol, cast
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    ScalarSelect,
    Text,
    Uuid,
    any_,
    bindparam,
    exists,
    func,
    null,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Interface, Operation
from domain.data.prepared import Prepared
from domain.progress import resource_claims
from domain.rules import lifecycle
from domain.rules.messages import OperationInput
from domain.rules.states import OPEN_STATUSES, Action, OperationStatus, Status, TaskState
from domain.rules.table import TABLE

_OPERATION: Final = "of_operation_"
"""The columns of an operation have this before their names where a row also has those of its VM."""


class ChosenPort(Protocol):
    """What the cloud has chosen for a port."""

    @property
    def cloud_id(self) -> str:
        """The cloud's id."""

    @property
    def ip_address(self) -> str | None:
        """Its address."""

    @property
    def mac_address(self) -> str:
        """Its hardware address."""


FINISHED_QUICKLY: Final = {Action.CREATE, Action.START, Action.STOP, Action.REBOOT_SOFT, Action.REBOOT_HARD}
"""The actions whose success changes nothing of the VM but its state, and so needs nothing that only a row says."""


async def enter_step(
    engine: AsyncEngine, input: OperationInput, step: TaskState, ports: Mapping[UUID, ChosenPort] | None = None
) -> tuple[VM, Operation] | None:
    """Record that the operation enters `step` for the first time; None if `step_records.enter_step` must decide.

    Also note the `ports` of the VM's interfaces, as `note_ports` does; the caller calls that if this returns None.
    """
    values = {
        **_keys(input),
        "task_states": list(lifecycle.may_enter_from(input.action, step)),
        "new_step": step,
        "new_progress": lifecycle.progress(input.action, step),
    }
    rows = await (_ENTER_WITH_PORTS if ports else _ENTER).fetch(engine, values | (_columns(ports) if ports else {}))
    if not rows or (ports and rows[0].how_many != len(ports)):
        return None
    operation = {name: getattr(rows[0], f"{_OPERATION}{name}") for name in _OPERATION_COLUMNS}
    return cast("tuple[VM, Operation]", (rows[0], SimpleNamespace(**operation)))


async def note_server(engine: AsyncEngine, input: OperationInput, cloud_id: str) -> bool:
    """Write the cloud's id of the server that the operation builds. Return False if `step_records` must decide."""
    return bool(await _NOTE_SERVER.fetch(engine, {**_keys(input), "new_cloud_id": cloud_id}))


async def finish(engine: AsyncEngine, input: OperationInput, zone: str | None = None) -> bool:
    """Record the success of an operation on a VM, and the zone that the cloud has chosen for it.

    Return False if `step_records.finish` must decide.
    """
    if input.action not in FINISHED_QUICKLY or input.previous_status is None:
        return False
    return bool(await _finish(input.action, input.previous_status).fetch(engine, {**_keys(input), "zone": zone}))


def _keys(input: OperationInput) -> dict[str, Any]:
    return {"held_vm": input.vm_id, "its_operation": input.operation_id, "its_epoch": input.epoch}


def _held(condition: ColumnElement[bool]) -> CTE:
    """Lock the VM if the operation holds it and it is in the right task state."""
    is_held = (VM.id == bindparam("held_vm"), VM.operation_id == bindparam("its_operation"), condition)
    return select(VM.id).where(*is_held).with_for_update().cte("held")


def _update_operation(held: CTE, **values: Any) -> Any:
    is_current = (Operation.id == bindparam("its_operation"), Operation.epoch == bindparam("its_epoch"))
    is_open = (Operation.status.in_(OPEN_STATUSES), exists(select(held.c.id)))
    return update(Operation).where(*is_current, *is_open).values(next_retry_at=null(), last_error=null(), **values)


def _is_current() -> ColumnElement[bool]:
    is_it = (Operation.id == bindparam("its_operation"), Operation.epoch == bindparam("its_epoch"))
    return exists().where(*is_it, Operation.status.in_(OPEN_STATUSES))


def _enter(*, with_ports: bool = False) -> Prepared:
    held = _held(VM.task_state == any_(bindparam("task_states", type_=ARRAY(Text))))
    begun = func.coalesce(Operation.started_at, func.now())
    step = bindparam("new_step", type_=Operation.__table__.c.step.type)
    progress = bindparam("new_progress", type_=Operation.__table__.c.progress.type)
    running = {"status": OperationStatus.RUNNING, "started_at": begun, "attempt": 1, "step": step, "progress": progress}
    entering = _update_operation(held, **running).where(Operation.cancel_requested_by.is_(None))
    entered = entering.returning(*Operation.__table__.columns).cte("entered")
    operation = [column.label(f"{_OPERATION}{column.name}") for column in entered.c]
    statement = update(VM).where(VM.id == entered.c.vm_id).values(task_state=step)
    if not with_ports:
        return Prepared(statement.returning(*VM.__table__.columns, *operation))
    noted = _note_into_interfaces(select(entered.c.vm_id).scalar_subquery()).cte("noted")
    how_many = select(func.count(noted.c.id)).scalar_subquery().label("how_many")
    return Prepared(statement.returning(*VM.__table__.columns, *operation, how_many))


@cache
def _finish(action: Action, previous: Status) -> Prepared:
    last = TABLE[action].steps[-1]
    held = _held(VM.task_state == last)
    success = {"status": OperationStatus.SUCCEEDED, "progress": 100, "finished_at": func.now()}
    ended = _update_operation(held, **success).returning(Operation.id).cte("ended")
    has_ended = exists(select(ended.c.id))
    keys: tuple[Any, Any] = (bindparam("its_operation"), bindparam("held_vm"))
    settled = [
        statement.where(has_ended).cte(f"change_{number}")
        for number, statement in enumerate(resource_claims.success(action, *keys))
    ]
    values: dict[str, Any] = {
        "status": lifecycle.finish(action, last, previous),
        "task_state": None,
        "fault": None,
        "availability_zone": func.coalesce(VM.availability_zone, bindparam("zone", type_=Text)),
    }
    if action is Action.CREATE:
        values["launched_at"] = func.now()
    statement = update(VM).where(VM.id == bindparam("held_vm"), has_ended).values(values).returning(VM.id)
    return Prepared(statement.add_cte(*settled) if settled else statement)


async def note_ports(engine: AsyncEngine, input: OperationInput, ports: Mapping[UUID, ChosenPort]) -> bool:
    """Write what the cloud has chosen for the interfaces that the operation creates.

    Return False if `step_records.note_created` must decide.
    """
    written = await _NOTE_PORTS.fetch(engine, {**_keys(input), **_columns(ports)})
    return len(written) == len(ports)


def _columns(ports: Mapping[UUID, ChosenPort]) -> dict[str, Any]:
    chosen = [(id, port.cloud_id, port.ip_address, port.mac_address) for id, port in sorted(ports.items())]
    names = ("ids", "cloud_ids", "ip_addresses", "mac_addresses")
    return {name: list(column) for name, column in zip(names, zip(*chosen, strict=True), strict=True)}


def _note_ports() -> Prepared:
    # As `queries.note_vm_changed` does. The VM's row is locked before those of the interfaces.
    noting = update(VM).where(VM.id == bindparam("held_vm")).values(attaching=VM.attaching)
    changed = noting.returning(VM.id).cte("changed_vm")
    return Prepared(_note_into_interfaces(select(changed.c.id).scalar_subquery()).where(_is_current()))


def _note_server() -> Prepared:
    is_held = (VM.id == bindparam("held_vm"), VM.operation_id == bindparam("its_operation"))
    noting = update(VM).where(*is_held, _is_current()).values(cloud_id=bindparam("new_cloud_id", type_=Text))
    return Prepared(noting.returning(VM.id))


def _note_into_interfaces(vm_id: ScalarSelect[UUID]) -> Any:
    arrays = [bindparam("ids", type_=ARRAY(Uuid))]
    arrays += [bindparam(name, type_=ARRAY(Text)) for name in ("cloud_ids", "ip_addresses", "mac_addresses")]
    chosen = func.unnest(*arrays).table_valued("id", "cloud_id", "ip_address", "mac_address").render_derived()
    is_held = (Interface.operation_id == bindparam("its_operation"), Interface.vm_id == vm_id)
    values = {name: chosen.c[name] for name in ("cloud_id", "ip_address", "mac_address")}
    return update(Interface).where(Interface.id == chosen.c.id, *is_held).values(values).returning(Interface.id)


_ENTER: Final = _enter()
_ENTER_WITH_PORTS: Final = _enter(with_ports=True)
_NOTE_PORTS: Final = _note_ports()
_NOTE_SERVER: Final = _note_server()
_OPERATION_COLUMNS: Final = tuple(Operation.__table__.columns.keys())
