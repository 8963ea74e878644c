"""The mock cloud's own tables: a Postgres schema that every worker shares and the service never reads."""

from enum import StrEnum
from typing import Final

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, MetaData, Table, Text, Uuid, func, text
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
    comment="Scripted failures; `times` counts down, NULL is for ever; `vm_id` NULL is any VM.",
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
