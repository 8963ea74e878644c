"""Quotas: how much a project may have, and how much it has."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.web import openapi
from api.web.dependencies import Admin, CurrentRequester, CurrentUser, Process
from domain.commands import audit
from domain.commands.quotas import set_quotas as set_limits
from domain.data.projects import roles_in
from domain.data.quotas import limits_and_usage
from domain.rules import access
from domain.rules.access import Verb
from domain.rules.accounts import Event
from domain.rules.errors import NotFoundError
from domain.rules.quotas import Quota

routes = router("", "quotas")


@routes.get("/quotas")
async def get_quotas(
    caller: CurrentUser,
    process: Process,
    project_id: Annotated[UUID | None, Query(description="The project; by default your own.")] = None,
) -> answers.Quotas:
    """How much a project may have of everything, and how much it has."""
    project_id = project_id or caller.id
    async with process.autocommit.connect() as connection:
        if project_id != caller.id:
            roles = await roles_in(connection, caller.id, [project_id])
            access.check(roles.get(project_id), Verb.READ, "project", project_id)
        return await _quotas(connection, project_id)


@routes.get("/admin/projects/{project_id}/quotas", openapi_extra=openapi.problems("admin_only"))
async def get_project_quotas(_: Admin, process: Process, project_id: UUID) -> answers.Quotas:
    """How much any project may have of everything, and how much it has."""
    async with process.autocommit.connect() as connection:
        return await _quotas(connection, project_id)


@routes.put("/admin/projects/{project_id}/quotas", openapi_extra=openapi.problems("admin_only"))
async def set_project_quotas(
    _: Admin, requester: CurrentRequester, process: Process, project_id: UUID, body: requests.QuotaChanges
) -> answers.Quotas:
    """Set limits of a project. One that has more than a new limit keeps what it has, and gets no more."""
    async with process.engine.begin() as tx:
        await set_limits(tx, project_id, body.limits)
        await audit.record(tx, Event.SET_QUOTAS, requester, target=str(project_id), limits=body.limits)
        return await _quotas(tx, project_id)


async def _quotas(tx: AsyncConnection, project_id: UUID) -> answers.Quotas:
    row = (await tx.execute(limits_and_usage(project_id))).mappings().one_or_none()
    if row is None:
        raise NotFoundError("project", project_id)
    addresses = row["used_addresses"]
    used = {f"used_{Quota.ADDRESSES_PER_NETWORK}": max(addresses.values(), default=0), **row}
    quotas: dict[str, Any] = {
        quota: answers.QuotaUse(limit=row[quota] or None, used=used[f"used_{quota}"]) for quota in Quota
    }
    by_network = [{"network_id": id, "used": number} for id, number in sorted(addresses.items())]
    return answers.Quotas.model_validate({"project_id": project_id, "addresses": by_network, **quotas})
