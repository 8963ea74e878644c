"""For admins: what needs attention, and what they can do about it."""

from uuid import UUID

from fastapi import Response
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.routes.operations import answer_with
from api.routes.resources import OnceOrTrialOnAnyOperation, OnceOrTrialOnAnyVM, temporal_url
from api.web import openapi
from api.web.dependencies import Admin, Process
from api.web.lists import Order
from api.web.pages import WantedPage
from api.web.responses import respond_202
from domain.commands import audit
from domain.commands.acceptance import Requester
from domain.commands.reset_state import reset_vm_by_admin
from domain.commands.retry import retry_operation as retry
from domain.rules.accounts import Event
from domain.upkeep import attention

routes = router("/admin", "admin")

# A retry can be refused for the same reasons as the first request.
_REFUSALS = (
    "invalid_transition",
    "attachment_in_progress",
    "same_flavor",
    "flavor_too_small",
    "unknown_reference",
    "no_free_device",
    "no_free_address",
)
_OLDEST_FIRST = Order("since", (attention.SINCE, attention.KIND, attention.RESOURCE_ID))


@routes.get("/attention", openapi_extra=openapi.problems("admin_only"))
async def list_attention(_: Admin, process: Process, page: WantedPage) -> answers.AttentionPage:
    """Everything that needs a person's attention, of all owners, oldest first."""
    statement = attention.ATTENTION.add_columns(temporal_url(process.settings))
    return await page.fetch(statement, _OLDEST_FIRST, answers.AttentionPage)


@routes.post(
    "/operations/{operation_id}/retry",
    status_code=202,
    response_model=answers.Operation,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("admin_only", "not_retryable", *_REFUSALS),
)
async def retry_operation(
    _: Admin,
    process: Process,
    once: OnceOrTrialOnAnyOperation,
    operation_id: UUID,
    body: requests.NoInput | None = None,
) -> Response:
    """Repeat an operation that FAILED or was CANCELED, on its owner's behalf.

    The new operation names the old one in `retry_of`. An operation that creates a VM or a volume cannot be retried.
    """

    async def retry_and_record(tx: AsyncConnection, requester: Requester) -> Response:
        answer = await answer_with(tx, process, retry(tx, requester, operation_id))
        await audit.record(tx, Event.RETRY_OPERATION, requester, target=str(operation_id))
        return answer

    return await once(retry_and_record, body)


@routes.post(
    "/vms/{vm_id}/reset-state",
    status_code=202,
    response_model=answers.VM,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("admin_only", "invalid_transition"),
)
async def reset_vm_state(_: Admin, once: OnceOrTrialOnAnyVM, vm_id: UUID, body: requests.ResetState) -> Response:
    """Set the status of a VM at once, even while an operation holds the VM. Nothing changes in the cloud.

    An operation that held the VM ends as SUPERSEDED. The reset is an operation of its own and names you as its actor.
    """

    async def reset_and_record(tx: AsyncConnection, requester: Requester) -> Response:
        answer = await respond_202(reset_vm_by_admin(tx, requester, vm_id, body.status), answers.VM)
        await audit.record(tx, Event.RESET_VM_STATE, requester, target=str(vm_id), status=body.status)
        return answer

    return await once(reset_and_record, body)
