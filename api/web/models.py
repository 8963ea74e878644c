"""The models that every route shares: pages, problems, and the base of all answers."""

from typing import Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from domain.rules.quotas import Quota
from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import Status, TaskState

T = TypeVar("T")


class Answer(BaseModel):
    """The base of every answer's body; it reads its fields from a row's attributes."""

    model_config = ConfigDict(from_attributes=True)


class Check(Answer):
    """Whether a service that the API needs is available."""

    status: Literal["ok", "unavailable"]
    error: str | None = None


class FieldError(Answer):
    """One error in a request. Exactly one of `pointer`, `parameter` and `header` says where it is.

    `candidates` are the ids of the things that have an ambiguous name, at most 20.
    """

    code: str
    detail: str
    pointer: str | None = Field(default=None, examples=["#/name"])
    parameter: str | None = None
    header: str | None = None
    candidates: list[str] | None = None


class Problem(Answer):
    """An error (RFC 9457). Most problems lack the members after `request_id`."""

    type: str = Field(
        description="The path of a page about this kind of problem.", json_schema_extra={"format": "uri-reference"}
    )
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldError] = []
    current_status: Status | SnapshotStatus | VolumeStatus | AttachmentStatus | None = None
    task_state: TaskState | None = None
    allowed_actions: list[str] = []
    operation_id: UUID | None = Field(default=None, description="The operation that the request has to wait for.")
    checks: dict[str, Check] = {}
    quota: Quota | None = Field(default=None, description="The quota of the project that is too small.")
    limit: int | None = Field(default=None, description="That quota's limit.")
    used: int | None = Field(default=None, description="How much of it is in use.")


class Validity(Answer):
    """The answer to a request with `validate_only=true` that would be accepted."""

    valid: Literal[True] = True


class Page(Answer, Generic[T]):
    """A part of a list; `next_cursor` leads to the next part and is null at the end.

    `total` and `pages` stop at 10,000 items. A longer list has at least so many, and `total_is_exact` is false.
    `items_moved` says that items have changed since you read the first page, in an order by a field that changes: some
    may be missing from the pages, or on two of them.
    """

    items: list[T]
    total: int
    total_is_exact: bool
    page: int
    page_size: int
    pages: int
    next_cursor: str | None
    items_moved: bool = False
