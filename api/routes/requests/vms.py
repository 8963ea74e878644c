"""The bodies of requests about VMs."""

from typing import Annotated, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from api.routes.requests.base import Request, is_absent, is_empty, unique
from api.web.fields import IPAddress, Labels, Name, Text, Username
from api.web.guest_fields import KeyName, UserData
from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.data.seeds import AVAILABILITY_ZONES, SECURITY_GROUPS
from domain.rules.states import Status

T = TypeVar("T")

_MOST_NETWORKS = 64  # of one new VM
_MOST_KEYS = 32  # of one new VM
_MOST_GROUPS = 16


def _in_different_networks(interfaces: list["NewInterface"] | None) -> list["NewInterface"] | None:
    unique([interface.network_id for interface in interfaces or []])
    return interfaces


def _instead_of_network_ids(interfaces: T, info: ValidationInfo) -> T:
    if interfaces is not None and info.data.get("network_ids") is not None:
        raise PydanticCustomError("conflicting_fields", "Send either network_ids or interfaces")
    return interfaces


def _only_source(value: T | None, info: ValidationInfo) -> T | None:
    """Refuse a second field that says what the VM boots from; fields are validated in their order."""
    others = [name for name in ("image_id", "snapshot_id") if name != info.field_name and info.data.get(name)]
    if value is not None and others:
        message = "A VM boots from one thing: leave out this field or {other}"
        raise PydanticCustomError("conflicting_fields", message, {"other": others[0]})
    return value


class NewInterface(Request):
    """The network in which the VM gets an address, and that address if it matters which one."""

    network_id: UUID = Field(examples=[NETWORKS[0]["id"]])
    ip_address: IPAddress | None = Field(default=None, examples=["10.0.0.17"], exclude_if=is_absent)


class NewAttachment(Request):
    """The volume to attach; with `delete_on_termination` it is deleted together with the VM."""

    volume_id: UUID
    delete_on_termination: bool = Field(default=False, strict=True)


class NewVM(Request):
    """The VM to create. Without `image_id` or networks it gets the defaults; `[]` means no network.

    Instead of an image it can boot from the disk of a snapshot (`snapshot_id`), or from a volume that was created from
    an image (`boot_volume`). `interfaces` takes the place of `network_ids` where an address matters. Without
    `availability_zone` or `security_groups` the cloud chooses.
    """

    name: Name = Field(examples=["web-1"])
    flavor_id: UUID = Field(examples=[FLAVORS[1]["id"]])
    image_id: UUID | None = Field(default=None, examples=[IMAGES[0]["id"]])
    network_ids: Annotated[list[UUID] | None, AfterValidator(unique)] = Field(
        default=None, max_length=_MOST_NETWORKS, json_schema_extra={"uniqueItems": True}, examples=[[NETWORKS[0]["id"]]]
    )
    labels: Labels = Field(default_factory=dict, examples=[{"env": "prod"}])
    ssh_keys: Annotated[list[KeyName], AfterValidator(unique)] = Field(
        default_factory=list,
        max_length=_MOST_KEYS,
        json_schema_extra={"uniqueItems": True},
        description="Names of your SSH keys. cloud-init lets them log in as the image's user.",
        examples=[[]],
        exclude_if=is_empty,
    )
    user_data: UserData | None = Field(
        default=None, repr=False, examples=["#!/bin/sh\necho hello\n"], exclude_if=is_absent
    )
    interfaces: Annotated[
        list[NewInterface] | None, AfterValidator(_in_different_networks), AfterValidator(_instead_of_network_ids)
    ] = Field(default=None, max_length=_MOST_NETWORKS, exclude_if=is_absent)
    availability_zone: Annotated[Text, Field(min_length=1)] | None = Field(
        default=None, examples=[AVAILABILITY_ZONES[0]["name"]], exclude_if=is_absent
    )
    security_groups: Annotated[list[Annotated[Text, Field(min_length=1)]] | None, AfterValidator(unique)] = Field(
        default=None,
        min_length=1,
        max_length=_MOST_GROUPS,
        json_schema_extra={"uniqueItems": True},
        description="Names or, where several groups have one name, ids.",
        examples=[[SECURITY_GROUPS[1]["name"]]],
        exclude_if=is_absent,
    )
    snapshot_id: Annotated[UUID | None, AfterValidator(_only_source)] = Field(default=None, exclude_if=is_absent)
    boot_volume: Annotated[NewAttachment | None, AfterValidator(_only_source)] = Field(
        default=None, exclude_if=is_absent
    )


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
