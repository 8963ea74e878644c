"""Virtual machines."""

from collections.abc import Awaitable
from typing import Annotated
from uuid import UUID

from fastapi import Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.routes.requested_vms import new_vm
from api.routes.resources import VMS, ChangeOne, OnceOnVM
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, Process
from api.web.fields import Text, Time
from api.web.idempotency import OnceOrTrial
from api.web.label_selectors import LabelSelectors, has_labels
from api.web.lists import Order, Readable, Rows
from api.web.models import FieldError
from api.web.pages import WantedPage
from api.web.problems import ProblemError
from api.web.responses import respond_202, respond_202_with_all, respond_204
from api.web.single import ReadOne
from api.web.sorting import Sort, orders
from api.web.waiting import Wait, until
from domain.commands import create_vm as commands
from domain.commands import vms
from domain.commands.acceptance import Requester
from domain.data import views
from domain.data.models import VM
from domain.rules.states import Status

routes = router("/vms", "vms")

_ORDERS = orders(VM)
# A VM that changes while one pages moves behind the cursor and comes again, so none is missed. Between two page numbers
# others would take its place.
_CHANGES = Order("changes", (VM.updated_at, VM.id), only_cursors=True)


_REFUSALS_OF_CREATE = (
    *("not_found", "quota_exceeded", "unknown_reference", "ambiguous_name", "flavor_too_small", "not_bootable"),
    "invalid_transition",
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
    labels: LabelSelectors = [],  # noqa: B006
    project_id: filters.ProjectID = None,
    changes_since: Annotated[
        Time | None,
        Query(
            description="Only VMs that have changed at or after this time, DELETED ones included, in the order of "
            "their changes. The next time, send the `next_changes_since` of the first page.",
            examples=["2026-11-27T19:00:00Z"],
        ),
    ] = None,
    sort: Sort = "-created_at",
) -> answers.VMPage:
    """The VMs that you may read, newest first.

    DELETED ones are left out unless you filter by that status or ask for changes.
    """
    if changes_since and "sort" in page.request.query_params:
        raise _no_sort()

    def wanted() -> Rows:
        statement = views.VMS
        if statuses or not changes_since:
            statement = statement.where(filters.has_status(VM.status, statuses, hidden_by_default=Status.DELETED))
        if name:
            statement = statement.where(filters.has_name(VM.name, name))
        if labels:
            statement = statement.where(has_labels(VM.labels, labels))
        return statement.where(VM.updated_at >= changes_since) if changes_since else statement

    order = _CHANGES if changes_since else _ORDERS[sort]
    return await page.fetch_readable(
        wanted, order, answers.VMPage, Readable(VM.owner_id, caller.id, project_id, filters.search("v", name, labels))
    )


def _no_sort() -> ProblemError:
    detail = "Changes have an order of their own. Leave out `sort` or `changes_since`."
    errors = [FieldError(code="conflicting_parameters", detail=detail, parameter="sort")]
    return ProblemError("validation_failed", detail, errors)


@routes.get(
    "/{vm_id}",
    response_model=answers.VM,
    responses=openapi.one_resource(),
    openapi_extra=openapi.problems("too_many_waiting"),
)
async def get_vm(one: ReadOne, vm_id: UUID, wait: Wait = 0, statuses: filters.ForStatuses = []) -> Response:  # noqa: B006
    """One VM; with `wait` once no operation holds it, or once it has a status. A DELETED VM stays readable."""
    return await one(VMS, vm_id, until=until(wait, filters.words(statuses)))


@routes.patch(
    "/{vm_id}",
    response_model=answers.VM,
    responses=openapi.headers(200, "ETag"),
    openapi_extra=openapi.problems("invalid_transition"),
)
async def change_vm(change: ChangeOne, vm_id: UUID, body: requests.VMChanges) -> Response:
    """Change a VM's name or labels, even while an operation holds the VM.

    The body is a JSON merge patch (RFC 7396): fields and labels that it leaves out stay, and a label that is null is
    removed. Its media type may also be `application/merge-patch+json`.
    """
    return await change(VMS, vm_id, body.fields)


@routes.delete(
    "/{vm_id}", status_code=204, response_class=Response, responses=openapi.headers(204, "Operation-Location")
)
async def delete_vm(once: OnceOnVM, vm_id: UUID) -> Response:
    """Delete a VM in any state. The delete supersedes the VM's open operations. A second delete changes nothing."""
    return await once(lambda tx, requester: respond_204(vms.delete_vm(tx, requester, vm_id)))
