"""The bodies of answers about operations."""

from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo

from api.web.models import Answer, Page
from domain.data.views import shown_parameters
from domain.rules.resources import Kind
from domain.rules.states import Action, OperationStatus, TaskState


class Fault(Answer):
    """Why something failed: `code` is for programs, `message` for people."""

    code: str
    message: str


def _shown(input: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    return shown_parameters(info.data["action"], input)


class Operation(Answer):
    """A request to do something with a resource: who made it, its progress, and why it failed.

    `parameters` is what was requested, by names and ids: of a resize, the new flavor and the one before. A reset-state
    has no workflow: its `workflow_id` is empty and its `temporal_url` null.
    """

    id: UUID
    project_id: UUID = Field(validation_alias="owner_id")
    action: Annotated[Action, PlainSerializer(attrgetter("word"), return_type=str)]
    status: OperationStatus
    resource_type: Kind
    resource_id: UUID
    vm_id: UUID | None
    parameters: Annotated[dict[str, Any], BeforeValidator(_shown)] = Field(
        validation_alias="input", examples=[{"type": "SOFT"}]
    )
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
