"""The one way into the audit: a security event is recorded in the transaction of what it tells of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import NOWHERE, Requester, Source
from domain.data.audit import AuditEvent
from domain.rules.accounts import Event, Outcome

SERVER: Final = "@server"
"""The actor of what a command on the server does; no username begins with an @."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody who has not logged in; `username` is only set for a part of the service itself."""

    request_id: str = ""
    source: Source = NOWHERE
    username: str | None = None
    user_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the audit that is not written yet."""

    event: Event
    outcome: Outcome
    actor_id: UUID | None
    actor: str | None
    target: str | None
    address: str | None
    user_agent: str | None
    request_id: str | None
    details: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1


def record_of(
    event: Event,
    actor: Requester | Stranger,
    *,
    target: str | None = None,
    outcome: Outcome = Outcome.SUCCEEDED,
    **details: Any,
) -> Record:
    """What is recorded of an event: who did what, to whom or what, and from where."""
    source = actor.source
    return Record(
        event=event,
        outcome=outcome,
        actor_id=actor.user_id,
        actor=actor.username,
        target=target,
        address=source.address or None,
        user_agent=source.user_agent or None,
        request_id=actor.request_id or None,
        details=details,
    )


async def record(
    tx: AsyncConnection,
    event: Event,
    actor: Requester | Stranger,
    *,
    target: str | None = None,
    outcome: Outcome = Outcome.SUCCEEDED,
    **details: Any,
) -> None:
    """Record an event together with what it tells of: both are committed or neither.

    `target` is the name or id of what the event is about. The details are JSON, and never secrets.
    """
    await write(tx, [record_of(event, actor, target=target, outcome=outcome, **details)])


async def write(tx: AsyncConnection, records: Sequence[Record]) -> None:
    """Write these records."""
    await tx.execute(insert(AuditEvent), [asdict(each) for each in records])
