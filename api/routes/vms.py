"""Virtual machines."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query, Response
from sqlalchemy import select, update

from api import bodies, operations, schemas
from api.routes import router
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, OwnedVM, Process, fetch_owned_vm
from api.web.idempotency import OncePerKey
from api.web.pages import Order, WantedPage
from domain.data import queries
from domain.data.models import VM
from domain.rules.errors import InvalidTransitionError
from domain.rules.states import Status

routes = router("/vms", "VMs")

Sort = Literal["created_at", "-created_at", "updated_at", "-updated_at", "name", "-name", "status", "-status"]
_ORDERS: dict[str, Order] = {
    f"{sign}{column.key}": Order(f"{sign}{column.key}", (column, VM.id), descending=bool(sign))
    for column in (VM.created_at, VM.updated_at, VM.name, VM.status)
    for sign in ("", "-")
}


@routes.post(
    "",
    status_code=202,
    response_model=schemas.VM,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("unknown_reference", "no_free_address"),
)
async def create_vm(caller: CurrentUser, once: OncePerKey, body: bodies.NewVM) -> Response:
    """Have a VM made; poll it, or its operation, until it is ACTIVE or in ERROR."""
    return await once(lambda tx: operations.create_vm(tx, caller, body), body, one_statement=True)


@routes.get("")
async def list_vms(  # noqa: PLR0913, PLR0917 - each is a query parameter
    caller: CurrentUser,
    page: WantedPage,
    statuses: filters.Statuses = [],  # noqa: B006 - FastAPI copies it
    name: Annotated[bodies.Text | None, Query(description="A part of the name, upper or lower case.")] = None,
    labels: filters.LabelFilter = [],  # noqa: B006
    sort: Annotated[Sort, Query(description="`-` sorts downwards; equals are sorted by id.")] = "-created_at",
) -> schemas.VMPage:
    """Your VMs, newest first; deleted ones only when asked for by status."""
    wanted = filters.has_status(VM.status, statuses, without=Status.DELETED)
    statement = select(VM).where(VM.owner_id == caller.id, wanted)
    if name:
        statement = statement.where(VM.name.icontains(name, autoescape=True))
    if labels:
        statement = statement.where(filters.has_labels(labels))
    return await page.fetch(statement, _ORDERS[sort], schemas.VMPage)


@routes.get("/{vm_id}", response_model=schemas.VM)
async def get_vm(vm: OwnedVM) -> VM:
    """One VM; a deleted one stays readable here."""
    return vm


@routes.patch("/{vm_id}", response_model=schemas.VM, openapi_extra=openapi.problems("invalid_transition"))
async def change_vm(caller: CurrentUser, process: Process, vm_id: UUID, body: bodies.VMChanges) -> VM:
    """Change a VM's name or labels, whatever else is done to it."""
    changes = body.model_dump(exclude_unset=True)
    if not changes:
        return await fetch_owned_vm(process, caller, vm_id)
    mine = (VM.id == vm_id, VM.owner_id == caller.id, VM.status != Status.DELETED)
    async with process.autocommit.connect() as connection:
        changed = await queries.fetch_one(connection, update(VM).where(*mine).values(changes).returning(VM))
    if changed is None:
        vm = await fetch_owned_vm(process, caller, vm_id)
        raise InvalidTransitionError("change", vm.status, vm.task_state, [])
    return changed


@routes.delete(
    "/{vm_id}", status_code=204, response_class=Response, responses=openapi.headers(204, "Operation-Location")
)
async def delete_vm(caller: CurrentUser, once: OncePerKey, vm_id: UUID) -> Response:
    """Delete a VM in any state, taking it from whatever is being done to it; doing so twice changes nothing."""
    return await once(lambda tx: operations.delete_vm(tx, caller, vm_id))
