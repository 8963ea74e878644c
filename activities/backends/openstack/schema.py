"""The tables of the ledger, in a PostgreSQL schema that all workers share and the service itself never reads."""

from enum import StrEnum
from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data import advisory_locks

SCHEMA: Final = "openstack_cloud"

metadata = MetaData(schema=SCHEMA)


class Outcome(StrEnum):
    """What is known of an attempt."""

    UNSENT = "unsent"  # the cloud received nothing
    AMBIGUOUS = "ambiguous"  # it was sent, or is being sent, and the cloud may have carried it out or still do so
    ACCEPTED = "accepted"
    REFUSED = "refused"  # the cloud received it and did nothing


calls = Table(
    "calls",
    metadata,
    Column("operation_id", Uuid, primary_key=True),
    Column("step", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("verb", Text, nullable=False),
    Column("compensates", Boolean, nullable=False),
    # The run of the call that may send this attempt. A later run takes an attempt over that was not sent.
    Column("run_id", Uuid, nullable=False),
    Column("outcome", Text, nullable=False),
    # By the clock of the cloud's service, to be compared with the times of its own records.
    Column("intent_at", DateTime(timezone=True), nullable=False),
    Column("sent_at", DateTime(timezone=True)),
    # A request may be on its way until then; NULL once its end is known.
    Column("in_flight_until", DateTime(timezone=True)),
    Column("request_id", Text),
    Column("cloud_id", Text),
    Column("code", Text),  # of the error, if there was one
    Column("touched_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Index("ix_calls_touched_at", "touched_at"),
    comment="Attempts to carry out a call, by the call's token.",
)

revocations = Table(
    "revocations",
    metadata,
    Column("operation_id", Uuid, primary_key=True),
    Column("revoked_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Index("ix_revocations_revoked_at", "revoked_at"),
    comment="Operations whose calls are refused.",
)


async def create_schema(tx: AsyncConnection) -> None:
    """Create the schema and its tables if they are missing; if nothing is missing, this needs no right to do so."""
    if await tx.run_sync(_is_complete):
        return
    # Workers that start together create it one after the other.
    await tx.execute(select(func.pg_advisory_xact_lock(advisory_locks.OPENSTACK_CLOUD_SCHEMA)))
    await tx.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    await tx.run_sync(metadata.create_all)


def _is_complete(connection: Connection) -> bool:
    return {table.name for table in metadata.sorted_tables} <= set(inspect(connection).get_table_names(SCHEMA))
