"""The mock cloud's own tables, in a PostgreSQL schema that all workers share and the service itself never reads."""

from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    delete,
    func,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends import own_schema
from domain.data import advisory_locks

SCHEMA: Final = "mock_cloud"

metadata = MetaData(schema=SCHEMA)


def _cloud_id(name: str = "cloud_id") -> Column[UUID]:
    # Earlier versions insert rows without it.
    return Column(name, Uuid, nullable=False, server_default=func.gen_random_uuid())


def _made_at() -> Column[datetime]:
    # Rows of earlier versions get the time of the upgrade.
    return Column("made_at", DateTime(timezone=True), nullable=False, server_default=func.now())


servers = Table(
    "servers",
    metadata,
    Column("vm_id", Uuid, primary_key=True),
    _cloud_id("id"),
    Column("name", Text, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("ram_mb", Integer, nullable=False),
    Column("disk_gb", Integer, nullable=False),
    Column("image_id", Uuid, nullable=False),
    Column("user_data", LargeBinary),
    Column("boot_volume_id", Uuid),
    # Represents the guest's disk: it changes with every boot, and a restore brings back an earlier value.
    Column("content", Text),
    Column("status", Text, nullable=False),
    Column("fault", Text),
    Column("zone", Text),
    # At `due_at` the next reader of the table gives the server this status. No process has to live until then.
    Column("next_status", Text),
    Column("next_fault", Text),
    Column("due_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_servers_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("uq_servers_id", "id", unique=True),
)

ports = Table(
    "ports",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=func.gen_random_uuid()),  # of the interface
    _cloud_id(),
    Column("vm_id", Uuid, nullable=False, index=True),
    Column("network_id", Uuid, nullable=False),
    Column("ip_address", Text),
    Column("mac_address", Text),
    Column("security_groups", ARRAY(Text)),
    Index("uq_ports_ip_address", "network_id", "ip_address", unique=True),
    Index("uq_ports_mac_address", "network_id", "mac_address", unique=True),
    Index("uq_ports_cloud_id", "cloud_id", unique=True),
)

images = Table(
    "images",
    metadata,
    Column("id", Uuid, primary_key=True),  # of the snapshot
    _cloud_id(),
    Column("vm_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("content", Text),
    Column("due_at", DateTime(timezone=True), nullable=False),  # the image is being saved until then
    Column("fault", Text),  # set if the image is in error from then on
    Index("uq_images_cloud_id", "cloud_id", unique=True),
    comment="The images of snapshots.",
)

volumes = Table(
    "volumes",
    metadata,
    Column("id", Uuid, primary_key=True),  # of the volume in the service
    _cloud_id(),
    Column("name", Text, nullable=False),
    Column("size_gb", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("vm_id", Uuid),
    Column("device", Text),
    Column("image_id", Uuid),  # servers can boot from it only if it has one
    Index("uq_volumes_device", "vm_id", "device", unique=True),
    Index("uq_volumes_cloud_id", "cloud_id", unique=True),
)

migrations = Table(
    "migrations",
    metadata,
    Column("vm_id", Uuid, primary_key=True),
    Column("old_vcpus", Integer, nullable=False),
    Column("old_ram_mb", Integer, nullable=False),
    Column("old_disk_gb", Integer, nullable=False),
    Column("old_status", Text, nullable=False),
    comment="The old sizes of servers whose resize is not decided yet; the server's own row has the new size.",
)

calls = Table(
    "calls",
    metadata,
    Column("operation_id", Uuid, primary_key=True),
    Column("step", Text, primary_key=True),
    _made_at(),
    Index("ix_calls_made_at", "made_at"),
    comment="Tokens whose call took effect; the same call again does nothing.",
)

transient_failures = Table(
    "hiccups",  # the name that earlier versions created; their rows are still used
    metadata,
    Column("operation_id", Uuid, primary_key=True),
    Column("step", Text, primary_key=True),
    _made_at(),
    Index("ix_hiccups_made_at", "made_at"),
    comment="Tokens whose call failed once (MOCK_TRANSIENT_RATE); the same call again succeeds.",
)

revocations = Table(
    "revocations",
    metadata,
    Column("operation_id", Uuid, primary_key=True),
    _made_at(),
    Index("ix_revocations_made_at", "made_at"),
    comment="Operations whose calls are refused.",
)

faults = Table(
    "faults",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("verb", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("times", Integer),
    Column("vm_id", Uuid),
    comment="Scripted faults. `times` counts down, NULL is for ever. `vm_id` is the target of the call, NULL is any.",
)


OF_CALLS: Final = tuple(table.c.made_at for table in (calls, transient_failures, revocations))
"""For each table about calls, when a row was made: old rows are deleted."""


class FaultMode(StrEnum):
    """How a scripted fault makes a call fail."""

    FAIL = "fail"  # no effect; a retry may succeed
    REFUSE = "refuse"  # no effect; a retry does not help
    FAIL_AFTER_EFFECT = "fail-after-effect"  # the call takes effect, but its answer is lost
    NEVER_ANSWER = "never-answer"  # no effect; the call hangs


async def create_schema(tx: AsyncConnection) -> None:
    """Create the schema and its tables if they are missing, and add what those of an earlier version lack."""
    if await own_schema.complete(tx, metadata, advisory_locks.MOCK_CLOUD_SCHEMA):
        # Ports of an early version have no address.
        await tx.execute(delete(ports).where(ports.c.ip_address.is_(None)))
