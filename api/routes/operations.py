"""Operations: what was asked, by whom, how far it is, and why it failed."""

from typing import Any
from uuid import UUID

from fastapi import Response
from sqlalchemy import Label, Select, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api import bodies, operations, schemas
from api.routes import router
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, OwnedVM, Process, ProcessState
from api.web.idempotency import OncePerKey
from api.web.pages import Order, WantedPage
from domain.data.models import Operation
from domain.rules.errors import NotFoundError
from domain.settings import Settings

routes = router("", "Operations")

_NEWEST_FIRST = Order("-created_at", (Operation.created_at, Operation.id), descending=True)


@routes.get("/operations")
async def list_operations(  # noqa: PLR0913, PLR0917 - each is a query parameter
    caller: CurrentUser,
    process: Process,
    page: WantedPage,
    statuses: filters.OperationStatuses = [],  # noqa: B006 - FastAPI copies it
    actions: filters.ActionWords = [],  # noqa: B006
    vm_id: UUID | None = None,
) -> schemas.OperationPage:
    """Your operations, newest first."""
    statement = _operations(process, caller.id)
    if statuses:
        statement = statement.where(Operation.status.in_(filters.words(statuses)))
    if actions:
        statement = statement.where(Operation.action.in_(filters.actions(actions)))
    if vm_id:
        statement = statement.where(Operation.vm_id == vm_id)
    return await page.fetch(statement, _NEWEST_FIRST, schemas.OperationPage)


@routes.get("/operations/{operation_id}", response_model=schemas.Operation)
async def get_operation(caller: CurrentUser, process: Process, operation_id: UUID) -> Any:
    """One operation; it outlives its VM."""
    statement = _operations(process, caller.id).where(Operation.id == operation_id)
    async with process.autocommit.connect() as connection:
        operation = (await connection.execute(statement)).one_or_none()
    if operation is None:
        raise NotFoundError("operation", operation_id)
    return operation


@routes.get("/vms/{vm_id}/operations")
async def list_vm_operations(
    caller: CurrentUser, process: Process, page: WantedPage, vm: OwnedVM
) -> schemas.OperationPage:
    """What was asked of one VM, newest first; also of a deleted one."""
    statement = _operations(process, caller.id).where(Operation.vm_id == vm.id)
    return await page.fetch(statement, _NEWEST_FIRST, schemas.OperationPage)


@routes.post(
    "/operations/{operation_id}/cancel",
    status_code=202,
    response_model=schemas.Operation,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("too_late"),
)
async def cancel_operation(
    caller: CurrentUser, process: Process, once: OncePerKey, operation_id: UUID, body: bodies.NoInput | None = None
) -> Response:
    """End an operation before its point of no return, and undo what it has done.

    Until it begins any but a delete can be canceled; later those that make something (a VM, a snapshot, a volume, an
    attachment, an interface) and a resize. Follow it to its end: CANCELED, or what it became before.
    """

    async def work(tx: AsyncConnection) -> Response:
        await operations.cancel(tx, caller, operation_id)
        return await accepted(tx, process, operation_id)

    answer = await once(work, body)
    process.workflow_recovery.wake()
    return answer


async def accepted(tx: AsyncConnection, process: ProcessState, operation_id: UUID) -> Response:
    """The answer to what will be done about an operation, or by it."""
    statement = select(Operation, temporal_url(process.settings)).where(Operation.id == operation_id)
    row = (await tx.execute(statement)).one()
    return operations.accepted(schemas.Operation.model_validate(row), operation_id)


def _operations(process: ProcessState, owner_id: UUID) -> Select[*tuple[Any, ...]]:
    """The owner's operations, each with its place in the Temporal Web UI."""
    return select(Operation, temporal_url(process.settings)).where(Operation.owner_id == owner_id)


def temporal_url(settings: Settings) -> Label[str]:
    """Where the Temporal Web UI shows an operation's workflow; NULL for an operation that has none (reset-state)."""
    workflows = literal(f"{settings.temporal_ui_url}/namespaces/{settings.temporal_namespace}/workflows/")
    return workflows.concat(func.nullif(Operation.workflow_id, "")).label("temporal_url")
