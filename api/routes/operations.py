"""Operations: what was requested, by whom, its progress, and why it failed."""

from collections.abc import Awaitable
from typing import Any
from uuid import UUID

from fastapi import Response
from sqlalchemy import Label, Select, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, OwnedVM, Process, ProcessState
from api.web.idempotency import OnceOrTrial
from api.web.pages import Order, WantedPage
from api.web.responses import respond_202
from domain.commands.acceptance import Accepted
from domain.commands.cancel import cancel_operation as cancel
from domain.data.models import Operation
from domain.rules.errors import NotFoundError
from domain.settings import Settings

routes = router("", "operations")

_NEWEST_FIRST = Order("-created_at", (Operation.created_at, Operation.id), descending=True)


@routes.get("/operations")
async def list_operations(  # noqa: PLR0913, PLR0917 - each is a query parameter
    caller: CurrentUser,
    process: Process,
    page: WantedPage,
    statuses: filters.OperationStatuses = [],  # noqa: B006 - FastAPI copies it
    actions: filters.ActionWords = [],  # noqa: B006
    vm_id: UUID | None = None,
) -> answers.OperationPage:
    """Your operations, newest first."""
    statement = _operations(process, caller.id)
    if statuses:
        statement = statement.where(Operation.status.in_(filters.words(statuses)))
    if actions:
        statement = statement.where(Operation.action.in_(filters.actions(actions)))
    if vm_id:
        statement = statement.where(Operation.vm_id == vm_id)
    return await page.fetch(statement, _NEWEST_FIRST, answers.OperationPage)


@routes.get("/operations/{operation_id}", response_model=answers.Operation)
async def get_operation(caller: CurrentUser, process: Process, operation_id: UUID) -> Any:
    """One operation. It outlives its VM."""
    statement = _operations(process, caller.id).where(Operation.id == operation_id)
    async with process.autocommit.connect() as connection:
        operation = (await connection.execute(statement)).one_or_none()
    if operation is None:
        raise NotFoundError("operation", operation_id)
    return operation


@routes.get("/vms/{vm_id}/operations")
async def list_vm_operations(
    caller: CurrentUser, process: Process, page: WantedPage, vm: OwnedVM
) -> answers.OperationPage:
    """The operations of one VM, newest first. Those of a DELETED VM stay readable."""
    statement = _operations(process, caller.id).where(Operation.vm_id == vm.id)
    return await page.fetch(statement, _NEWEST_FIRST, answers.OperationPage)


@routes.post(
    "/operations/{operation_id}/cancel",
    status_code=202,
    response_model=answers.Operation,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("too_late"),
)
async def cancel_operation(
    process: Process, once: OnceOrTrial, operation_id: UUID, body: requests.NoInput | None = None
) -> Response:
    """Cancel an operation before its point of no return, and undo what it has done.

    Before it begins, every operation but a delete can be canceled. After that, an operation that makes something (a VM,
    a snapshot, a volume, an attachment, an interface) and a resize can. Poll the operation until it has ended: it is
    CANCELED, or it ended in another way before the cancel reached it.
    """
    answer = await once(lambda tx, requester: answer_with(tx, process, cancel(tx, requester, operation_id)), body)
    process.workflow_recovery.wake()
    return answer


async def answer_with(tx: AsyncConnection, process: ProcessState, command: Awaitable[Accepted[Operation]]) -> Response:
    """Run the command and answer 202 with the operation and its link into the Temporal Web UI."""

    async def with_link() -> Accepted[Any]:
        done = await command
        statement = select(Operation, temporal_url(process.settings)).where(Operation.id == done.operation_id)
        return Accepted((await tx.execute(statement)).one(), done.operation_id)

    return await respond_202(with_link(), answers.Operation)


def _operations(process: ProcessState, owner_id: UUID) -> Select[*tuple[Any, ...]]:
    """The owner's operations, each with its link into the Temporal Web UI."""
    return select(Operation, temporal_url(process.settings)).where(Operation.owner_id == owner_id)


def temporal_url(settings: Settings) -> Label[str]:
    """The link to an operation's workflow in the Temporal Web UI; NULL if it has no workflow (reset-state)."""
    workflows = literal(f"{settings.temporal_ui_url}/namespaces/{settings.temporal_namespace}/workflows/")
    return workflows.concat(func.nullif(Operation.workflow_id, "")).label("temporal_url")
