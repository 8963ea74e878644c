"""The tables of the ledger, in a PostgreSQL schema that all workers share and the service itself never reads."""

from enum import StrEnum
from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends import own_schema
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
    """Create the schema and its tables if they are missing, and add what those of an earlier version lack."""
    await own_schema.complete(tx, metadata, advisory_locks.OPENSTACK_CLOUD_SCHEMA)
