"""Quotas: set the limits of a project, and reserve what an operation needs for a time."""

from collections.abc import Collection, Mapping
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, literal, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import VM, Flavor
from domain.data.projects import Project
from domain.data.quotas import DefaultQuotas, ProjectQuotas, ProjectUsage
from domain.rules.errors import NotFoundError
from domain.rules.quotas import Quota


async def reserve(tx: AsyncConnection, vm_id: UUID, *flavors: Flavor) -> None:
    """Let a claimed VM count as if it had the largest of the flavors, until its operation has ended."""
    sizes = {
        "reserved_vcpus": max(flavor.vcpus for flavor in flavors),
        "reserved_ram_mb": max(flavor.ram_mb for flavor in flavors),
    }
    await tx.execute(update(VM).where(VM.id == vm_id).values(sizes))


async def lock(tx: AsyncConnection, project_ids: Collection[UUID]) -> None:
    """Lock what several projects use, in one order: two requests for the same projects must not wait for each other.

    Call it last. Everything that ends in one of the projects waits for this lock, and a request for one project has it
    at its commit only.
    """
    if len(project_ids) > 1:
        is_one = ProjectUsage.project_id == any_(literal(list(project_ids), ARRAY(Uuid)))
        await tx.execute(
            select(ProjectUsage.project_id).where(is_one).order_by(ProjectUsage.project_id).with_for_update()
        )


async def set_quotas(tx: AsyncConnection, project_id: UUID, limits: Mapping[Quota, int | None]) -> None:
    """Set limits of a project; None means the default, and 0 that there is none. NotFoundError.

    A project may have more than its new limit. It keeps that, and gets nothing more.
    """
    if await tx.scalar(select(Project.id).where(Project.id == project_id).with_for_update(read=True)) is None:
        raise NotFoundError("project", project_id)
    if limits:
        row = upsert(ProjectQuotas).values({**limits, "project_id": project_id})
        await tx.execute(row.on_conflict_do_update(index_elements=[ProjectQuotas.project_id], set_=dict(limits)))


async def set_defaults(tx: AsyncConnection, limits: Mapping[Quota, int]) -> None:
    """Set the limits of projects that have none of their own."""
    await tx.execute(update(DefaultQuotas).values(limits))
