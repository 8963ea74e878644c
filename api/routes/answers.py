"""The bodies of answers; each reads its fields from a row."""

from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, computed_field

from api.web.models import Answer, Check, Page
from domain.rules import lifecycle
from domain.rules.resources import AttachmentStatus, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import OperationStatus, Status, TaskState


class User(Answer):
    """A user's profile."""

    id: UUID
    username: str
    email: str
    created_at: datetime


class TokenPair(Answer):
    """The tokens of a login; `expires_in` is the lifetime of the access token in seconds."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - a type of token, not a secret
    expires_in: int


class Fault(Answer):
    """Why something failed: `code` is for programs, `message` for people."""

    code: str
    message: str


def _names(groups: list[dict[str, str]] | None) -> list[str] | None:
    return None if groups is None else [group["name"] for group in groups]


class VM(Answer):
    """A virtual machine; `task_state` is the step that its operation is in, null if the VM is idle.

    `snapshot_id` or `boot_volume_id` is set if it was built from a snapshot, or boots from a volume. `image_id` is then
    the image from which that was made. `availability_zone` is null until the cloud has chosen it, if its request did
    not. `security_groups` are those that its request asked for, by name; null means the cloud's default group.
    """

    id: UUID
    name: str
    status: Status
    task_state: TaskState | None
    flavor_id: UUID
    image_id: UUID
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


class Snapshot(Answer):
    """The disk of a VM at one moment; `size_gb` in GiB. A restore also brings `flavor_id` and `image_id` back."""

    id: UUID
    vm_id: UUID
    name: str
    status: SnapshotStatus
    size_gb: int
    flavor_id: UUID
    image_id: UUID
    operation_id: UUID
    created_at: datetime
    updated_at: datetime


class Volume(Answer):
    """A block device that outlives VMs; `size_gb` in GiB. `vm_id` and `device` are set while it is attached.

    `image_id` is the image from which it was created, if any; then it is `bootable`.
    """

    id: UUID
    name: str
    size_gb: int
    status: VolumeStatus
    vm_id: UUID | None = None
    device: str | None = None
    image_id: UUID | None
    operation_id: UUID
    created_at: datetime
    updated_at: datetime

    @computed_field(description="Whether VMs can boot from it.")
    def bootable(self) -> bool:
        """Whether it was created from an image."""
        return self.image_id is not None


class Attachment(Answer):
    """The attachment of a volume to a VM; `device` is null until the cloud has chosen it."""

    volume_id: UUID
    vm_id: UUID
    device: str | None = Field(examples=["/dev/vdb"])
    status: AttachmentStatus
    delete_on_termination: bool
    operation_id: UUID
    created_at: datetime


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


class Flavor(Answer):
    """A size of VM: `ram_mb` in MiB, `disk_gb` in GiB. `is_available`: VMs can still get it."""

    id: UUID
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    is_available: bool


class Image(Answer):
    """An image from which VMs boot; `size_gb`, in GiB, is the smallest disk that holds it.

    `os_distro` and `os_version` are null if the image does not tell. `is_available`: VMs can still get it.
    """

    id: UUID
    name: str
    os_distro: str | None
    os_version: str | None
    size_gb: int
    is_default: bool
    is_available: bool


class Network(Answer):
    """A network to which VMs can be attached; `gateway` is null if it has none.

    `free_addresses` is the number of addresses that no interface has; it is null if only the cloud knows it.
    `is_available`: VMs can still be attached to it.
    """

    id: UUID
    name: str
    cidr: str
    gateway: str | None
    is_default: bool
    free_addresses: int | None
    is_available: bool


class Health(Answer):
    """The service is up."""

    status: Literal["ok"]
    name: str
    version: str


class Liveness(Answer):
    """The process answers."""

    status: Literal["alive"]


class Readiness(Answer):
    """Whether all services that the API needs are available."""

    status: Literal["ready"]
    checks: dict[str, Check]


class VMPage(Page[VM]):
    """VMs."""


class SnapshotPage(Page[Snapshot]):
    """Snapshots."""


class VolumePage(Page[Volume]):
    """Volumes."""


class AttachmentPage(Page[Attachment]):
    """Attachments of volumes."""


class InterfacePage(Page[Interface]):
    """Interfaces."""


class OperationPage(Page[Operation]):
    """Operations."""


class AttentionPage(Page[Attention]):
    """What needs attention."""


class FlavorPage(Page[Flavor]):
    """Flavors."""


class ImagePage(Page[Image]):
    """Images."""


class NetworkPage(Page[Network]):
    """Networks."""
