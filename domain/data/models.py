"""The tables, as typed SQLAlchemy rows.

Statements run on Core connections (see queries.py): a fetched row has these attributes and is read-only.

Lock order: a transaction that locks several rows locks the VM first, then the operation, snapshots, volumes,
attachments, and addresses (interfaces) last. Two transactions that lock in different orders can deadlock.
The `owner_id` of a resource is the project that it belongs to (see projects.py).
"""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from domain.data.base import (
    Base,
    BootedFrom,
    Changing,
    InCloud,
    Labelled,
    Offered,
    Placed,
    Resizable,
    Timestamps,
    sql_list,
)
from domain.rules.lifecycle import legal_states
from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import OPEN_STATUSES, Action, OperationStatus, Status, TaskState

# The conditions of partial indexes. A query uses such an index only if it repeats the condition literally: the planner
# cannot prove that `status = $1` implies `status = 'QUEUED'`.
LIVE = text("status <> 'DELETED'")
DELETED = text("status = 'DELETED'")
IN_ERROR = text("status = 'ERROR'")
IN_CLOUD = text("cloud_id IS NOT NULL")


def _state_check() -> str:
    pairs = (f"{status}/{task_state or ''}" for status, task_state in legal_states())
    return f"status || '/' || coalesce(task_state, '') IN {sql_list(pairs)}"


class Flavor(Offered, Base):
    """A size of VM; `ram_mb` is in MiB, `disk_gb` in GiB. `cloud_id` is the cloud's id if that is no UUID."""

    __tablename__ = "flavors"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    vcpus: Mapped[int]
    ram_mb: Mapped[int]
    disk_gb: Mapped[int]
    cloud_id: Mapped[str | None]


class Image(Offered, Base):
    """A disk image that VMs boot from; `size_gb`, in GiB, is the smallest disk that holds it."""

    __tablename__ = "images"
    __table_args__ = (Index("uq_images_default", "is_default", unique=True, postgresql_where=text("is_default")),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    os_distro: Mapped[str | None]
    os_version: Mapped[str | None]
    size_gb: Mapped[int]
    is_default: Mapped[bool]


class Network(Offered, Base):
    """A network that VMs can be attached to; `allocates`: this service chooses the addresses, and not the cloud."""

    __tablename__ = "networks"
    __table_args__ = (Index("uq_networks_default", "is_default", unique=True, postgresql_where=text("is_default")),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    cidr: Mapped[str]
    gateway: Mapped[str | None]
    is_default: Mapped[bool]
    allocates: Mapped[bool] = mapped_column(server_default="true")


class VM(Changing, Resizable, Placed, InCloud, BootedFrom, Timestamps, Base):
    """A virtual machine; `operation_id` is the operation that holds it, or held it last.

    `attaching` counts the operations that are attaching a volume or an interface to it or detaching one from it.
    """

    __tablename__ = "vms"
    __table_args__ = (
        CheckConstraint(_state_check(), name="state"),
        CheckConstraint("fault IS NULL OR status = 'ERROR'", name="fault"),
        CheckConstraint("confirm_by IS NULL OR status = 'VERIFY_RESIZE'", name="confirm_by"),
        CheckConstraint("attaching >= 0", name="attaching"),
        Index("ix_vms_owner_created", "owner_id", "created_at", "id"),
        Index("ix_vms_owner_updated", "owner_id", "updated_at", "id"),
        Index("ix_vms_live_created", "owner_id", "created_at", "id", postgresql_where=LIVE),
        Index("ix_vms_live_updated", "owner_id", "updated_at", "id", postgresql_where=LIVE),
        Index("ix_vms_live_name", "owner_id", "name", "id", postgresql_where=LIVE),
        Index("ix_vms_owner_status", "owner_id", "status", "id"),
        Index("ix_vms_deleted", "updated_at", "id", postgresql_where=DELETED),
        Index("ix_vms_error", "updated_at", postgresql_where=IN_ERROR),
        Index("ix_vms_busy", "operation_id", postgresql_where=text("task_state IS NOT NULL")),
        Index("ix_vms_confirm_by", "confirm_by", postgresql_where=text("confirm_by IS NOT NULL")),
        Index("uq_vms_cloud_id", "cloud_id", unique=True, postgresql_where=IN_CLOUD),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    status: Mapped[Status]
    task_state: Mapped[TaskState | None]
    flavor_id: Mapped[UUID] = mapped_column(ForeignKey("flavors.id"))
    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id"))
    labels: Mapped[dict[str, str]]
    fault: Mapped[dict[str, Any] | None]
    operation_id: Mapped[UUID]
    attaching: Mapped[int] = mapped_column(server_default="0")
    confirm_by: Mapped[datetime | None]
    launched_at: Mapped[datetime | None]


class Snapshot(Changing, Labelled, InCloud, Timestamps, Base):
    """A saved state of a VM that can be restored: its disk as an image in the cloud, its flavor and its image.

    `size_gb` is in GiB; `operation_id` has the same meaning as in a VM.
    """

    __tablename__ = "snapshots"
    __table_args__ = (
        CheckConstraint(f"status IN {sql_list(SnapshotStatus)}", name="status"),
        Index("ix_snapshots_vm_created", "vm_id", "created_at", "id"),
        Index("ix_snapshots_live_created", "vm_id", "created_at", "id", postgresql_where=LIVE),
        Index("ix_snapshots_owner_created", "owner_id", "created_at", "id"),
        Index("ix_snapshots_owner_live_created", "owner_id", "created_at", "id", postgresql_where=LIVE),
        Index("ix_snapshots_owner_live_updated", "owner_id", "updated_at", "id", postgresql_where=LIVE),
        Index("ix_snapshots_owner_live_name", "owner_id", "name", "id", postgresql_where=LIVE),
        Index("ix_snapshots_owner_status", "owner_id", "status", "id"),
        Index("ix_snapshots_deleted", "updated_at", "id", postgresql_where=DELETED),
        Index("ix_snapshots_error", "updated_at", postgresql_where=IN_ERROR),
        Index("uq_snapshots_cloud_id", "cloud_id", unique=True, postgresql_where=IN_CLOUD),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    vm_id: Mapped[UUID] = mapped_column(ForeignKey("vms.id"))
    name: Mapped[str]
    status: Mapped[SnapshotStatus]
    size_gb: Mapped[int]
    flavor_id: Mapped[UUID] = mapped_column(ForeignKey("flavors.id"))
    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id"))
    operation_id: Mapped[UUID]


class Volume(Changing, Labelled, InCloud, Timestamps, Base):
    """A block device that outlives VMs; `size_gb` is in GiB. VMs can boot from one that was made from an image."""

    __tablename__ = "volumes"
    __table_args__ = (
        CheckConstraint(f"status IN {sql_list(VolumeStatus)}", name="status"),
        Index("ix_volumes_owner_created", "owner_id", "created_at", "id"),
        Index("ix_volumes_live_created", "owner_id", "created_at", "id", postgresql_where=LIVE),
        Index("ix_volumes_live_updated", "owner_id", "updated_at", "id", postgresql_where=LIVE),
        Index("ix_volumes_live_name", "owner_id", "name", "id", postgresql_where=LIVE),
        Index("ix_volumes_owner_status", "owner_id", "status", "id"),
        Index("ix_volumes_deleted", "updated_at", "id", postgresql_where=DELETED),
        Index("ix_volumes_error", "updated_at", postgresql_where=IN_ERROR),
        Index("ix_volumes_operation", "operation_id"),
        Index("uq_volumes_cloud_id", "cloud_id", unique=True, postgresql_where=IN_CLOUD),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    size_gb: Mapped[int]
    status: Mapped[VolumeStatus]
    operation_id: Mapped[UUID]
    image_id: Mapped[UUID | None] = mapped_column(ForeignKey("images.id"))
    reserved_gb: Mapped[int | None] = mapped_column(sort_order=5)  # its size once it is extended, for the quotas


class Attachment(Timestamps, Base):
    """The link between a volume and the one VM it is attached to; a detach deletes the row.

    `device` is NULL while only the cloud can know it.
    """

    __tablename__ = "attachments"
    __table_args__ = (
        CheckConstraint(f"status IN {sql_list(AttachmentStatus)}", name="status"),
        Index("uq_attachments_device", "vm_id", "device", unique=True),
    )

    volume_id: Mapped[UUID] = mapped_column(ForeignKey("volumes.id"), primary_key=True)
    vm_id: Mapped[UUID] = mapped_column(ForeignKey("vms.id"))
    device: Mapped[str | None]
    status: Mapped[AttachmentStatus]
    delete_on_termination: Mapped[bool]
    operation_id: Mapped[UUID]


class Interface(InCloud, Timestamps, Base):
    """A VM's port in a network; deleting the row frees its addresses.

    They are NULL while only the cloud can know them.
    """

    __tablename__ = "interfaces"
    __table_args__ = (
        CheckConstraint(f"status IN {sql_list(AttachmentStatus)}", name="status"),
        Index("uq_interfaces_ip_address", "network_id", "ip_address", unique=True),
        Index("uq_interfaces_mac_address_network", "mac_address", "network_id", unique=True),
        Index("ix_interfaces_vm_created", "vm_id", "created_at", "id"),
        Index("uq_interfaces_cloud_id", "cloud_id", unique=True, postgresql_where=IN_CLOUD),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    vm_id: Mapped[UUID] = mapped_column(ForeignKey("vms.id"))
    network_id: Mapped[UUID] = mapped_column(ForeignKey("networks.id"))
    ip_address: Mapped[str | None]
    mac_address: Mapped[str | None]
    status: Mapped[AttachmentStatus]
    operation_id: Mapped[UUID]


CloudResource = VM | Snapshot | Volume | Interface
"""The rows of what the cloud has, too."""

TURN = text("COALESCE(requested_by, owner_id)")  # whose turn to be delivered an operation uses
UNDELIVERED = text("status = 'QUEUED' AND deliveries < 1")
EARLIER_UNDELIVERED = text("status = 'QUEUED' AND deliveries = 0")
UNBEGUN = text("status = 'QUEUED' AND deliveries > 0")  # Temporal has the operation, but no worker has begun it
IN_TEMPORAL = text("(status = 'RUNNING' OR status = 'QUEUED' AND deliveries > 0)")


class Operation(Changing, Base):
    """An accepted request, its requester and its progress; also the outbox that the dispatcher delivers from.

    `requested_by` is the id of the user who asked for it, even if the service did it later; NULL if nobody did.
    `deliver_after` is the time of the next delivery attempt or, once delivered, of the next check of its workflow.
    `deliveries` counts those that Temporal acknowledged, the last at `delivered_at`; 0 again if it must be repeated.
    `signaled_run` is the run of the waiting workflow to which workflow recovery repeated the signal of a decision.
    `epoch` counts the workflows that were lost or closed too early. Only the workflow of this epoch records anything.
    `interruption` is the code that the operation ends with if its workflow closed without recording an end.
    `previous_status` is the status that "previous" means in the lifecycle table; NULL if the operation holds no VM.
    """

    __tablename__ = "operations"
    __table_args__ = (
        CheckConstraint(f"status IN {sql_list(OperationStatus)}", name="status"),
        CheckConstraint(f"(finished_at IS NULL) = (status IN {sql_list(OPEN_STATUSES)})", name="finished"),
        CheckConstraint("next_retry_at IS NULL OR finished_at IS NULL", name="retry"),
        Index("ix_operations_turns", "actor", "deliver_after", "id", postgresql_where=EARLIER_UNDELIVERED),
        Index("ix_operations_users", TURN, "deliver_after", "id", postgresql_where=UNDELIVERED),
        Index("ix_operations_delivered", "owner_id", postgresql_where=UNBEGUN),
        Index("ix_operations_looks", "deliver_after", postgresql_where=IN_TEMPORAL),
        Index("ix_operations_owner_created", "owner_id", "created_at", "id"),
        Index("ix_operations_owner_status", "owner_id", "status", "created_at", "id"),
        Index("ix_operations_owner_action", "owner_id", "action", "created_at", "id"),
        Index("ix_operations_finished", "finished_at", "id", postgresql_where=text("finished_at IS NOT NULL")),
        Index("ix_operations_interrupted", "finished_at", postgresql_where=text("interruption IS NOT NULL")),
        Index("ix_operations_retry_of", "retry_of", postgresql_where=text("retry_of IS NOT NULL")),
        Index("ix_operations_vm_created", "vm_id", "created_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    actor: Mapped[str]
    requested_by: Mapped[UUID | None]
    action: Mapped[Action]
    status: Mapped[OperationStatus] = mapped_column(server_default="QUEUED")
    resource_type: Mapped[str]
    resource_id: Mapped[UUID]
    vm_id: Mapped[UUID | None] = mapped_column(ForeignKey("vms.id"))
    input: Mapped[dict[str, Any]]
    previous_status: Mapped[Status | None]
    epoch: Mapped[int] = mapped_column(server_default="0")
    workflow_id: Mapped[str]
    step: Mapped[TaskState | None]
    progress: Mapped[int] = mapped_column(server_default="0")
    attempt: Mapped[int] = mapped_column(server_default="0")
    last_error: Mapped[str | None]
    next_retry_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    interruption: Mapped[str | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_requested_by: Mapped[str | None]
    request_id: Mapped[str]
    retry_of: Mapped[UUID | None] = mapped_column(ForeignKey("operations.id"))
    deliver_after: Mapped[datetime] = mapped_column(server_default=func.now())
    deliveries: Mapped[int] = mapped_column(server_default="0")
    delivered_at: Mapped[datetime | None]
    signaled_run: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
