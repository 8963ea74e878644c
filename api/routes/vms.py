"""Virtual machines."""

from collections.abc import Awaitable
from dataclasses import replace
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.routes.resources import VMS, OnceOnVM
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, Process, fetch_owned_vm
from api.web.fields import Text
from api.web.idempotency import OncePerKey
from api.web.pages import Order, WantedPage
from api.web.responses import respond_202, respond_204
from api.web.single import ReadOne
from api.web.waiting import Wait, until
from domain.commands import create_vm as commands
from domain.commands import vms
from domain.commands.acceptance import Requester
from domain.commands.boot_sources import BootVolume
from domain.commands.create_vm import NewVM
from domain.commands.placement import Placement
from domain.commands.volumes import ROOT_DEVICE
from domain.data import views
from domain.data.models import VM
from domain.rules.errors import InvalidTransitionError
from domain.rules.states import Status
from domain.settings import Settings

routes = router("/vms", "vms")

Sort = Literal["created_at", "-created_at", "updated_at", "-updated_at", "name", "-name", "status", "-status"]
_ORDERS: dict[str, Order] = {
    f"{sign}{column.key}": Order(f"{sign}{column.key}", (column, VM.id), descending=bool(sign))
    for column in (VM.created_at, VM.updated_at, VM.name, VM.status)
    for sign in ("", "-")
}


@routes.post(
    "",
    status_code=202,
    response_model=answers.VM,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems(
        *("unknown_reference", "flavor_too_small", "not_bootable", "invalid_transition", "no_free_address"),
        *("invalid_address", "address_in_use", "user_data_too_large"),
    ),
)
async def create_vm(process: Process, once: OncePerKey, body: requests.NewVM) -> Response:
    """Create a VM. Poll it or its operation until the VM is ACTIVE or in ERROR."""
    new = _new_vm(body, process.settings)

    def create(tx: AsyncConnection, requester: Requester) -> Awaitable[Response]:
        return respond_202(commands.create_vm(tx, requester, new), answers.VM, "/vms/{id}")

    return await once(create, body, one_statement=new.boot_volume is None)


def _boot_volume(wanted: requests.NewAttachment | None, settings: Settings) -> BootVolume | None:
    if wanted is None:
        return None
    device = ROOT_DEVICE if settings.chooses_devices else None
    return BootVolume(wanted.volume_id, wanted.delete_on_termination, device)


def _new_vm(body: requests.NewVM, settings: Settings) -> NewVM:
    """What the body asks for."""
    new = NewVM(
        body.name,
        body.flavor_id,
        body.image_id,
        body.network_ids,
        body.labels,
        ssh_keys=body.ssh_keys,
        user_data=body.user_data,
        placement=Placement(body.availability_zone, body.security_groups),
        snapshot_id=body.snapshot_id,
        boot_volume=_boot_volume(body.boot_volume, settings),
    )
    if body.interfaces is None:
        return new
    return replace(
        new,
        network_ids=[interface.network_id for interface in body.interfaces],
        network_field="interfaces/{}/network_id",
        ip_addresses={each.network_id: each.ip_address for each in body.interfaces if each.ip_address},
    )


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
    statement = views.VMS.where(VM.owner_id == caller.id, has_status)
    if name:
        statement = statement.where(filters.has_name(VM.name, name))
    if labels:
        statement = statement.where(filters.has_labels(labels))
    return await page.fetch(statement, _ORDERS[sort], answers.VMPage)


@routes.get(
    "/{vm_id}",
    response_model=answers.VM,
    responses=openapi.one_resource(),
    openapi_extra=openapi.problems("too_many_waiting"),
)
async def get_vm(one: ReadOne, vm_id: UUID, wait: Wait = 0, statuses: filters.ForStatuses = []) -> Response:  # noqa: B006
    """One VM; with `wait` once no operation holds it, or once it has a status. A DELETED VM stays readable."""
    return await one(VMS, vm_id, until=until(wait, filters.words(statuses)))


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
async def delete_vm(once: OnceOnVM, vm_id: UUID) -> Response:
    """Delete a VM in any state. The delete supersedes the VM's open operations. A second delete changes nothing."""
    return await once(lambda tx, requester: respond_204(vms.delete_vm(tx, requester, vm_id)))
