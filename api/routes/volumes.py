"""Volumes and their attachments to VMs."""

from collections.abc import Awaitable
from typing import Annotated
from uuid import UUID

from fastapi import Query, Response
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.routes.resources import VOLUMES, ChangeOne, OnceOnVM, OnceOnVolume, OnceOrTrialOnVM, OnceOrTrialOnVolume
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, Process, ReadableVM
from api.web.fields import Text
from api.web.idempotency import OnceOrTrial
from api.web.label_selectors import LabelSelectors, has_labels
from api.web.lists import Order, Readable, Rows
from api.web.pages import WantedPage
from api.web.responses import respond_202, respond_204
from api.web.single import ReadOne
from api.web.sorting import Sort, orders
from api.web.waiting import Wait, until
from domain.commands import volumes
from domain.commands.acceptance import Requester
from domain.data import queries, views
from domain.data.models import Attachment, Volume
from domain.rules.errors import NotFoundError
from domain.rules.resources import VolumeStatus

routes = router("", "volumes")

_ORDERS = orders(Volume)
# NULL cannot be compared with the position of a cursor.
_PLACE = func.coalesce(Attachment.device, "").label("place")
_BY_DEVICE = Order("device", (_PLACE, Attachment.volume_id), changed=Attachment.updated_at)
_ONE_ATTACHED = "/vms/{vm_id}/volumes/{volume_id}"


@routes.post(
    "/volumes",
    status_code=202,
    response_model=answers.Volume,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("not_found", "quota_exceeded", "unknown_reference", "volume_too_small"),
)
async def create_volume(once: OnceOrTrial, body: requests.NewVolume) -> Response:
    """Create a volume. Poll it or its operation until the volume is AVAILABLE or in ERROR."""
    new = volumes.NewVolume(body.name, body.size_gb, body.image_id, body.labels, body.project_id)
    return await once(
        lambda tx, requester: respond_202(volumes.create_volume(tx, requester, new), answers.Volume, "/volumes/{id}"),
        body,
    )


@routes.get("/volumes")
async def list_volumes(  # noqa: PLR0913, PLR0917 - each is a query parameter
    caller: CurrentUser,
    page: WantedPage,
    statuses: filters.VolumeStatuses = [],  # noqa: B006 - FastAPI copies it
    name: Annotated[Text | None, Query(description="Part of the name; case is ignored.")] = None,
    labels: LabelSelectors = [],  # noqa: B006
    project_id: filters.ProjectID = None,
    sort: Sort = "-created_at",
) -> answers.VolumePage:
    """The volumes that you may read, newest first, without DELETED ones unless you filter by that status."""

    def wanted() -> Rows:
        has_status = filters.has_status(Volume.status, statuses, hidden_by_default=VolumeStatus.DELETED)
        statement = views.VOLUMES.where(has_status)
        if name:
            statement = statement.where(filters.has_name(Volume.name, name))
        return statement.where(has_labels(Volume.labels, labels)) if labels else statement

    readable = Readable(Volume.owner_id, caller.id, project_id, filters.search("d", name, labels))
    return await page.fetch_readable(wanted, _ORDERS[sort], answers.VolumePage, readable)


@routes.get(
    "/volumes/{volume_id}",
    response_model=answers.Volume,
    responses=openapi.one_resource(),
    openapi_extra=openapi.problems("too_many_waiting"),
)
async def get_volume(
    one: ReadOne,
    volume_id: UUID,
    wait: Wait = 0,
    statuses: filters.ForVolumeStatuses = [],  # noqa: B006
) -> Response:
    """One volume and its attachment; with `wait` once it rests or has a status. A DELETED volume stays readable."""
    return await one(VOLUMES, volume_id, until=until(wait, filters.words(statuses)))


@routes.patch(
    "/volumes/{volume_id}",
    response_model=answers.Volume,
    responses=openapi.headers(200, "ETag"),
    openapi_extra=openapi.problems("invalid_transition"),
)
async def change_volume(change: ChangeOne, volume_id: UUID, body: requests.VolumeChanges) -> Response:
    """Change a volume's name or labels, even while an operation holds it.

    The body is a JSON merge patch (RFC 7396): fields and labels that it leaves out stay, and a label that is null is
    removed. Its media type may also be `application/merge-patch+json`.
    """
    return await change(VOLUMES, volume_id, body.fields)


@routes.delete(
    "/volumes/{volume_id}",
    status_code=204,
    response_class=Response,
    responses=openapi.headers(204, "Operation-Location"),
    openapi_extra=openapi.problems("invalid_transition"),
)
async def delete_volume(once: OnceOnVolume, volume_id: UUID) -> Response:
    """Delete a volume that is not attached. A second delete changes nothing."""
    return await once(lambda tx, requester: respond_204(volumes.delete_volume(tx, requester, volume_id)))


@routes.post(
    "/volumes/{volume_id}/actions/extend",
    status_code=202,
    response_model=answers.Volume,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("invalid_transition", "quota_exceeded", "volume_too_small"),
)
async def extend_volume(once: OnceOrTrialOnVolume, volume_id: UUID, body: requests.Extension) -> Response:
    """Make a volume larger that is AVAILABLE or IN_USE. Its guest has to extend the file system itself."""
    return await once(
        lambda tx, requester: respond_202(
            volumes.extend_volume(tx, requester, volume_id, body.size_gb), answers.Volume
        ),
        body,
    )


@routes.post(
    "/vms/{vm_id}/volumes",
    status_code=202,
    response_model=answers.Attachment,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("invalid_transition", "quota_exceeded", "no_free_device"),
)
async def attach_volume(process: Process, once: OnceOrTrialOnVM, vm_id: UUID, body: requests.NewAttachment) -> Response:
    """Attach a volume that is AVAILABLE. `device` is the path of its device in the VM."""
    options = {
        "delete_on_termination": body.delete_on_termination,
        "chooses_device": process.settings.chooses_devices,
    }

    def attach(tx: AsyncConnection, requester: Requester) -> Awaitable[Response]:
        command = volumes.attach_volume(tx, requester, vm_id, body.volume_id, **options)
        return respond_202(command, answers.Attachment, "/vms/{vm_id}/volumes/{volume_id}")

    return await once(attach, body)


@routes.get("/vms/{vm_id}/volumes")
async def list_attached_volumes(page: WantedPage, vm: ReadableVM) -> answers.AttachmentPage:
    """The volumes attached to a VM, by device; those without one yet come first."""
    return await page.fetch(_attachments(vm.id).add_columns(_PLACE), _BY_DEVICE, answers.AttachmentPage)


@routes.get(_ONE_ATTACHED, response_model=answers.Attachment)
async def get_attached_volume(process: Process, vm: ReadableVM, volume_id: UUID) -> Attachment:
    """One attached volume."""
    async with process.autocommit.connect() as connection:
        statement = _attachments(vm.id).where(Attachment.volume_id == volume_id)
        attachment = await queries.fetch_one(connection, statement)
    if attachment is None:
        raise NotFoundError("attachment", volume_id)
    return attachment


@routes.delete(
    _ONE_ATTACHED,
    status_code=204,
    response_class=Response,
    responses=openapi.headers(204, "Operation-Location"),
    openapi_extra=openapi.problems("invalid_transition", "root_volume"),
)
async def detach_volume(once: OnceOnVM, vm_id: UUID, volume_id: UUID) -> Response:
    """Detach a volume from a VM, unless the VM boots from it. A second detach changes nothing."""
    return await once(lambda tx, requester: respond_204(volumes.detach_volume(tx, requester, vm_id, volume_id)))


def _attachments(vm_id: UUID) -> Select[Attachment]:
    return select(Attachment).where(Attachment.vm_id == vm_id)
