"""Snapshots: those of one VM below its path, and all that the caller may read, also those whose VM is gone."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Response
from sqlalchemy import Select, select

from api.routes import answers, requests, router
from api.routes.resources import SNAPSHOTS, ChangeOne, OnceOnSnapshot, OnceOrTrialOnVM
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, ReadableVM
from api.web.fields import Text
from api.web.label_selectors import LabelSelectors, has_labels
from api.web.lists import Readable, Rows
from api.web.pages import WantedPage
from api.web.responses import respond_202, respond_204
from api.web.single import ReadOne
from api.web.sorting import Sort, orders
from api.web.waiting import Wait, until
from domain.commands import snapshots
from domain.data.models import Snapshot
from domain.rules.resources import SnapshotStatus

routes = router("", "snapshots")

_ORDERS = orders(Snapshot)
_OF_VM, _ONE_OF_VM = "/vms/{vm_id}/snapshots", "/vms/{vm_id}/snapshots/{snapshot_id}"
_ALL, _ONE = "/snapshots", "/snapshots/{snapshot_id}"


@routes.post(
    _OF_VM,
    status_code=202,
    response_model=answers.Snapshot,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("invalid_transition", "quota_exceeded", "attachment_in_progress", "volume_backed"),
)
async def create_snapshot(once: OnceOrTrialOnVM, vm_id: UUID, body: requests.NewSnapshot) -> Response:
    """Take a snapshot of a VM: its disk, its flavor and the image it was built from."""
    return await once(
        lambda tx, requester: respond_202(
            snapshots.create_snapshot(tx, requester, vm_id, body.name, body.labels),
            answers.Snapshot,
            "/vms/{vm_id}/snapshots/{id}",
        ),
        body,
    )


@routes.get(_OF_VM)
async def list_vm_snapshots(  # noqa: PLR0913, PLR0917 - each is a query parameter
    page: WantedPage,
    vm: ReadableVM,
    statuses: filters.SnapshotStatuses = [],  # noqa: B006 - FastAPI copies it
    name: Annotated[Text | None, Query(description="Part of the name; case is ignored.")] = None,
    labels: LabelSelectors = [],  # noqa: B006
    sort: Sort = "-created_at",
) -> answers.SnapshotPage:
    """The snapshots of a VM, newest first, without DELETED ones unless you filter by that status.

    The snapshots of a DELETED VM stay readable.
    """
    statement = _filtered(select(Snapshot).where(Snapshot.vm_id == vm.id), statuses, name, labels)
    return await page.fetch(statement, _ORDERS[sort], answers.SnapshotPage)


@routes.get(_ALL)
async def list_snapshots(  # noqa: PLR0913, PLR0917 - each is a query parameter
    caller: CurrentUser,
    page: WantedPage,
    statuses: filters.SnapshotStatuses = [],  # noqa: B006 - FastAPI copies it
    name: Annotated[Text | None, Query(description="Part of the name; case is ignored.")] = None,
    labels: LabelSelectors = [],  # noqa: B006
    vm_id: Annotated[UUID | None, Query(description="The VM, which may be DELETED.")] = None,
    project_id: filters.ProjectID = None,
    sort: Sort = "-created_at",
) -> answers.SnapshotPage:
    """The snapshots that you may read, newest first, without DELETED ones unless you filter by that status.

    Those of a VM that is gone are among them.
    """

    def wanted() -> Rows:
        statement = _filtered(select(Snapshot), statuses, name, labels)
        return statement.where(Snapshot.vm_id == vm_id) if vm_id else statement

    readable = Readable(Snapshot.owner_id, caller.id, project_id, filters.search("s", name, labels))
    return await page.fetch_readable(wanted, _ORDERS[sort], answers.SnapshotPage, readable)


@routes.get(
    _ONE_OF_VM,
    response_model=answers.Snapshot,
    responses=openapi.one_resource(),
    openapi_extra=openapi.problems("too_many_waiting"),
)
async def get_vm_snapshot(
    one: ReadOne,
    vm_id: UUID,
    snapshot_id: UUID,
    wait: Wait = 0,
    statuses: filters.ForSnapshotStatuses = [],  # noqa: B006
) -> Response:
    """One snapshot of a VM; with `wait` once it rests or has a status. It outlives its VM, and its own delete."""
    of_vm = Snapshot.vm_id == vm_id
    return await one(SNAPSHOTS, snapshot_id, of_vm, until=until(wait, filters.words(statuses)))


@routes.get(
    _ONE,
    response_model=answers.Snapshot,
    responses=openapi.one_resource(),
    openapi_extra=openapi.problems("too_many_waiting"),
)
async def get_snapshot(
    one: ReadOne,
    snapshot_id: UUID,
    wait: Wait = 0,
    statuses: filters.ForSnapshotStatuses = [],  # noqa: B006
) -> Response:
    """One snapshot; with `wait` once it rests or has a status. It outlives its VM, and its own delete."""
    return await one(SNAPSHOTS, snapshot_id, until=until(wait, filters.words(statuses)))


@routes.patch(
    _ONE,
    response_model=answers.Snapshot,
    responses=openapi.headers(200, "ETag"),
    openapi_extra=openapi.problems("invalid_transition"),
)
async def change_snapshot(change: ChangeOne, snapshot_id: UUID, body: requests.SnapshotChanges) -> Response:
    """Change a snapshot's name or labels, even while an operation holds it.

    The body is a JSON merge patch (RFC 7396): fields and labels that it leaves out stay, and a label that is null is
    removed. Its media type may also be `application/merge-patch+json`.
    """
    return await change(SNAPSHOTS, snapshot_id, body.fields)


@routes.delete(
    _ONE_OF_VM,
    status_code=204,
    response_class=Response,
    responses=openapi.headers(204, "Operation-Location"),
    openapi_extra=openapi.problems("invalid_transition"),
)
async def delete_vm_snapshot(once: OnceOnSnapshot, vm_id: UUID, snapshot_id: UUID) -> Response:
    """Delete a snapshot that is not being taken or restored. A second delete changes nothing."""
    return await once(lambda tx, requester: respond_204(snapshots.delete_snapshot(tx, requester, snapshot_id, vm_id)))


@routes.delete(
    _ONE,
    status_code=204,
    response_class=Response,
    responses=openapi.headers(204, "Operation-Location"),
    openapi_extra=openapi.problems("invalid_transition"),
)
async def delete_snapshot(once: OnceOnSnapshot, snapshot_id: UUID) -> Response:
    """Delete a snapshot that is not being taken or restored; its VM may be gone. A second delete changes nothing."""
    return await once(lambda tx, requester: respond_204(snapshots.delete_snapshot(tx, requester, snapshot_id)))


@routes.post(
    f"{_ONE_OF_VM}/restore",
    status_code=202,
    response_model=answers.VM,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems(
        "invalid_transition", "quota_exceeded", "attachment_in_progress", "flavor_too_small"
    ),
)
async def restore_vm(
    once: OnceOrTrialOnVM, vm_id: UUID, snapshot_id: UUID, body: requests.NoInput | None = None
) -> Response:
    """Put a VM's disk and flavor back to a snapshot. Volumes and interfaces stay, and a VM that is off stays off."""
    return await once(
        lambda tx, requester: respond_202(snapshots.restore_vm(tx, requester, vm_id, snapshot_id), answers.VM), body
    )


def _filtered(
    statement: Select[Snapshot], statuses: list[str], name: str | None, labels: LabelSelectors
) -> Select[Snapshot]:
    """The snapshots of the statement that pass the filters."""
    statement = statement.where(filters.has_status(Snapshot.status, statuses, hidden_by_default=SnapshotStatus.DELETED))
    if name:
        statement = statement.where(filters.has_name(Snapshot.name, name))
    return statement.where(has_labels(Snapshot.labels, labels)) if labels else statement
