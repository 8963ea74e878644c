"""Snapshots of VMs."""

from uuid import UUID

from fastapi import Response
from sqlalchemy import select

from api.routes import answers, requests, router
from api.web import filters, openapi
from api.web.dependencies import OwnedVM, Process
from api.web.idempotency import OnceOrTrial, OncePerKey
from api.web.pages import Order, WantedPage
from api.web.responses import respond_202, respond_204
from domain.commands import snapshots
from domain.data import queries
from domain.data.models import Snapshot
from domain.rules.errors import NotFoundError
from domain.rules.resources import SnapshotStatus

routes = router("/vms/{vm_id}/snapshots", "snapshots")

_NEWEST_FIRST = Order("-created_at", (Snapshot.created_at, Snapshot.id), descending=True)


@routes.post(
    "",
    status_code=202,
    response_model=answers.Snapshot,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("invalid_transition", "attachment_in_progress", "volume_backed"),
)
async def create_snapshot(once: OnceOrTrial, vm_id: UUID, body: requests.NewSnapshot) -> Response:
    """Take a snapshot of a VM: its disk, its flavor and the image it was built from."""
    return await once(
        lambda tx, requester: respond_202(
            snapshots.create_snapshot(tx, requester, vm_id, body.name),
            answers.Snapshot,
            "/vms/{vm_id}/snapshots/{id}",
        ),
        body,
    )


@routes.get("")
async def list_snapshots(
    page: WantedPage,
    vm: OwnedVM,
    statuses: filters.SnapshotStatuses = [],  # noqa: B006 - FastAPI copies it
) -> answers.SnapshotPage:
    """The snapshots of a VM, newest first, without DELETED ones unless you filter by that status.

    The snapshots of a DELETED VM stay readable.
    """
    statement = select(Snapshot).where(Snapshot.vm_id == vm.id)
    has_status = filters.has_status(Snapshot.status, statuses, hidden_by_default=SnapshotStatus.DELETED)
    return await page.fetch(statement.where(has_status), _NEWEST_FIRST, answers.SnapshotPage)


@routes.get("/{snapshot_id}", response_model=answers.Snapshot)
async def get_snapshot(process: Process, vm: OwnedVM, snapshot_id: UUID) -> Snapshot:
    """One snapshot. It outlives its VM, and a DELETED snapshot stays readable."""
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
async def delete_snapshot(once: OncePerKey, vm_id: UUID, snapshot_id: UUID) -> Response:
    """Delete a snapshot that is not being taken or restored. A second delete changes nothing."""
    return await once(lambda tx, requester: respond_204(snapshots.delete_snapshot(tx, requester, vm_id, snapshot_id)))


@routes.post(
    "/{snapshot_id}/restore",
    status_code=202,
    response_model=answers.VM,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("invalid_transition", "attachment_in_progress", "flavor_too_small"),
)
async def restore_vm(
    once: OnceOrTrial, vm_id: UUID, snapshot_id: UUID, body: requests.NoInput | None = None
) -> Response:
    """Put a VM's disk and flavor back to a snapshot. Volumes and interfaces stay, and a VM that is off stays off."""
    return await once(
        lambda tx, requester: respond_202(snapshots.restore_vm(tx, requester, vm_id, snapshot_id), answers.VM), body
    )
