"""The bodies of requests about VMs."""

from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from api.routes.requests.base import Request, errors_within, example, is_absent, is_empty, unique
from api.web.field_errors import MAX_ERRORS
from api.web.fields import IPAddress, Labels, Name, Text, Username
from api.web.guest_fields import KeyName, UserData
from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.data.seeds import AVAILABILITY_ZONES, SECURITY_GROUPS
from domain.rules.resources import MOST_INTERFACES
from domain.rules.states import Status

T = TypeVar("T")

_MOST_KEYS = 32  # of one new VM
_MOST_GROUPS = 16
_MOST_VOLUMES = 25  # beside what the VM boots from: it has so many devices
MOST_VMS = 100  # of one request
_NEW_VM = {
    "name": "web-1",
    "flavor": FLAVORS[1]["name"],
    "image": IMAGES[0]["name"],
    "networks": [NETWORKS[0]["name"]],
    "labels": {"env": "prod"},
}


def _checked_vms(vms: Any) -> Any:
    """The VMs, checked until there are more errors than a problem shows; all errors of 100 VMs would take a second."""
    if not isinstance(vms, list):
        return vms
    if len(vms) > MOST_VMS:
        raise PydanticCustomError("too_long", "There may be at most {most} VMs", {"most": MOST_VMS})
    checked, errors = list[NewVM](), list[InitErrorDetails]()
    for number, vm in enumerate(vms):
        try:
            checked.append(NewVM.model_validate(vm, from_attributes=True))  # from_attributes as FastAPI does it
        except ValidationError as error:
            errors += errors_within(number, error)
            if len(errors) > MAX_ERRORS:
                break
    if errors:
        raise ValidationError.from_exception_data("VMs", errors)
    return checked


def _in_different_networks(interfaces: list["NewInterface"] | None) -> list["NewInterface"] | None:
    unique([interface.network or interface.network_id for interface in interfaces or []])
    return interfaces


def _alone(*others: str, reason: str) -> AfterValidator:
    """Refuse the field beside any of the others, which come before it: fields are validated in their order."""

    def check(value: T | None, info: ValidationInfo) -> T | None:
        present = [name for name in others if info.data.get(name) is not None]
        if value is not None and present:
            message = "{reason}: leave out this field or {other}"
            raise PydanticCustomError("conflicting_fields", message, {"reason": reason, "other": present[0]})
        return value

    return AfterValidator(check)


def _one_of_two(other: str) -> AfterValidator:
    """Require the field or the other one, which comes before it, and refuse both."""

    def check(value: UUID | None, info: ValidationInfo) -> UUID | None:
        # The other one is missing here if it is invalid. That is an error by itself.
        if value is None and other in info.data and info.data[other] is None:
            raise PydanticCustomError("required", "Send {other} or this field", {"other": other})
        return value

    return AfterValidator(check)


_ONE_SOURCE = "A VM boots from one thing"
_ONE_WAY = "There is one way to name the networks of a request"
_ONE_NAME = "Name it once"
# A name or an id. Names of a cloud's flavors, images and networks are texts of any form.
NameOrId = Annotated[Text, Field(min_length=1)]


class NewInterface(Request):
    """The network in which the VM gets an address, and that address if it matters which one.

    The network is named by `network` or by `network_id`.
    """

    model_config = example(network=NETWORKS[0]["name"], ip_address="10.0.0.17")

    network: NameOrId | None = Field(
        default=None,
        description="The network's name, if only one has it, or its id.",
        examples=[NETWORKS[0]["name"]],
        exclude_if=is_absent,
    )
    network_id: Annotated[UUID | None, _alone("network", reason=_ONE_NAME), _one_of_two("network")] = Field(
        default=None, validate_default=True, examples=[NETWORKS[0]["id"]]
    )
    ip_address: IPAddress | None = Field(default=None, examples=["10.0.0.17"], exclude_if=is_absent)


class NewAttachment(Request):
    """The volume to attach; with `delete_on_termination` it is deleted together with the VM."""

    volume_id: UUID
    delete_on_termination: bool = Field(default=False, strict=True)


class NewVM(Request):
    """The VM to create. It needs `flavor` or `flavor_id`.

    Without an image or networks it gets the defaults; `[]` means no network. `flavor`, `image` and `networks` take the
    names of things or, where several have one name, their ids; `flavor_id`, `image_id` and `network_ids` take ids.
    Instead of an image it can boot from the disk of a snapshot (`snapshot_id`), or from a volume that was created from
    an image (`boot_volume`). `interfaces` takes the place of the networks where an address matters. Without
    `availability_zone` or `security_groups` the cloud chooses.
    """

    model_config = example(**_NEW_VM)

    name: Name = Field(examples=["web-1"])
    flavor: NameOrId | None = Field(
        default=None,
        description="The flavor's name, if only one has it, or its id.",
        examples=[FLAVORS[1]["name"]],
        exclude_if=is_absent,
    )
    flavor_id: Annotated[UUID | None, _alone("flavor", reason=_ONE_NAME), _one_of_two("flavor")] = Field(
        default=None, validate_default=True, examples=[FLAVORS[1]["id"]]
    )
    image_id: UUID | None = Field(default=None, examples=[IMAGES[0]["id"]])
    image: Annotated[NameOrId | None, _alone("image_id", reason=_ONE_SOURCE)] = Field(
        default=None,
        description="The image's name, if only one has it, or its id.",
        examples=[IMAGES[0]["name"]],
        exclude_if=is_absent,
    )
    network_ids: Annotated[list[UUID] | None, AfterValidator(unique)] = Field(
        default=None,
        max_length=MOST_INTERFACES,
        json_schema_extra={"uniqueItems": True},
        examples=[[NETWORKS[0]["id"]]],
    )
    networks: Annotated[list[NameOrId] | None, AfterValidator(unique), _alone("network_ids", reason=_ONE_WAY)] = Field(
        default=None,
        max_length=MOST_INTERFACES,
        json_schema_extra={"uniqueItems": True},
        description="Names or, where several networks have one name, ids.",
        examples=[[NETWORKS[0]["name"]]],
        exclude_if=is_absent,
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
        list[NewInterface] | None,
        AfterValidator(_in_different_networks),
        _alone("network_ids", "networks", reason=_ONE_WAY),
    ] = Field(default=None, max_length=MOST_INTERFACES, exclude_if=is_absent)
    availability_zone: NameOrId | None = Field(
        default=None, examples=[AVAILABILITY_ZONES[0]["name"]], exclude_if=is_absent
    )
    security_groups: Annotated[list[NameOrId] | None, AfterValidator(unique)] = Field(
        default=None,
        min_length=1,
        max_length=_MOST_GROUPS,
        json_schema_extra={"uniqueItems": True},
        description="Names or, where several groups have one name, ids.",
        examples=[[SECURITY_GROUPS[1]["name"]]],
        exclude_if=is_absent,
    )
    snapshot_id: Annotated[UUID | None, _alone("image_id", "image", reason=_ONE_SOURCE)] = Field(
        default=None, exclude_if=is_absent
    )
    boot_volume: Annotated[NewAttachment | None, _alone("image_id", "image", "snapshot_id", reason=_ONE_SOURCE)] = (
        Field(default=None, exclude_if=is_absent)
    )
    volumes: list[NewAttachment] = Field(
        default_factory=list,
        max_length=_MOST_VOLUMES,
        description="Volumes that are AVAILABLE, to be attached while the VM is built.",
        exclude_if=is_empty,
    )
    project_id: UUID | None = Field(
        default=None, description="The project that it is to belong to; by default your own.", exclude_if=is_absent
    )


class NewVMs(Request):
    """The VMs to create: all of them, or none."""

    model_config = example(vms=[_NEW_VM, _NEW_VM | {"name": "web-2"}])

    vms: Annotated[list[NewVM], BeforeValidator(_checked_vms)] = Field(min_length=1, max_length=MOST_VMS)


class Reboot(Request):
    """SOFT asks the guest to restart; HARD cycles its power."""

    type: Literal["SOFT", "HARD"] = "SOFT"


class Resize(Request):
    """The new flavor of the VM, named by `flavor` or by `flavor_id`."""

    model_config = example(flavor=FLAVORS[2]["name"])

    flavor: NameOrId | None = Field(
        default=None,
        description="The flavor's name, if only one has it, or its id.",
        examples=[FLAVORS[2]["name"]],
        exclude_if=is_absent,
    )
    flavor_id: Annotated[UUID | None, _alone("flavor", reason=_ONE_NAME), _one_of_two("flavor")] = Field(
        default=None, validate_default=True, examples=[FLAVORS[2]["id"]]
    )


class ResetState(Request):
    """The new status of the VM."""

    status: Literal[Status.ACTIVE, Status.SHUTOFF, Status.VERIFY_RESIZE, Status.ERROR]


class Adoption(Request):
    """The project that gets the VM, or the user whose personal project gets it."""

    model_config = example(username="ada")

    project_id: UUID | None = Field(default=None, exclude_if=is_absent)
    username: Annotated[Username | None, _alone("project_id", reason=_ONE_NAME), _one_of_two("project_id")] = Field(
        default=None, validate_default=True, examples=["ada"], exclude_if=is_absent
    )
