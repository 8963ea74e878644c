"""The tables about the cloud itself: which one it is, what others have made in it, and how it differs from our rows."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from domain.data.base import Base


class FoundServer(Base):
    """A server of the cloud that belongs to no VM, as a worker saw it last.

    `vm_id` is the id of the VM that would take it over. `volumes` and `interfaces` are rows of that VM, as JSON.
    `obstacle` says in a sentence why it cannot be taken over. `created_at` is the cloud's time.
    """

    __tablename__ = "found_servers"
    __table_args__ = (Index("ix_found_servers_name", "name", "cloud_id"),)

    cloud_id: Mapped[str] = mapped_column(primary_key=True)
    vm_id: Mapped[UUID]
    name: Mapped[str]
    status: Mapped[str]
    flavor: Mapped[str]
    vcpus: Mapped[int]
    ram_mb: Mapped[int]
    disk_gb: Mapped[int]
    image_id: Mapped[UUID | None]
    volumes: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    interfaces: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    obstacle: Mapped[str | None]
    created_at: Mapped[datetime]
    found_at: Mapped[datetime] = mapped_column(server_default=func.now())


class BoundCloud(Base):
    """The cloud that all other rows are about; at most one row.

    `backend` is the setting COMPUTE_BACKEND, `identity` tells this cloud from others of the same kind.
    """

    __tablename__ = "bound_cloud"
    __table_args__ = (CheckConstraint("is_bound", name="is_bound"),)

    is_bound: Mapped[bool] = mapped_column(primary_key=True, server_default="true")
    backend: Mapped[str]
    identity: Mapped[str]
    bound_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Finding(Base):
    """A difference between the cloud and the database; `seen` holds both sides.

    It is repaired, if it can be, after a later comparison has found it again; `resolution` says how.
    """

    __tablename__ = "findings"
    __table_args__ = (
        Index("uq_findings_open", "kind", "resource_id", unique=True, postgresql_where=text("resolved_at IS NULL")),
        Index("ix_findings_resolved", "resolved_at", "id", postgresql_where=text("resolved_at IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    kind: Mapped[str]
    resource_type: Mapped[str]
    resource_id: Mapped[UUID]
    seen: Mapped[dict[str, Any]]
    found_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    resolved_at: Mapped[datetime | None]
    resolution: Mapped[str | None]
