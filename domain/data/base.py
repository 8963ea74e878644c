"""What all tables share: the naming of constraints and the column types of our enums."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import DateTime, Enum, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState


def sql_list(values: Iterable[str]) -> str:
    """The values as a list of SQL literals, in a stable order."""
    return f"({', '.join(repr(str(value)) for value in sorted(values))})"


def _words(enum: type[StrEnum]) -> Enum:
    return Enum(
        enum,
        native_enum=False,
        create_constraint=False,
        length=32,
        values_callable=lambda e: [m.value for m in e],
    )


class Base(DeclarativeBase):
    """All tables of the service; every constraint has a name that migrations can refer to."""

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
        Action: _words(Action),
        Status: _words(Status),
        TaskState: _words(TaskState),
        OperationStatus: _words(OperationStatus),
        SnapshotStatus: _words(SnapshotStatus),
        VolumeStatus: _words(VolumeStatus),
        AttachmentStatus: _words(AttachmentStatus),
    }
