"""The bodies of answers about the audit."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from api.web.models import Answer, Page
from domain.rules.accounts import Event, Outcome


class SecurityEvent(Answer):
    """A security event: who did what, when and from where.

    `actor` is the user who asked for it, null for somebody who has not logged in, or `@server` for a command on the
    server. `target` is the name or the id of what the event is about. Equal refusals of a minute are one event with
    their `count`.
    """

    id: UUID
    at: datetime
    event: Event
    outcome: Outcome
    actor_id: UUID | None
    actor: str | None
    target: str | None
    address: str | None = Field(examples=["203.0.113.7"])
    user_agent: str | None
    request_id: str | None
    count: int
    details: dict[str, Any]


class SecurityEventPage(Page[SecurityEvent]):
    """Security events."""
