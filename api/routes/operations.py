"""Operations: what was requested, by whom, its progress, and why it failed."""

from collections.abc import Awaitable
from dataclasses import replace
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Request, Response
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.routes.resources import OPERATIONS, OnceOrTrialOnOperation, temporal_url
from api.web import filters, openapi
from api.web.dependencies import CurrentUser, Process, ProcessState, ReadableVM
from api.web.lists import Order, Readable, Rows
from api.web.models import FieldError
from api.web.pages import WantedPage
from api.web.problems import ProblemError
from api.web.responses import respond_202
from api.web.single import ReadOne
from api.web.waiting import Rows as _Waiting
from api.web.waiting import Until, Wait, wait_for
from domain.commands.acceptance import Accepted
from domain.commands.cancel import cancel_operation as cancel
from domain.data.models import Operation
from domain.data.projects import may_read
from domain.rules.states import OPEN_STATUSES

routes = router("", "operations")

MOST_IDS = 100  # that one request can name
_UUID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
IDs = Annotated[
    list[Annotated[str, filters.Items(_UUID, "wrong_format", "Write ids, separated by commas.")]],
    Query(
        alias="id",
        description=f"Ids, separated by commas or in repeated parameters, {MOST_IDS} at most. Without `page_size`, all "
        "are on one page.",
    ),
]
_WAIT_FOR_ALL = "The most seconds to wait until all operations of `id` have ended."
_KEY = (Operation.created_at, Operation.id)
_ORDERS = {"created_at": Order("created_at", _KEY), "-created_at": Order("-created_at", _KEY, descending=True)}
Sort = Annotated[
    Literal["created_at", "-created_at"],
    Query(description="`-` sorts in descending order. Items with equal values are sorted by id."),
]


@routes.get("/operations", openapi_extra=openapi.problems("too_many_waiting"))
async def list_operations(  # noqa: PLR0913, PLR0917 - each is a query parameter
    request: Request,
    caller: CurrentUser,
    process: Process,
    page: WantedPage,
    statuses: filters.OperationStatuses = [],  # noqa: B006 - FastAPI copies it
    actions: filters.ActionWords = [],  # noqa: B006
    vm_id: UUID | None = None,
    ids: IDs = [],  # noqa: B006
    project_id: filters.ProjectID = None,
    wait: Annotated[Wait, Query(description=_WAIT_FOR_ALL)] = 0,
    sort: Sort = "-created_at",
) -> answers.OperationPage:
    """The operations that you may read, newest first; with `id` and `wait` once all of these have ended."""
    wanted = _ids(ids)
    if wait and not wanted:
        detail = "Say which operations to wait for: send `id` with `wait`."
        raise ProblemError("validation_failed", detail, [FieldError(code="required", detail=detail, parameter="id")])
    if wait:
        await _wait_for_all(process, request, caller.id, wait, wanted)
        await request.scope["take_slot"]()
    if wanted and "page_size" not in request.query_params:  # all of them on one page
        page = replace(page, page_size=min(len(wanted), process.settings.max_page_size))

    def wanted_operations() -> Rows:
        statement = _operations(process)
        if wanted:
            statement = statement.where(Operation.id.in_(wanted))
        if statuses:
            statement = statement.where(Operation.status.in_(filters.words(statuses)))
        if actions:
            statement = statement.where(Operation.action.in_(filters.actions(actions)))
        return statement.where(Operation.vm_id == vm_id) if vm_id else statement

    readable = Readable(Operation.owner_id, caller.id, project_id)
    return await page.fetch_readable(wanted_operations, _ORDERS[sort], answers.OperationPage, readable)


@routes.get(
    "/operations/{operation_id}",
    response_model=answers.Operation,
    responses=openapi.one_resource("Retry-After"),
    openapi_extra=openapi.problems("too_many_waiting"),
)
async def get_operation(one: ReadOne, operation_id: UUID, wait: Wait = 0) -> Response:
    """One operation; with `wait` once it has ended. It outlives its VM."""
    return await one(OPERATIONS, operation_id, until=Until(wait))


@routes.get("/vms/{vm_id}/operations")
async def list_vm_operations(
    process: Process, page: WantedPage, vm: ReadableVM, sort: Sort = "-created_at"
) -> answers.OperationPage:
    """The operations of one VM, newest first. Those of a DELETED VM stay readable."""
    statement = _operations(process).where(Operation.vm_id == vm.id)
    return await page.fetch(statement, _ORDERS[sort], answers.OperationPage)


@routes.post(
    "/operations/{operation_id}/cancel",
    status_code=202,
    response_model=answers.Operation,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("too_late"),
)
async def cancel_operation(
    process: Process, once: OnceOrTrialOnOperation, operation_id: UUID, body: requests.NoInput | None = None
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


def _ids(texts: list[str]) -> set[UUID]:
    """The ids of a parameter that may be repeated and may hold several each time; ProblemError if they are too many."""
    ids = {UUID(id) for text in texts for id in text.split(",")}
    if len(ids) > MOST_IDS:
        detail = f"One request can ask for {MOST_IDS} operations by their ids."
        raise ProblemError("validation_failed", detail, [FieldError(code="too_long", detail=detail, parameter="id")])
    return ids


async def _wait_for_all(process: ProcessState, request: Request, user_id: UUID, seconds: int, ids: set[UUID]) -> None:
    """Wait until those of the operations have ended that the user may read."""

    async def read() -> _Waiting:
        mine = select(Operation.id, Operation.status).where(Operation.id.in_(ids), may_read(Operation.owner_id))
        async with process.autocommit.connect() as connection:
            return {row.id: row for row in await connection.execute(mine, {"user_id": user_id})}

    def have_ended(operations: _Waiting) -> bool:
        return all(operation.status not in OPEN_STATUSES for operation in operations.values())

    await wait_for(process, request, user_id, seconds, ids, read, have_ended)


def _operations(process: ProcessState) -> Select[*tuple[Any, ...]]:
    """Operations, each with its link into the Temporal Web UI."""
    return select(Operation, temporal_url(process.settings))
