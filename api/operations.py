"""The one path by which anything is asked of a VM: claim it, record the operation, answer.

The operation's row is the outbox: from there the dispatcher takes it to Temporal.
"""

from typing import Any, cast
from uuid import UUID, uuid4

from fastapi import Response
from sqlalchemy import ARRAY, Uuid, and_, any_, bindparam, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api import PREFIX, logs, schemas
from api.errors import RETRY_AFTER, ProblemError
from api.schemas import FieldError
from api.security import Caller
from domain import lifecycle, store
from domain.errors import NotFoundError
from domain.lifecycle import Action, Status
from domain.models import VM, Flavor, Image, Network, Operation

# The statements of POST /vms, the busiest write, are built once: building them costs as much as running them.
_VM_COLUMNS = ("id", "owner_id", "name", "status", "task_state", "flavor_id", "image_id", "labels", "operation_id")
_OPERATION_COLUMNS = (
    *("id", "owner_id", "actor", "action", "resource_type", "resource_id", "vm_id", "input", "previous_status"),
    *("workflow_id", "request_id"),
)
_NEW_VM = insert(VM).values({name: bindparam(f"vm_{name}") for name in _VM_COLUMNS})
_NEW_OPERATION = insert(Operation).values({name: bindparam(f"operation_{name}") for name in _OPERATION_COLUMNS})
_CREATE_VM = select(_NEW_VM.returning(VM).cte("vm")).add_cte(_NEW_OPERATION.cte("operation"))

_IMAGE, _NETWORKS = bindparam("image_id", type_=Uuid()), bindparam("network_ids", type_=ARRAY(Uuid()))
_ASKED_IMAGE = or_(Image.id == _IMAGE, and_(_IMAGE.is_(None), Image.is_default))
_ASKED_NETWORKS = or_(Network.id == any_(_NETWORKS), and_(_NETWORKS.is_(None), Network.is_default))
_REFERENCES = select(
    select(Flavor.id).where(Flavor.id == bindparam("flavor_id")).scalar_subquery().label("flavor_id"),
    select(Image.id).where(_ASKED_IMAGE).scalar_subquery().label("image_id"),
    select(func.array_agg(Network.id)).where(_ASKED_NETWORKS).scalar_subquery().label("network_ids"),
)


async def create_vm(tx: AsyncConnection, caller: Caller, body: schemas.NewVM) -> Response:
    """Record a new VM and the operation that makes it, in one statement."""
    image_id, network_ids = await _resolve(tx, body)
    vm_id, operation_id, claim = uuid4(), uuid4(), lifecycle.create()
    input = {
        "name": body.name,
        "flavor_id": str(body.flavor_id),
        "image_id": str(image_id),
        "network_ids": [str(id) for id in network_ids],
    }
    asked = _asked(caller, Action.CREATE, input, operation_id)
    operation = store.operation_row(asked, caller.id, vm_id, claim.status)
    parameters = {f"operation_{name}": value for name, value in operation.items()} | {
        "vm_id": vm_id,
        "vm_owner_id": caller.id,
        "vm_name": body.name,
        "vm_status": claim.status,
        "vm_task_state": claim.task_state,
        "vm_flavor_id": body.flavor_id,
        "vm_image_id": image_id,
        "vm_labels": body.labels,
        "vm_operation_id": operation_id,
    }
    vm = cast("VM", (await tx.execute(_CREATE_VM, parameters)).one())
    return _accepted(vm, Location=f"{PREFIX}/vms/{vm.id}")


async def submit(
    tx: AsyncConnection, caller: Caller, vm_id: UUID, action: Action, input: dict[str, Any] | None = None
) -> Response:
    """Let a new operation take the caller's VM; InvalidTransitionError where the lifecycle table refuses."""
    vm = await _lock_owned(tx, caller, vm_id)
    return _accepted(await store.accept(tx, vm, _asked(caller, action, input)))


async def resize_vm(tx: AsyncConnection, caller: Caller, vm_id: UUID, flavor_id: UUID, confirm_window: int) -> Response:
    """Let a resize take the caller's VM; it confirms itself after `confirm_window` seconds, where those are not 0."""
    vm = await _lock_owned(tx, caller, vm_id)
    # What the VM does not allow is said before what is wrong with the flavor.
    lifecycle.begin(Action.RESIZE, vm.status, vm.task_state, launched=vm.launched_at is not None)
    flavors = await store.fetch_all(tx, select(Flavor).where(Flavor.id.in_([flavor_id, vm.flavor_id])))
    names = {flavor.id: flavor.name for flavor in flavors}
    if flavor_id not in names:
        raise ProblemError("unknown_reference", "There is no such flavor.", [_unknown("flavor_id", flavor_id)])
    if flavor_id == vm.flavor_id:
        detail = f"The VM has this flavor already: {names[flavor_id]}."
        error = FieldError(code="same_flavor", detail=detail, pointer="#/flavor_id")
        raise ProblemError("same_flavor", detail, [error])
    input = {
        "flavor_id": str(flavor_id),
        "flavor": names[flavor_id],
        "previous_flavor_id": str(vm.flavor_id),
        "previous_flavor": names[vm.flavor_id],
        "confirm_window": confirm_window,
    }
    return _accepted(await store.accept(tx, vm, _asked(caller, Action.RESIZE, input)))


async def delete_vm(tx: AsyncConnection, caller: Caller, vm_id: UUID) -> Response:
    """Let a delete take the caller's VM from whatever holds it; one that is going or gone keeps its operation."""
    vm = await _lock_owned(tx, caller, vm_id)
    if vm.status not in {Status.DELETING, Status.DELETED}:
        vm = await store.accept(tx, vm, _asked(caller, Action.DELETE))
    return Response(status_code=204, headers=_followed_at(vm))


async def _lock_owned(tx: AsyncConnection, caller: Caller, vm_id: UUID) -> VM:
    vm = await store.lock_vm(tx, vm_id)
    if vm is None or vm.owner_id != caller.id:
        raise NotFoundError("VM", vm_id)
    return vm


def _asked(
    caller: Caller, action: Action, input: dict[str, Any] | None = None, operation_id: UUID | None = None
) -> store.Asked:
    return store.Asked(action, caller.username, logs.request_id.get(), input or {}, operation_id or uuid4())


async def _resolve(tx: AsyncConnection, body: schemas.NewVM) -> tuple[UUID, list[UUID]]:
    """The image and networks of a new VM, defaults filled in; ids that do not exist are errors of their fields."""
    asked = {"flavor_id": body.flavor_id, "image_id": body.image_id, "network_ids": body.network_ids}
    found = (await tx.execute(_REFERENCES, asked)).one()
    known = found.network_ids or []
    network_ids = known if body.network_ids is None else body.network_ids
    wanted = {"flavor_id": (body.flavor_id, found.flavor_id), "image_id": (body.image_id, found.image_id)}
    wanted |= {f"network_ids/{at}": (id, id in known) for at, id in enumerate(network_ids)}
    unknown = [(field, id) for field, (id, is_known) in wanted.items() if not is_known]
    if unknown:
        errors = [_unknown(field, id) for field, id in unknown]
        raise ProblemError("unknown_reference", "The body names what does not exist.", errors)
    return found.image_id, network_ids


def _unknown(field: str, id: UUID | None) -> FieldError:
    detail = f"There is no such id: {id}." if id else "There is no default; name one."
    return FieldError(code="unknown_reference", detail=detail, pointer=f"#/{field}")


def _accepted(vm: VM, **headers: str) -> Response:
    body = schemas.VM.model_validate(vm).model_dump_json()
    return Response(body, 202, {**headers, **_followed_at(vm), **RETRY_AFTER}, "application/json")


def _followed_at(vm: VM) -> dict[str, str]:
    return {"Operation-Location": f"{PREFIX}/operations/{vm.operation_id}"}
