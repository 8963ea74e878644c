"""What clients send. Nothing is known that is not here."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints
from pydantic_core import PydanticCustomError

from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.rules.states import Status

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


class ResetState(Request):
    """The status that a VM is to show."""

    status: Literal[Status.ACTIVE, Status.SHUTOFF, Status.VERIFY_RESIZE, Status.ERROR]


class NewSnapshot(Request):
    """A snapshot to be taken."""

    name: Name = Field(examples=["before-upgrade"])


class NewVolume(Request):
    """A volume to be made; `size_gb` in GiB."""

    name: Name = Field(examples=["data-1"])
    size_gb: int = Field(ge=1, le=16_384, strict=True, examples=[10])


class NewAttachment(Request):
    """A volume to be attached; with `delete_on_termination` it is deleted with the VM."""

    volume_id: UUID
    delete_on_termination: bool = Field(default=False, strict=True)


class NewInterface(Request):
    """A network that a VM is to have an address in."""

    network_id: UUID = Field(examples=[NETWORKS[0]["id"]])


class NoInput(Request):
    """An action that needs nothing."""
