"""Snapshots of VMs."""

from uuid import UUID

from fastapi import Response
from sqlalchemy import select

from api import bodies, resources, schemas
from api.routes import router
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, OwnedVM, Process
from api.web.idempotency import OncePerKey
from api.web.pages import Order, WantedPage
from domain.data import queries
from domain.data.models import Snapshot
from domain.rules.errors import NotFoundError
from domain.rules.resources import SnapshotStatus

routes = router("/vms/{vm_id}/snapshots", "Snapshots")

_NEWEST_FIRST = Order("-created_at", (Snapshot.created_at, Snapshot.id), descending=True)


@routes.post(
    "",
    status_code=202,
    response_model=schemas.Snapshot,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("invalid_transition", "attachment_in_progress"),
)
async def create_snapshot(caller: CurrentUser, once: OncePerKey, vm_id: UUID, body: bodies.NewSnapshot) -> Response:
    """Keep what a VM is now: its disk, its flavor, the image it was made from."""
    return await once(lambda tx: resources.create_snapshot(tx, caller, vm_id, body), body)


@routes.get("")
async def list_snapshots(
    page: WantedPage,
    vm: OwnedVM,
    statuses: filters.SnapshotStatuses = [],  # noqa: B006 - FastAPI copies it
) -> schemas.SnapshotPage:
    """The snapshots of a VM, also of a deleted one, newest first; deleted ones only when asked for by status."""
    statement = select(Snapshot).where(Snapshot.vm_id == vm.id)
    wanted = filters.has_status(Snapshot.status, statuses, without=SnapshotStatus.DELETED)
    return await page.fetch(statement.where(wanted), _NEWEST_FIRST, schemas.SnapshotPage)


@routes.get("/{snapshot_id}", response_model=schemas.Snapshot)
async def get_snapshot(process: Process, vm: OwnedVM, snapshot_id: UUID) -> Snapshot:
    """One snapshot; it outlives its VM, and a deleted one stays readable here."""
    async with process.autocommit.connect() as connection:
        statement = select(Snapshot).where(Snapshot.id == snapshot_id, Snapshot.vm_id == vm.id)
        snapshot = await queries.fetch_one(connection, statement)
    if snapshot is None:
        raise NotFoundError("snapshot", snapshot_id)
    return snapshot


@routes.delete(
    "/{snapshot_id}",
    status_code=204,
    response_class=Response,
    responses=openapi.headers(204, "Operation-Location"),
    openapi_extra=openapi.problems("invalid_transition"),
)
async def delete_snapshot(caller: CurrentUser, once: OncePerKey, vm_id: UUID, snapshot_id: UUID) -> Response:
    """Delete a snapshot, unless it is being taken or restored; doing so twice changes nothing."""
    return await once(lambda tx: resources.delete_snapshot(tx, caller, vm_id, snapshot_id))


@routes.post(
    "/{snapshot_id}/restore",
    status_code=202,
    response_model=schemas.VM,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("invalid_transition", "attachment_in_progress"),
)
async def restore_vm(
    caller: CurrentUser, once: OncePerKey, vm_id: UUID, snapshot_id: UUID, body: bodies.NoInput | None = None
) -> Response:
    """Put a VM's disk and flavor back to a snapshot; volumes and interfaces stay, and what is off stays off."""
    return await once(lambda tx: resources.restore_vm(tx, caller, vm_id, snapshot_id), body)
