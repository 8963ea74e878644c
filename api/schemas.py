"""What clients send and get. Requests know no field that is not here; answers are built from rows."""

from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Annotated, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    computed_field,
)
from pydantic_core import PydanticCustomError

from domain import lifecycle
from domain.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.lifecycle import OperationStatus, Status, TaskState

T = TypeVar("T")

_PRINTABLE = r"[^\x00-\x1f\x7f-\x9f]"
_EMAIL_PART = r"[^@\s\x00-\x1f\x7f-\x9f]+"
LABEL_KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?"


def _unique(ids: list[UUID] | None) -> list[UUID] | None:
    if ids and len(set(ids)) < len(ids):
        raise PydanticCustomError("repeated_items", "Each may be named once")
    return ids


def _strong(password: SecretStr) -> SecretStr:
    text = password.get_secret_value()
    if not (any(map(str.isupper, text)) and any(map(str.islower, text)) and any(map(str.isdigit, text))):
        message = "A password needs an upper case letter, a lower case letter and a digit"
        raise PydanticCustomError("password_too_weak", message)
    return password


Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=255,
        pattern=rf"^{_PRINTABLE}*[^\s\x00-\x1f\x7f-\x9f]{_PRINTABLE}*$",
    ),
]
Text = Annotated[str, StringConstraints(max_length=255, pattern=f"^{_PRINTABLE}*$")]
Labels = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=f"^{LABEL_KEY}$")],
        Text,
    ],
    Field(max_length=64, json_schema_extra={"additionalProperties": False}),
]
Username = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{2,63}$")]
Email = Annotated[str, StringConstraints(max_length=254, pattern=rf"^{_EMAIL_PART}@{_EMAIL_PART}$")]
NewPassword = Annotated[
    SecretStr,
    Field(
        min_length=8,
        max_length=256,
        json_schema_extra={"pattern": r"^(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])"},
    ),
    AfterValidator(_strong),
]


class Request(BaseModel):
    """A body that a client sends."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """A body that a client gets."""

    model_config = ConfigDict(from_attributes=True)


class Registration(Request):
    """A new user."""

    username: Username = Field(examples=["ada"])
    email: Email = Field(examples=["ada@example.com"])
    password: NewPassword = Field(examples=["Correct-horse-1"])


class Credentials(Request):
    """Who is calling."""

    username: Text = Field(examples=["ada"])
    password: SecretStr = Field(max_length=256, examples=["Correct-horse-1"])


class RefreshRequest(Request):
    """The refresh token of the last login or refresh."""

    refresh_token: SecretStr = Field(max_length=4096)


class User(Answer):
    """A user's profile."""

    id: UUID
    username: str
    email: str
    created_at: datetime


class TokenPair(Answer):
    """What a login gives; `expires_in` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the kind of token, not one
    expires_in: int


class NewVM(Request):
    """A VM to be made; without `image_id` or `network_ids` it gets the default ones, with `[]` no network."""

    name: Name = Field(examples=["web-1"])
    flavor_id: UUID = Field(examples=[FLAVORS[1]["id"]])
    image_id: UUID | None = Field(default=None, examples=[IMAGES[0]["id"]])
    network_ids: Annotated[list[UUID] | None, AfterValidator(_unique)] = Field(
        default=None, json_schema_extra={"uniqueItems": True}, examples=[[NETWORKS[0]["id"]]]
    )
    labels: Labels = Field(default_factory=dict, examples=[{"env": "prod"}])


class VMChanges(Request):
    """New values for what is given; `labels` replaces all labels."""

    name: Name = Field(default_factory=str, examples=["web-2"])
    labels: Labels = Field(default_factory=dict, examples=[{"env": "test"}])


class Reboot(Request):
    """SOFT asks the guest to restart; HARD cycles its power."""

    type: Literal["SOFT", "HARD"] = "SOFT"


class Resize(Request):
    """The flavor that a VM is to have."""

    flavor_id: UUID = Field(examples=[FLAVORS[2]["id"]])


class NoInput(Request):
    """An action that needs nothing."""


class Fault(Answer):
    """Why something failed: `code` is for programs, `message` for people."""

    code: str
    message: str


class VM(Answer):
    """A virtual machine; `task_state` says what is being done to it, `operation_id` by which operation."""

    id: UUID
    name: str
    status: Status
    task_state: TaskState | None
    flavor_id: UUID
    image_id: UUID
    labels: dict[str, str]
    fault: Fault | None
    operation_id: UUID
    confirm_by: datetime | None
    launched_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @computed_field(description="The actions that may begin right now, as the paths name them.")
    def allowed_actions(self) -> list[str]:
        """What the lifecycle table allows in the present state."""
        return _allowed(self.status, self.task_state, self.launched_at is not None)


@cache
def _allowed(status: Status, task_state: TaskState | None, launched: bool) -> list[str]:  # noqa: FBT001
    return lifecycle.allowed_actions(status, task_state, launched=launched)


class Operation(Answer):
    """What was asked of a resource, by whom, how far it is, and why it failed."""

    id: UUID
    action: Annotated[str, BeforeValidator(attrgetter("word"))]
    status: OperationStatus
    resource_type: str
    resource_id: UUID
    vm_id: UUID
    step: TaskState | None
    progress: int
    attempt: int
    last_error: str | None
    next_retry_at: datetime | None
    error: Fault | None
    request_id: str
    actor: str
    workflow_id: str
    temporal_url: str
    retry_of: UUID | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Flavor(Answer):
    """A size of VM: `ram_mb` in MiB, `disk_gb` in GiB."""

    id: UUID
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int


class Image(Answer):
    """What a VM boots from; `size_gb` in GiB."""

    id: UUID
    name: str
    os_distro: str
    os_version: str
    size_gb: int
    is_default: bool


class Network(Answer):
    """A network a VM can be attached to."""

    id: UUID
    name: str
    cidr: str
    gateway: str
    is_default: bool


class Health(Answer):
    """That the service is up."""

    status: Literal["ok"]
    name: str
    version: str


class Liveness(Answer):
    """That the process answers."""

    status: Literal["alive"]


class Check(Answer):
    """Whether something the service needs can be reached."""

    status: Literal["ok", "unavailable"]
    error: str | None = None


class Readiness(Answer):
    """Whether everything the service needs can be reached."""

    status: Literal["ready"]
    checks: dict[str, Check]


class FieldError(Answer):
    """One thing that is wrong with a request; exactly one of the last three says where."""

    code: str
    detail: str
    pointer: str | None = Field(default=None, examples=["#/name"])
    parameter: str | None = None
    header: str | None = None


class Problem(Answer):
    """An error (RFC 9457). The last five members come only with the problems they belong to."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldError] = []
    current_status: Status | None = None
    task_state: TaskState | None = None
    allowed_actions: list[str] = []
    checks: dict[str, Check] = {}


class Page(Answer, Generic[T]):
    """A part of a list; `next_cursor` leads to the part after it, null at the end."""

    items: list[T]
    total: int
    page: int
    page_size: int
    pages: int
    next_cursor: str | None


class VMPage(Page[VM]):
    """VMs."""


class OperationPage(Page[Operation]):
    """Operations."""


class FlavorPage(Page[Flavor]):
    """Flavors."""


class ImagePage(Page[Image]):
    """Images."""


class NetworkPage(Page[Network]):
    """Networks."""
