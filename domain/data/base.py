"""What all tables share: names of constraints, column types of the enums, timestamps."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import DateTime, Enum, MetaData, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

from domain.rules.access import ProjectRole
from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState


def sql_list(values: Iterable[str]) -> str:
    """The values as a list of SQL literals, in a stable order."""
    return f"({', '.join(repr(str(value)) for value in sorted(values))})"


def _enum(enum: type[StrEnum]) -> Enum:
    # Text, whose values a CHECK constraint limits: PostgreSQL cannot remove a value from a native enum type.
    return Enum(
        enum,
        native_enum=False,
        create_constraint=False,
        length=32,
        values_callable=lambda e: [m.value for m in e],
    )


class Base(DeclarativeBase):
    """The base of all tables; every constraint gets a name that migrations can refer to."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        str: Text,
        dict[str, Any]: JSONB(none_as_null=True),
        dict[str, str]: JSONB,
        list[dict[str, str]]: JSONB(none_as_null=True),
        Action: _enum(Action),
        Status: _enum(Status),
        TaskState: _enum(TaskState),
        OperationStatus: _enum(OperationStatus),
        SnapshotStatus: _enum(SnapshotStatus),
        VolumeStatus: _enum(VolumeStatus),
        AttachmentStatus: _enum(AttachmentStatus),
        ProjectRole: _enum(ProjectRole),
    }


class Timestamps:
    """The last two columns of a table: when a row was created, and when it last changed."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=1)
    # now() is the time when the transaction began. An older transaction may get a row's lock after a younger one, and
    # would set the time of the row back.
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.clock_timestamp(), sort_order=1
    )


class XID8(UserDefinedType[int]):
    """The id of a transaction, which PostgreSQL never uses twice."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The name of the type."""
        return "xid8"


ischema_names["xid8"] = XID8  # for Alembic, which reads the types of a database's columns


class Changing:
    """The last column of a table whose changes clients can follow: the transaction that changed the row last.

    A trigger writes it (migration 0015), so that no writer can forget it. What a client sees of a VM includes its
    interfaces and attachments: a transaction that changes one of these must also update the row of the VM.
    """

    changed: Mapped[int | None] = mapped_column(XID8, index=True, sort_order=4)


class Offered:
    """The last columns of a table of the catalogue: whether one can ask for the row, and since when one cannot.

    If one can no longer, the row stays, because VMs may have it, but no list has it. `domain/upkeep/withdrawn.py` says
    how long.
    """

    is_available: Mapped[bool] = mapped_column(server_default="true", sort_order=1)
    withdrawn_at: Mapped[datetime | None] = mapped_column(sort_order=2)


class Placed:
    """The last columns of a VM's row: what its request said about where it is to be; NULL leaves that to the cloud.

    Each security group has the `id` that the cloud gave it and the `name` that it had then.
    """

    availability_zone: Mapped[str | None] = mapped_column(sort_order=3)
    security_groups: Mapped[list[dict[str, str]] | None] = mapped_column(sort_order=3)


class Labelled:
    """A column of a table whose rows the owner may label; VMs have one of their own, which is older."""

    labels: Mapped[dict[str, str]] = mapped_column(server_default="{}", sort_order=3)


class BootedFrom:
    """Columns of a VM whose disk is not a copy of its image: it was built from a snapshot, or boots from a volume.

    The snapshot or the volume may be deleted by now.
    """

    snapshot_id: Mapped[UUID | None] = mapped_column(sort_order=3)
    boot_volume_id: Mapped[UUID | None] = mapped_column(sort_order=3)


class Resizable:
    """Columns of a VM: what it needs at most while an operation changes its flavor, for the quotas of its project.

    Triggers empty them when the operation has ended (migration 0020).
    """

    reserved_vcpus: Mapped[int | None] = mapped_column(sort_order=5)
    reserved_ram_mb: Mapped[int | None] = mapped_column(sort_order=5)


class InCloud:
    """The last column of a table: the id that the cloud has given to its resource.

    It is NULL until an activity has written it, and stays NULL in rows whose resource an earlier version has created.
    """

    cloud_id: Mapped[str | None] = mapped_column(sort_order=2)
