"""Decisions on a resize: a person confirms or reverts it, or the end of its confirm window confirms it.

A resize that succeeded leaves its VM in VERIFY_RESIZE and its workflow open. A decision is an operation of its own. It
claims the VM like any other operation, so only one of concurrent confirms, reverts and window ends is accepted.
Its row holds the id of the *resize's* workflow: the dispatcher signals that workflow instead of starting one (see
api/background/decision_delivery.py for the delivery and workflows/resize.py for what the workflow does with it).
"""

import random
from collections.abc import Sequence
from typing import Final, cast
from uuid import UUID, uuid4, uuid5

from sqlalchemy import Interval, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands import acceptance
from domain.commands.acceptance import Accepted, NewOperation, Requester
from domain.data import views
from domain.data.models import VM, Flavor, Operation
from domain.data.parameters import ConfirmResize, Resize, RevertResize, parameters_of
from domain.data.queries import fetch_all, from_now, get_operation, lock_vm, update_vm
from domain.rules.states import OPEN_STATUSES, RESIZE_DECISIONS, Action, OperationStatus, Status

CONFIRM_WINDOW_ACTOR: Final = "@confirm-window"  # no username begins with @
_CHOICE: Final = 10  # overdue resizes that are read for each that is confirmed
_CONFIRM_NAMESPACE: Final = UUID("0b9b7c1e-5a53-4c8b-8a44-2f6d1e7c9a10")


async def decide_resize(tx: AsyncConnection, requester: Requester, vm_id: UUID, action: Action) -> Accepted[VM]:
    """Confirm or revert the resize of the requester's VM; InvalidTransitionError unless it is in VERIFY_RESIZE."""
    vm = await acceptance.lock_changeable_vm(tx, requester, vm_id)
    name, request_id, user_id = requester.username, requester.request_id, requester.user_id
    vm = await _accept_decision(tx, vm, action, name, request_id, requested_by=user_id)
    return Accepted(await views.shown_vm(tx, vm.id), vm.operation_id)


async def confirm_by_window(
    tx: AsyncConnection, vm_id: UUID, resize_id: UUID, deliver_in: float = 0.0
) -> Operation | None:
    """Confirm a resize whose window has ended; return the confirm, or None if it is no longer open or there is none.

    The waiting workflow and workflow recovery may both call this, and each may repeat its call. The id of the confirm
    is derived from the id of the resize, so every call returns the same operation while that operation is open.
    """
    confirm_id = uuid5(_CONFIRM_NAMESPACE, str(resize_id))
    vm = await lock_vm(tx, vm_id)
    if vm is not None and vm.operation_id == resize_id and vm.status is Status.VERIFY_RESIZE:
        # It waits for the turn of the user who has asked for the resize.
        asked = await get_operation(tx, resize_id)
        await _accept_decision(
            tx,
            vm,
            Action.CONFIRM_RESIZE,
            CONFIRM_WINDOW_ACTOR,
            asked.request_id,
            id=confirm_id,
            requested_by=asked.requested_by,
            deliver_in=deliver_in,
        )
    elif vm is None or vm.operation_id != confirm_id:
        return None
    confirm = await get_operation(tx, confirm_id)
    return confirm if confirm.status in OPEN_STATUSES else None


async def record_resize(tx: AsyncConnection, vm: VM, flavor_id: UUID, actor: str, request_id: str) -> VM:
    """Record a resize or a migration of a locked VM that somebody made in the cloud, and return the VM.

    No workflow waits for its decision, so a confirm or revert of it runs in a workflow of its own.
    """
    query = select(Flavor.id, Flavor.name).where(Flavor.id.in_((flavor_id, vm.flavor_id)))
    names = {row.id: row.name for row in await tx.execute(query)}
    resize = Resize(flavor_id, names[flavor_id], vm.flavor_id, names[vm.flavor_id])
    new = NewOperation(Action.RESIZE, actor, request_id, resize)
    await acceptance.record_done(tx, new, vm.owner_id, vm.id, vm.status)
    state = {"status": Status.VERIFY_RESIZE, "flavor_id": flavor_id, "operation_id": new.id}
    return await update_vm(tx, vm.id, state)


async def overdue_resizes(tx: AsyncConnection, limit: int, overdue_by: float) -> Sequence[VM]:
    """Up to `limit` VMs whose resize should have confirmed itself at least `overdue_by` seconds ago."""
    # Read without locks: confirm_by_window checks each VM again under its lock. Chosen at random among the next ones
    # from a random time on, so that VMs whose confirm fails again and again do not keep the others out. A random choice
    # among all would read all that are overdue.
    end = from_now(-overdue_by)
    oldest, newest = func.min(VM.confirm_by), func.max(VM.confirm_by)
    into = (newest - oldest).op("*", precedence=8, return_type=Interval())(random.random())  # noqa: S311 - no secret
    start = select(oldest + into).where(VM.confirm_by < end).scalar_subquery()
    overdue = select(VM.id).where(VM.confirm_by < end, VM.task_state.is_(None)).order_by(VM.confirm_by)
    later = overdue.where(VM.confirm_by >= start).limit(limit * _CHOICE)
    earlier = overdue.where(VM.confirm_by < start).limit(limit * _CHOICE)
    near = union_all(later, earlier).subquery()
    chosen = select(VM).where(VM.id.in_(select(near.c.id))).order_by(func.random()).limit(limit)
    return await fetch_all(tx, chosen)


async def latest_resize(tx: AsyncConnection, vm_id: UUID) -> Operation | None:
    """The VM's latest resize that has moved the server: the one that a VM in VERIFY_RESIZE waits to have decided."""
    return cast("Operation | None", (await tx.execute(views.latest_resize(vm_id))).one_or_none())


async def undecided_resize(tx: AsyncConnection, vm_id: UUID) -> Operation | None:
    """The VM's latest resize, if no confirm or revert of it has succeeded and both flavors are there; in any status.

    Only for a reset to VERIFY_RESIZE: in that status the latest resize is undecided by definition, and no comparison
    of times, which a clock that steps back would mislead, has to tell.
    """
    resize = await latest_resize(tx, vm_id)
    if resize is None:
        return None
    decisions = (Operation.vm_id == vm_id, Operation.action.in_(RESIZE_DECISIONS))
    later = (Operation.status == OperationStatus.SUCCEEDED, Operation.created_at > resize.created_at)
    is_decided = await tx.scalar(select(Operation.id).where(*decisions, *later).limit(1))
    if is_decided:
        return None
    # Only a VM in VERIFY_RESIZE keeps the flavors that the cloud no longer offers.
    parameters = parameters_of(resize, Resize)
    both = {parameters.flavor_id, parameters.previous_flavor_id}
    there = await tx.scalar(select(func.count()).select_from(Flavor).where(Flavor.id.in_(both)))
    return resize if there == len(both) else None


async def can_be_decided(tx: AsyncConnection, vm_id: UUID, resize_id: UUID) -> bool:
    """Whether the resize can still be confirmed or reverted."""
    status = await tx.scalar(select(VM.status).where(VM.id == vm_id))
    latest = await latest_resize(tx, vm_id)
    return status is Status.VERIFY_RESIZE and latest is not None and latest.id == resize_id


async def _accept_decision(  # noqa: PLR0913 - a decision comes from a person or from the window's end
    tx: AsyncConnection,
    vm: VM,
    action: Action,
    actor: str,
    request_id: str,
    *,
    requested_by: UUID | None,
    id: UUID | None = None,
    deliver_in: float = 0.0,
) -> VM:
    await acceptance.check_allowed(tx, vm, action)
    resize = await latest_resize(tx, vm.id)
    assert resize is not None  # noqa: S101 - only a resize leaves a VM in VERIFY_RESIZE
    flavors = parameters_of(resize, Resize)
    parameters = (
        ConfirmResize(flavors.flavor_id, flavors.flavor)
        if action is Action.CONFIRM_RESIZE
        else RevertResize(flavors.previous_flavor_id, flavors.previous_flavor)
    )
    new = NewOperation(action, actor, request_id, parameters, id=id or uuid4(), requested_by=requested_by)
    return await acceptance.accept(tx, vm, new, deliver_in=deliver_in, resize=resize)
