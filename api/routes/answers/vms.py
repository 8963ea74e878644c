"""The bodies of answers about VMs and their interfaces."""

from datetime import datetime
from functools import cache
from typing import Annotated
from uuid import UUID

from pydantic import BeforeValidator, Field, computed_field

from api.routes.answers.operations import Fault
from api.web.models import Answer, Page
from domain.rules import lifecycle
from domain.rules.resources import AttachmentStatus
from domain.rules.states import Status, TaskState


def _names(groups: list[dict[str, str]] | None) -> list[str] | None:
    return None if groups is None else [group["name"] for group in groups]


class Size(Answer):
    """The flavor of a VM: `ram_mb` in MiB, `disk_gb` in GiB."""

    id: UUID
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int


class Address(Answer):
    """An address of a VM in a network; the addresses are null until the cloud has chosen them."""

    network_id: UUID
    network: str = Field(description="The network's name.")
    ip_address: str | None = Field(examples=["10.0.0.17"])
    mac_address: str | None = Field(examples=["fa:16:3e:7c:55:01"])


class AttachedVolume(Answer):
    """A volume of a VM; `device` is null until the cloud has chosen it."""

    volume_id: UUID
    device: str | None = Field(examples=["/dev/vdb"])


class VM(Answer):
    """A virtual machine; `task_state` is the step that its operation is in, null if the VM is idle.

    `previous_flavor_id` is set in VERIFY_RESIZE: a revert of the resize brings that flavor back.

    `snapshot_id` or `boot_volume_id` is set if it was built from a snapshot, or boots from a volume. `image_id` is then
    the image from which that was made. `availability_zone` is null until the cloud has chosen it, if its request did
    not. `security_groups` are those that its request asked for, by name; null means the cloud's default group.
    """

    id: UUID
    project_id: UUID = Field(validation_alias="owner_id")
    name: str
    status: Status
    task_state: TaskState | None
    flavor_id: UUID
    flavor: Size
    previous_flavor_id: UUID | None
    image_id: UUID
    addresses: list[Address]
    volumes: list[AttachedVolume]
    labels: dict[str, str]
    fault: Fault | None
    operation_id: UUID
    attaching: int = Field(exclude=True)
    confirm_by: datetime | None
    launched_at: datetime | None
    snapshot_id: UUID | None
    boot_volume_id: UUID | None
    availability_zone: str | None
    security_groups: Annotated[list[str] | None, BeforeValidator(_names)]
    created_at: datetime
    updated_at: datetime

    @computed_field(description="The names of the actions that are allowed right now.")
    def allowed_actions(self) -> list[str]:
        """The actions that the lifecycle table allows in the present state."""
        return _allowed(self.status, self.task_state, self.launched_at is not None, self.attaching > 0)


@cache
def _allowed(status: Status, task_state: TaskState | None, launched: bool, attaching: bool) -> list[str]:  # noqa: FBT001
    return lifecycle.allowed_actions(status, task_state, launched=launched, attaching=attaching)


class VMs(Answer):
    """New VMs, in the order of their request."""

    items: list[VM]


class Interface(Answer):
    """The interface of a VM in a network; its addresses are null until the cloud has chosen them."""

    id: UUID
    vm_id: UUID
    network_id: UUID
    ip_address: str | None = Field(examples=["10.0.0.17"])
    mac_address: str | None = Field(examples=["fa:16:3e:7c:55:01"])
    status: AttachmentStatus
    operation_id: UUID
    created_at: datetime


class ConsoleLog(Answer):
    """What a console has shown. `is_truncated`: the lines have more than 256 KiB, and the first of them are missing."""

    output: str
    is_truncated: bool


class Console(Answer):
    """A console that can be used at an address, which is secret; its type in Nova's words."""

    type: str = Field(examples=["novnc"])
    url: str


class VMPage(Page[VM]):
    """VMs. `next_changes_since` of the first page is what to send as `changes_since` next time."""

    next_changes_since: datetime


class InterfacePage(Page[Interface]):
    """Interfaces."""
