"""The one path by which anything is asked of a VM: claim it, record the operation, answer.

The operation's row is the outbox: from there the dispatcher takes it to Temporal.
"""

from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from fastapi import Response
from sqlalchemy import ARRAY, Integer, Text, Uuid, and_, any_, bindparam, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from api import PREFIX, bodies, schemas
from api.schemas import FieldError
from api.web import logs
from api.web.problems import RETRY_AFTER, ProblemError
from api.web.security import Caller
from domain.commands import acceptance
from domain.data import addresses, queries
from domain.data.models import VM, Flavor, Image, Interface, Network, Operation
from domain.rules import lifecycle
from domain.rules.errors import NoFreeAddressError, NotFoundError, TooLateError
from domain.rules.resources import Kind
from domain.rules.states import OPEN_STATUSES, Action, Status
from domain.rules.table import TABLE

# The statements of POST /vms, the busiest write, are built once: building them costs as much as running them.
_VM_COLUMNS = ("id", "owner_id", "name", "status", "task_state", "flavor_id", "image_id", "labels", "operation_id")
_OPERATION_COLUMNS = (
    *("id", "owner_id", "actor", "action", "resource_type", "resource_id", "vm_id", "input", "previous_status"),
    *("workflow_id", "request_id"),
)
_NEW_VM = insert(VM).values({name: bindparam(f"vm_{name}") for name in _VM_COLUMNS})
_NEW_OPERATION = insert(Operation).values({name: bindparam(f"operation_{name}") for name in _OPERATION_COLUMNS})
_PLACES = ("network_id", "ip_address", "mac_address")
_NEW_INTERFACES = insert(Interface).from_select(
    [*_PLACES, "vm_id", "status", "operation_id", "created_at"],
    select(
        *(
            func.unnest(bindparam(f"interface_{name}", type_=ARRAY(Interface.__table__.c[name].type)))
            for name in _PLACES
        ),
        bindparam("vm_id", type_=Uuid()),
        bindparam("interface_status", type_=Text()),
        bindparam("operation_id", type_=Uuid()),
        # They are listed, and plugged in, in the order in which they were asked for, whatever that of the insert.
        func.now() + func.unnest(bindparam("interface_position", type_=ARRAY(Integer))) * timedelta(microseconds=1),
    ),
)
_CREATE_VM = select(_NEW_VM.returning(VM).cte("vm")).add_cte(_NEW_OPERATION.cte("operation"))
_CREATE_VM_ON_NETWORKS = _CREATE_VM.add_cte(_NEW_INTERFACES.cte("interfaces"))

_IMAGE, _NETWORKS = bindparam("image_id", type_=Uuid()), bindparam("network_ids", type_=ARRAY(Uuid()))
_ASKED_IMAGE = or_(Image.id == _IMAGE, and_(_IMAGE.is_(None), Image.is_default))
_ASKED_NETWORKS = or_(Network.id == any_(_NETWORKS), and_(_NETWORKS.is_(None), Network.is_default))
_PLACE = func.json_build_array(Network.id, Network.name, addresses.likely_free)
_REFERENCES = select(
    select(Flavor.id).where(Flavor.id == bindparam("flavor_id")).scalar_subquery().label("flavor_id"),
    select(Image.id).where(_ASKED_IMAGE).scalar_subquery().label("image_id"),
    select(func.json_agg(_PLACE)).where(_ASKED_NETWORKS).scalar_subquery().label("networks"),
)


async def create_vm(tx: AsyncConnection, caller: Caller, body: bodies.NewVM) -> Response:
    """Record a new VM, its place in each network, and the operation that makes it, in one statement."""
    image_id, network_ids, places = await _resolve(tx, body)
    vm_id, operation_id, claim = uuid4(), uuid4(), lifecycle.claimed(Action.CREATE, Status.BUILDING)
    input = {
        "name": body.name,
        "flavor_id": str(body.flavor_id),
        "image_id": str(image_id),
        "network_ids": [str(id) for id in network_ids],
    }
    asked = asked_by(caller, Action.CREATE, input, id=operation_id)
    operation = acceptance.operation_row(asked, caller.id, vm_id, claim.status)
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
    statement = _CREATE_VM
    if places:
        statement = _CREATE_VM_ON_NETWORKS
        parameters |= {
            "interface_network_id": list(places),
            "interface_ip_address": list(places.values()),
            "interface_position": [network_ids.index(id) for id in places],
            "interface_mac_address": [addresses.new_mac_address() for _ in places],
            "interface_status": lifecycle.change_of(Action.CREATE, Kind.INTERFACE).during.value,
        }
    vm = cast("VM", (await tx.execute(statement, parameters)).one())
    return accepted(schemas.VM.model_validate(vm), operation_id, Location=f"{PREFIX}/vms/{vm.id}")


async def submit(
    tx: AsyncConnection, caller: Caller, vm_id: UUID, action: Action, input: dict[str, Any] | None = None
) -> Response:
    """Let a new operation take the caller's VM; InvalidTransitionError where the lifecycle table refuses."""
    vm = await lock_owned_vm(tx, caller, vm_id)
    return accepted_vm(await acceptance.accept(tx, vm, asked_by(caller, action, input)))


async def resize_vm(tx: AsyncConnection, caller: Caller, vm_id: UUID, flavor_id: UUID, confirm_window: int) -> Response:
    """Let a resize take the caller's VM; it confirms itself after `confirm_window` seconds, where those are not 0."""
    vm = await lock_owned_vm(tx, caller, vm_id)
    acceptance.begin(vm, Action.RESIZE)  # what the VM does not allow is said before what is wrong with the flavor
    flavors = await queries.fetch_all(tx, select(Flavor).where(Flavor.id.in_([flavor_id, vm.flavor_id])))
    names = {flavor.id: flavor.name for flavor in flavors}
    if flavor_id not in names:
        raise ProblemError("unknown_reference", "There is no such flavor.", [unknown_reference("flavor_id", flavor_id)])
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
    return accepted_vm(await acceptance.accept(tx, vm, asked_by(caller, Action.RESIZE, input)))


async def delete_vm(tx: AsyncConnection, caller: Caller, vm_id: UUID) -> Response:
    """Let a delete take the caller's VM from whatever holds it; one that is going or gone keeps its operation."""
    vm = await lock_owned_vm(tx, caller, vm_id)
    if vm.status not in {Status.DELETING, Status.DELETED}:
        vm = await acceptance.accept(tx, vm, asked_by(caller, Action.DELETE))
    return going(vm.operation_id)


async def cancel(tx: AsyncConnection, caller: Caller, operation_id: UUID) -> None:
    """Ask the caller's operation to end before its next step; again changes nothing.

    TooLateError where it has ended, or has begun what cannot be undone.
    """
    mine = select(Operation).where(Operation.id == operation_id, Operation.owner_id == caller.id)
    operation = await queries.fetch_one(tx, mine.with_for_update())
    if operation is None:
        raise NotFoundError("operation", operation_id)
    if operation.status not in OPEN_STATUSES:
        raise TooLateError(f"The operation has ended: {operation.status}.")
    if operation.cancel_requested_by:
        return
    if not TABLE[operation.action].may_be_canceled(begun=operation.started_at is not None):
        what = "cannot be taken back" if TABLE[operation.action].preempts else "that has begun cannot be undone"
        raise TooLateError(f"A {operation.action.word} {what}; wait for it to end.")
    now_or_in_its_turn = func.least(Operation.deliver_after, func.now())
    request = {"cancel_requested_at": func.now(), "cancel_requested_by": caller.username}
    changed = update(Operation).where(Operation.id == operation_id)
    await tx.execute(changed.values(request | {"deliver_after": now_or_in_its_turn}))


async def lock_owned_vm(tx: AsyncConnection, caller: Caller, vm_id: UUID) -> VM:
    """The caller's VM, locked; NotFoundError where there is none, or it is another's."""
    vm = await queries.lock_vm(tx, vm_id)
    if vm is None or vm.owner_id != caller.id:
        raise NotFoundError("VM", vm_id)
    return vm


def asked_by(caller: Caller, action: Action, input: dict[str, Any] | None = None, **values: Any) -> acceptance.Asked:
    """What the caller asks in this request."""
    return acceptance.Asked(action, caller.username, logs.request_id.get(), input or {}, **values)


async def _resolve(tx: AsyncConnection, body: bodies.NewVM) -> tuple[UUID, list[UUID], dict[UUID, str]]:
    """The image and networks of a new VM, defaults filled in, and its address in each network.

    Ids that do not exist are errors of their fields; NoFreeAddressError where a network has none left.
    """
    asked = {"flavor_id": body.flavor_id, "image_id": body.image_id, "network_ids": body.network_ids}
    found = (await tx.execute(_REFERENCES, asked)).one()
    known = {UUID(id): (name, address) for id, name, address in found.networks or []}
    network_ids = list(known) if body.network_ids is None else body.network_ids
    wanted = {"flavor_id": (body.flavor_id, found.flavor_id), "image_id": (body.image_id, found.image_id)}
    wanted |= {f"network_ids/{at}": (id, id in known) for at, id in enumerate(network_ids)}
    unknown = [(field, id) for field, (id, is_known) in wanted.items() if not is_known]
    if unknown:
        errors = [unknown_reference(field, id) for field, id in unknown]
        raise ProblemError("unknown_reference", "The body names what does not exist.", errors)
    # Everybody takes addresses in the same order of networks, so that nobody waits for anybody in a circle.
    places = {id: known[id][1] or await find_address(tx, id, known[id][0]) for id in sorted(network_ids)}
    return found.image_id, network_ids, places


async def find_address(tx: AsyncConnection, network_id: UUID, name: str) -> str:
    """A free address of a network where that may be hard to find; NoFreeAddressError where there is none."""
    of_network = Network.id == network_id
    if await tx.scalar(select(addresses.free_addresses).where(of_network)):  # which is cheaper than to look for one
        address: str | None = await tx.scalar(select(addresses.surely_free).where(of_network))
        if address is not None:
            return address
    raise NoFreeAddressError(name)


def unknown_reference(field: str, id: UUID | None) -> FieldError:
    """That a field of the body names what does not exist."""
    detail = f"There is no such id: {id}." if id else "There is no default; name one."
    return FieldError(code="unknown_reference", detail=detail, pointer=f"#/{field}")


def accepted_vm(vm: VM) -> Response:
    """The answer to what takes a VM."""
    return accepted(schemas.VM.model_validate(vm), vm.operation_id)


def accepted(resource: schemas.Answer, operation_id: UUID, **headers: str) -> Response:
    """The answer to what will be done: the resource as it is now, and the operation to follow."""
    headers |= {**_followed_at(operation_id), **RETRY_AFTER}
    return Response(resource.model_dump_json(), 202, headers, "application/json")


def going(operation_id: UUID) -> Response:
    """The answer to what will be gone, and the operation to follow."""
    return Response(status_code=204, headers=_followed_at(operation_id))


def _followed_at(operation_id: UUID) -> dict[str, str]:
    return {"Operation-Location": f"{PREFIX}/operations/{operation_id}"}
