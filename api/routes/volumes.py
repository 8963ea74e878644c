"""Volumes, and their attachments to VMs."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Response
from sqlalchemy import Select, select

from api import bodies, resources, schemas
from api.routes import router
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, OwnedVM, Process
from api.web.idempotency import OncePerKey
from api.web.pages import Order, WantedPage
from domain.data import queries
from domain.data.models import Attachment, Volume
from domain.rules.errors import NotFoundError
from domain.rules.resources import VolumeStatus

routes = router("", "Volumes")

_NEWEST_FIRST = Order("-created_at", (Volume.created_at, Volume.id), descending=True)
_BY_DEVICE = Order("device", (Attachment.device, Attachment.volume_id))
_ONE_ATTACHED = "/vms/{vm_id}/volumes/{volume_id}"


@routes.post(
    "/volumes",
    status_code=202,
    response_model=schemas.Volume,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
)
async def create_volume(caller: CurrentUser, once: OncePerKey, body: bodies.NewVolume) -> Response:
    """Have a volume made; poll it, or its operation, until it is AVAILABLE or in ERROR."""
    return await once(lambda tx: resources.create_volume(tx, caller, body), body)


@routes.get("/volumes")
async def list_volumes(
    caller: CurrentUser,
    page: WantedPage,
    statuses: filters.VolumeStatuses = [],  # noqa: B006 - FastAPI copies it
    name: Annotated[bodies.Text | None, Query(description="A part of the name, upper or lower case.")] = None,
) -> schemas.VolumePage:
    """Your volumes, newest first; deleted ones only when asked for by status."""
    wanted = filters.has_status(Volume.status, statuses, without=VolumeStatus.DELETED)
    statement = _volumes(caller.id).where(wanted)
    if name:
        statement = statement.where(Volume.name.icontains(name, autoescape=True))
    return await page.fetch(statement, _NEWEST_FIRST, schemas.VolumePage)


@routes.get("/volumes/{volume_id}", response_model=schemas.Volume)
async def get_volume(caller: CurrentUser, process: Process, volume_id: UUID) -> Any:
    """One volume, and where it is attached; a deleted one stays readable here."""
    async with process.autocommit.connect() as connection:
        volume = (await connection.execute(_volumes(caller.id).where(Volume.id == volume_id))).one_or_none()
    if volume is None:
        raise NotFoundError("volume", volume_id)
    return volume


@routes.delete(
    "/volumes/{volume_id}",
    status_code=204,
    response_class=Response,
    responses=openapi.headers(204, "Operation-Location"),
    openapi_extra=openapi.problems("invalid_transition"),
)
async def delete_volume(caller: CurrentUser, once: OncePerKey, volume_id: UUID) -> Response:
    """Delete a volume that is not attached; doing so twice changes nothing."""
    return await once(lambda tx: resources.delete_volume(tx, caller, volume_id))


@routes.post(
    "/vms/{vm_id}/volumes",
    status_code=202,
    response_model=schemas.Attachment,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("invalid_transition", "no_free_device"),
)
async def attach_volume(caller: CurrentUser, once: OncePerKey, vm_id: UUID, body: bodies.NewAttachment) -> Response:
    """Attach a volume that is AVAILABLE; the VM gets it as `device`."""
    return await once(lambda tx: resources.attach_volume(tx, caller, vm_id, body), body)


@routes.get("/vms/{vm_id}/volumes")
async def list_attached_volumes(page: WantedPage, vm: OwnedVM) -> schemas.AttachmentPage:
    """The volumes that a VM has, by device."""
    return await page.fetch(_attachments(vm.id), _BY_DEVICE, schemas.AttachmentPage)


@routes.get(_ONE_ATTACHED, response_model=schemas.Attachment)
async def get_attached_volume(process: Process, vm: OwnedVM, volume_id: UUID) -> Attachment:
    """One volume's place in a VM."""
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
    openapi_extra=openapi.problems("invalid_transition"),
)
async def detach_volume(caller: CurrentUser, once: OncePerKey, vm_id: UUID, volume_id: UUID) -> Response:
    """Detach a volume from a VM; again, while it is being detached, changes nothing."""
    return await once(lambda tx: resources.detach_volume(tx, caller, vm_id, volume_id))


def _volumes(owner_id: UUID) -> Select[*tuple[Any, ...]]:
    """The owner's volumes, each with the VM that has it."""
    statement = select(Volume, Attachment.vm_id, Attachment.device)
    return statement.outerjoin(Attachment, Attachment.volume_id == Volume.id).where(Volume.owner_id == owner_id)


def _attachments(vm_id: UUID) -> Select[Attachment]:
    return select(Attachment).where(Attachment.vm_id == vm_id)
