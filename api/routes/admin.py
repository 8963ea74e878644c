"""For admins: what needs attention, and what can be done about it."""

from uuid import UUID

from fastapi import Response
from sqlalchemy.ext.asyncio import AsyncConnection

from api import admin, bodies, schemas
from api.routes import router
from api.routes.operations import accepted, temporal_url
from api.web import openapi
from api.web.dependencies import Admin, Process
from api.web.idempotency import OncePerKey
from api.web.pages import Order, WantedPage
from domain.upkeep import attention

routes = router("/admin", "Administration")

# Whatever refuses what is asked for again.
_REFUSALS = (
    "invalid_transition",
    "attachment_in_progress",
    "same_flavor",
    "unknown_reference",
    "no_free_device",
    "no_free_address",
)
_OLDEST_FIRST = Order("since", (attention.SINCE, attention.KIND, attention.RESOURCE_ID))


@routes.get("/attention", openapi_extra=openapi.problems("admin_only"))
async def list_attention(_: Admin, process: Process, page: WantedPage) -> schemas.AttentionPage:
    """What a person should look at, of all owners, oldest first; empty where all is well."""
    statement = attention.ATTENTION.add_columns(temporal_url(process.settings))
    return await page.fetch(statement, _OLDEST_FIRST, schemas.AttentionPage)


@routes.post(
    "/operations/{operation_id}/retry",
    status_code=202,
    response_model=schemas.Operation,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("admin_only", "not_retryable", *_REFUSALS),
)
async def retry_operation(
    caller: Admin, process: Process, once: OncePerKey, operation_id: UUID, body: bodies.NoInput | None = None
) -> Response:
    """Ask once more, on the owner's behalf, for what an operation was to do that has FAILED or was CANCELED.

    The new operation names the old one as `retry_of`. What makes a VM or a volume is not retried.
    """

    async def work(tx: AsyncConnection) -> Response:
        return await accepted(tx, process, await admin.retry(tx, caller, operation_id))

    return await once(work, body)


@routes.post(
    "/vms/{vm_id}/reset-state",
    status_code=202,
    response_model=schemas.VM,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("admin_only", "invalid_transition"),
)
async def reset_vm_state(caller: Admin, once: OncePerKey, vm_id: UUID, body: bodies.ResetState) -> Response:
    """Have a VM show another status at once, and let nothing hold it; the cloud is not touched.

    An operation that held the VM is SUPERSEDED. That you did this is an operation too.
    """
    return await once(lambda tx: admin.reset_state(tx, caller, vm_id, body.status), body)
