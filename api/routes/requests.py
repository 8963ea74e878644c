"""The bodies that clients send. Unknown fields are rejected."""

from itertools import islice
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.web.field_errors import MAX_ERRORS
from api.web.fields import WHOLE, Email, Labels, Name, NewPassword, Password, Secret, Text, Username
from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.rules.states import Status

_MOST_NETWORKS = 64  # of one new VM


def _unique(ids: list[UUID] | None) -> list[UUID] | None:
    if ids and len(set(ids)) < len(ids):
        raise PydanticCustomError("repeated_items", "Each id may appear once")
    return ids


class Request(BaseModel):
    """The base of every body."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_most_unknown_fields(cls, data: Any) -> Any:
        # pydantic makes an error for each of them, and all errors at once. That takes long for thousands.
        if not isinstance(data, dict) or len(data) <= len(cls.model_fields) + MAX_ERRORS:
            return data
        unknown = islice((name for name in data if name not in cls.model_fields), MAX_ERRORS + 1)
        kept = {*cls.model_fields, *unknown}
        return {name: value for name, value in data.items() if name in kept}


class Registration(Request):
    """A new user."""

    username: Username = Field(examples=["ada"])
    email: Email = Field(examples=["ada@example.com"])
    password: NewPassword = Field(examples=["Correct-horse-1"])


class Credentials(Request):
    """A username and its password."""

    username: Text = Field(examples=["ada"])
    password: Password = Field(examples=["Correct-horse-1"])


class RefreshRequest(Request):
    """The refresh token of the last login or refresh."""

    refresh_token: Secret = Field(max_length=4096)


class NewVM(Request):
    """The VM to create. Without `image_id` or `network_ids` it gets the defaults; `[]` means no network."""

    name: Name = Field(examples=["web-1"])
    flavor_id: UUID = Field(examples=[FLAVORS[1]["id"]])
    image_id: UUID | None = Field(default=None, examples=[IMAGES[0]["id"]])
    network_ids: Annotated[list[UUID] | None, AfterValidator(_unique)] = Field(
        default=None, max_length=_MOST_NETWORKS, json_schema_extra={"uniqueItems": True}, examples=[[NETWORKS[0]["id"]]]
    )
    labels: Labels = Field(default_factory=dict, examples=[{"env": "prod"}])


class VMChanges(Request):
    """The fields to change; `labels` replaces all labels."""

    name: Name = Field(default_factory=str, examples=["web-2"])
    labels: Labels = Field(default_factory=dict, examples=[{"env": "test"}])


class Reboot(Request):
    """SOFT asks the guest to restart; HARD cycles its power."""

    type: Literal["SOFT", "HARD"] = "SOFT"


class Resize(Request):
    """The new flavor of the VM."""

    flavor_id: UUID = Field(examples=[FLAVORS[2]["id"]])


class ResetState(Request):
    """The new status of the VM."""

    status: Literal[Status.ACTIVE, Status.SHUTOFF, Status.VERIFY_RESIZE, Status.ERROR]


class Adoption(Request):
    """The user who gets the VM."""

    username: Username = Field(examples=["ada"])


class NewSnapshot(Request):
    """The snapshot to take."""

    name: Name = Field(examples=["before-upgrade"])


class NewVolume(Request):
    """The volume to create; `size_gb` in GiB."""

    name: Name = Field(examples=["data-1"])
    size_gb: Annotated[int, Field(ge=1, le=16_384, strict=True), WHOLE] = Field(examples=[10])


class NewAttachment(Request):
    """The volume to attach; with `delete_on_termination` it is deleted together with the VM."""

    volume_id: UUID
    delete_on_termination: bool = Field(default=False, strict=True)


class NewInterface(Request):
    """The network in which the VM gets an address."""

    network_id: UUID = Field(examples=[NETWORKS[0]["id"]])


class NoInput(Request):
    """The empty body of an action that needs no input."""
