"""The tables of quotas: the limits, and what each project uses.

Triggers keep the use (migration 0020), so no writer can forget it, and what earlier code makes is counted, too. They
are deferred: they run just before the commit, so a project's row is locked last and only for the time of the commit.
What a user asks for is checked against the limits. What the service only finds, such as a server that is adopted, is
just counted.
"""

import json
from typing import Final
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, func, select, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from domain.data import outages
from domain.data.base import Base
from domain.data.projects import Rows
from domain.data.queries import violated_constraint
from domain.rules.errors import NotFoundError
from domain.rules.quotas import CONSTRAINT_PREFIX, DELETED_PROJECT, ProjectQuotaExceededError, Quota

_COUNTED: Final = [quota for quota in Quota if quota is not Quota.ADDRESSES_PER_NETWORK]


class _Limits:
    """A column for each quota: the limit, where 0 means that there is none."""

    vms: Mapped[int | None] = mapped_column(BigInteger)
    vcpus: Mapped[int | None] = mapped_column(BigInteger)
    ram_mb: Mapped[int | None] = mapped_column(BigInteger)
    volumes: Mapped[int | None] = mapped_column(BigInteger)
    volume_gb: Mapped[int | None] = mapped_column(BigInteger)
    snapshots: Mapped[int | None] = mapped_column(BigInteger)
    addresses_per_network: Mapped[int | None] = mapped_column(BigInteger)
    open_operations: Mapped[int | None] = mapped_column(BigInteger)


class DefaultQuotas(_Limits, Base):
    """The limits of projects that have no limits of their own; there is one row. They come from the settings."""

    __tablename__ = "default_quotas"
    __table_args__ = (CheckConstraint("id", name="one_row"),)

    id: Mapped[bool] = mapped_column(primary_key=True, server_default=true(), sort_order=-1)


class ProjectQuotas(_Limits, Base):
    """The limits that an admin has set for a project; NULL means the default."""

    __tablename__ = "project_quotas"

    project_id: Mapped[UUID] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True, sort_order=-1
    )


class ProjectUsage(Base):
    """What a project uses of each quota; `addresses` are the numbers by network."""

    __tablename__ = "project_usage"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    vms: Mapped[int] = mapped_column(BigInteger, server_default="0")
    vcpus: Mapped[int] = mapped_column(BigInteger, server_default="0")
    ram_mb: Mapped[int] = mapped_column(BigInteger, server_default="0")
    volumes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    volume_gb: Mapped[int] = mapped_column(BigInteger, server_default="0")
    snapshots: Mapped[int] = mapped_column(BigInteger, server_default="0")
    open_operations: Mapped[int] = mapped_column(BigInteger, server_default="0")
    addresses: Mapped[dict[str, int]] = mapped_column(JSONB, server_default="{}")


def limits_and_usage(project_id: UUID) -> Rows:
    """Select the limit of each quota by the quota's name, and what the project uses as `used_` and that name.

    `used_addresses` are the numbers by network. No row if there is no such project.
    """
    limits = [
        func.coalesce(getattr(ProjectQuotas, quota), getattr(DefaultQuotas, quota), 0).label(quota) for quota in Quota
    ]
    used = [getattr(ProjectUsage, quota).label(f"used_{quota}") for quota in _COUNTED]
    return (
        select(*limits, *used, ProjectUsage.addresses.label("used_addresses"))
        .select_from(ProjectUsage)
        .join(DefaultQuotas, true())
        .outerjoin(ProjectQuotas, ProjectQuotas.project_id == ProjectUsage.project_id)
        .where(ProjectUsage.project_id == project_id)
    )


def refusal_of(error: IntegrityError) -> ProjectQuotaExceededError | NotFoundError | None:
    """What the trigger has refused; None if the error is another."""
    name = violated_constraint(error) or ""
    if name == DELETED_PROJECT:
        return NotFoundError("project", outages.original(error).detail)  # type: ignore[union-attr]
    if not name.startswith(CONSTRAINT_PREFIX):
        return None
    detail = json.loads(outages.original(error).detail)  # type: ignore[union-attr] # PostgreSQL's: it has a name
    return ProjectQuotaExceededError(Quota(name.removeprefix(CONSTRAINT_PREFIX)), detail["limit"], detail["used"])
