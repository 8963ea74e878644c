"""The mock cloud's own tables: a Postgres schema that every worker shares and the service never reads."""

from enum import StrEnum
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    delete,
    func,
    inspect,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

SCHEMA: Final = "mock_cloud"
_LOCK: Final = 7_166_401_204  # serialises the making of the schema by workers that start together

metadata = MetaData(schema=SCHEMA)

servers = Table(
    "servers",
    metadata,
    Column("vm_id", Uuid, primary_key=True),
    Column("id", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    Column("name", Text, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("ram_mb", Integer, nullable=False),
    Column("disk_gb", Integer, nullable=False),
    Column("image_id", Uuid, nullable=False),
    # What the guest wrote when it last booted: it changes with every boot, and a restore brings it back.
    Column("content", Text),
    Column("status", Text, nullable=False),
    Column("fault", Text),
    Column("next_status", Text),  # what it turns into at `due_at`: time passes by data
    Column("next_fault", Text),
    Column("due_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_servers_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
)

ports = Table(
    "ports",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=func.gen_random_uuid()),
    Column("vm_id", Uuid, nullable=False, index=True),
    Column("network_id", Uuid, nullable=False),
    Column("ip_address", Text),
    Column("mac_address", Text),
    Index("uq_ports_ip_address", "network_id", "ip_address", unique=True),
    Index("uq_ports_mac_address", "mac_address", unique=True),
)

images = Table(
    "images",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("vm_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("content", Text),
    Column("due_at", DateTime(timezone=True), nullable=False),  # until then it is being saved
    Column("fault", Text),  # why it is in error then
    comment="What snapshots are kept in.",
)

volumes = Table(
    "volumes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("size_gb", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("vm_id", Uuid),
    Column("device", Text),
    Index("uq_volumes_device", "vm_id", "device", unique=True),
)

migrations = Table(
    "migrations",
    metadata,
    Column("vm_id", Uuid, primary_key=True),
    Column("old_vcpus", Integer, nullable=False),
    Column("old_ram_mb", Integer, nullable=False),
    Column("old_disk_gb", Integer, nullable=False),
    Column("old_status", Text, nullable=False),
    comment="Resizes that are neither confirmed nor reverted; the server's own row has the new size.",
)

calls = Table(
    "calls",
    metadata,
    Column("operation_id", Uuid, primary_key=True),
    Column("step", Text, primary_key=True),
    comment="Tokens whose effect is done, so that the same call again does nothing.",
)

hiccups = Table(
    "hiccups",
    metadata,
    Column("operation_id", Uuid, primary_key=True),
    Column("step", Text, primary_key=True),
    comment="Tokens that have had their transient failure (MOCK_TRANSIENT_RATE).",
)

revocations = Table(
    "revocations",
    metadata,
    Column("operation_id", Uuid, primary_key=True),
    comment="Operations whose tokens are refused.",
)

faults = Table(
    "faults",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("verb", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("times", Integer),
    Column("vm_id", Uuid),
    comment="Scripted failures; `times` counts down, NULL is for ever; `vm_id` (also a volume's id) NULL is any.",
)


class FaultMode(StrEnum):
    """How a scripted fault makes a call fail."""

    FAIL = "fail"  # before the effect; a retry may succeed
    REFUSE = "refuse"  # before the effect, for good
    FAIL_AFTER_EFFECT = "fail-after-effect"  # the effect is done, the answer is lost
    NEVER_ANSWER = "never-answer"  # before the effect; the call hangs


async def create_schema(tx: AsyncConnection) -> None:
    """Make the schema and its tables where they are missing."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    await tx.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    await tx.run_sync(metadata.create_all)
    await tx.run_sync(_complete)


def _complete(connection: Connection) -> None:
    """Give tables of an earlier version what has come since; its ports had no addresses, and are forgotten."""
    found = inspect(connection)
    for table in metadata.sorted_tables:
        present = {column["name"] for column in found.get_columns(table.name, SCHEMA)}
        for column in table.columns:
            if column.name not in present:
                kind = column.type.compile(connection.dialect)
                connection.execute(text(f"ALTER TABLE {table.fullname} ADD COLUMN {column.name} {kind}"))
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    connection.execute(delete(ports).where(ports.c.ip_address.is_(None)))
