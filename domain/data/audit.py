"""The table of the audit. Rows are only added: triggers refuse every change, and every delete of a young row."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from domain.data.base import Base


class AuditEvent(Base):
    """A security event: who asked for what, from where, and how it came out.

    `actor` and `target` are names as they were then: users have names that others may not take, and a row outlives
    what it speaks of. The database sets `at`. `count` is above 1 if equal refusals of a minute share a row.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_at", "at", "id"),
        Index("ix_audit_events_event", "event", "at", "id"),
        Index("ix_audit_events_actor", text("lower(actor)"), "at", "id"),
        Index("ix_audit_events_target", text("lower(target)"), "at", "id"),
        Index("ix_audit_events_address", "address", "at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    event: Mapped[str]
    outcome: Mapped[str]
    actor_id: Mapped[UUID | None]
    actor: Mapped[str | None]
    target: Mapped[str | None]
    address: Mapped[str | None]
    user_agent: Mapped[str | None]
    request_id: Mapped[str | None]
    count: Mapped[int] = mapped_column(server_default="1")
    details: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
