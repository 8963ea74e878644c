"""Virtual machines."""

from collections.abc import Awaitable
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.routes.requested_vms import new_vm
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, OwnedVM, Process, fetch_owned_vm
from api.web.fields import Text
from api.web.idempotency import OnceOrTrial, OncePerKey
from api.web.pages import Order, WantedPage
from api.web.responses import respond_202, respond_202_with_all, respond_204
from domain.commands import create_vm as commands
from domain.commands import vms
from domain.commands.acceptance import Requester
from domain.data.models import VM
from domain.rules.errors import InvalidTransitionError
from domain.rules.states import Status

routes = router("/vms", "vms")

Sort = Literal["created_at", "-created_at", "updated_at", "-updated_at", "name", "-name", "status", "-status"]
_ORDERS: dict[str, Order] = {
    f"{sign}{column.key}": Order(f"{sign}{column.key}", (column, VM.id), descending=bool(sign))
    for column in (VM.created_at, VM.updated_at, VM.name, VM.status)
    for sign in ("", "-")
}


_REFUSALS_OF_CREATE = (
    *("unknown_reference", "ambiguous_name", "flavor_too_small", "not_bootable", "invalid_transition"),
    *("no_free_address", "invalid_address", "address_in_use", "user_data_too_large"),
)


@routes.post(
    "",
    status_code=202,
    response_model=answers.VM,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems(*_REFUSALS_OF_CREATE),
)
async def create_vm(process: Process, once: OnceOrTrial, body: requests.NewVM) -> Response:
    """Create a VM. Poll it or its operation until the VM is ACTIVE or in ERROR."""
    new = new_vm(body, process.settings)

    def create(tx: AsyncConnection, requester: Requester) -> Awaitable[Response]:
        return respond_202(commands.create_vm(tx, requester, new), answers.VM, "/vms/{id}")

    return await once(create, body, one_statement=not new.all_volumes)


@routes.post(
    "/batch",
    status_code=202,
    response_model=answers.VMs,
    responses=openapi.headers(202, "Retry-After"),
    openapi_extra=openapi.problems(*_REFUSALS_OF_CREATE),
)
async def create_vms(process: Process, once: OnceOrTrial, body: requests.NewVMs) -> Response:
    """Create up to 100 VMs, all or none. Each has its own operation, which may fail later by itself.

    `items` has the VMs in the order of the request. An error points at its place in the body, such as
    `#/vms/3/flavor_id`.
    """
    wanted = [new_vm(each, process.settings, f"vms/{index}/") for index, each in enumerate(body.vms)]

    async def create(tx: AsyncConnection, requester: Requester) -> Response:
        created = await commands.create_vms(tx, requester, wanted)
        return respond_202_with_all(created, answers.VMs)

    return await once(create, body)


@routes.get("")
async def list_vms(  # noqa: PLR0913, PLR0917 - each is a query parameter
    caller: CurrentUser,
    page: WantedPage,
    statuses: filters.Statuses = [],  # noqa: B006 - FastAPI copies it
    name: Annotated[Text | None, Query(description="Part of the name; case is ignored.")] = None,
    labels: filters.LabelFilter = [],  # noqa: B006
    sort: Annotated[
        Sort, Query(description="`-` sorts in descending order. VMs with equal values are sorted by id.")
    ] = "-created_at",
) -> answers.VMPage:
    """Your VMs, newest first, without DELETED ones unless you filter by that status."""
    has_status = filters.has_status(VM.status, statuses, hidden_by_default=Status.DELETED)
    statement = select(VM).where(VM.owner_id == caller.id, has_status)
    if name:
        statement = statement.where(filters.has_name(VM.name, name))
    if labels:
        statement = statement.where(filters.has_labels(labels))
    return await page.fetch(statement, _ORDERS[sort], answers.VMPage)


@routes.get("/{vm_id}", response_model=answers.VM)
async def get_vm(vm: OwnedVM) -> VM:
    """One VM. A DELETED VM stays readable."""
    return vm


@routes.patch("/{vm_id}", response_model=answers.VM, openapi_extra=openapi.problems("invalid_transition"))
async def change_vm(caller: CurrentUser, process: Process, vm_id: UUID, body: requests.VMChanges) -> VM:
    """Change a VM's name or labels, even while an operation holds it."""
    changes = body.model_dump(exclude_unset=True)
    if not changes:
        return await fetch_owned_vm(process, caller, vm_id)
    async with process.autocommit.connect() as connection:
        changed = await vms.change_vm(connection, caller.id, vm_id, changes)
    if changed is None:
        vm = await fetch_owned_vm(process, caller, vm_id)
        raise InvalidTransitionError("change", vm.status, vm.task_state, [])
    return changed


@routes.delete(
    "/{vm_id}", status_code=204, response_class=Response, responses=openapi.headers(204, "Operation-Location")
)
async def delete_vm(once: OncePerKey, vm_id: UUID) -> Response:
    """Delete a VM in any state. The delete supersedes the VM's open operations. A second delete changes nothing."""
    return await once(lambda tx, requester: respond_204(vms.delete_vm(tx, requester, vm_id)))
