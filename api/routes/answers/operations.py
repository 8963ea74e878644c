"""The bodies of answers about operations."""

from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator

from api.web.models import Answer, Page
from domain.rules.resources import Kind
from domain.rules.states import OperationStatus, TaskState


class Fault(Answer):
    """Why something failed: `code` is for programs, `message` for people."""

    code: str
    message: str


class Operation(Answer):
    """A request to do something with a resource: who made it, its progress, and why it failed.

    A reset-state has no workflow: its `workflow_id` is empty and its `temporal_url` null.
    """

    id: UUID
    action: Annotated[str, BeforeValidator(attrgetter("word"))]
    status: OperationStatus
    resource_type: Kind
    resource_id: UUID
    vm_id: UUID | None
    step: TaskState | None
    progress: int
    attempt: int
    last_error: str | None
    next_retry_at: datetime | None
    error: Fault | None
    cancel_requested_at: datetime | None
    cancel_requested_by: str | None
    request_id: str
    actor: str
    workflow_id: str
    temporal_url: str | None
    retry_of: UUID | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Attention(Answer):
    """Something that needs a person's attention.

    `kind` says what it is: an operation that makes no progress, a resource in ERROR, or a difference between the cloud
    and the database. `detail` is what is known about it; it may be null.
    """

    kind: str
    resource_type: Kind
    resource_id: UUID
    vm_id: UUID | None
    owner: str | None
    operation_id: UUID | None
    temporal_url: str | None
    detail: dict[str, Any] | None
    since: datetime


class OperationPage(Page[Operation]):
    """Operations."""


class AttentionPage(Page[Attention]):
    """What needs attention."""
