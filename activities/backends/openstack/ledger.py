"""The record of what was sent to the cloud, which all workers share.

A cloud knows no tokens, so a worker that takes over from another one reads here what that one has sent. Each row is one
attempt to carry out a call. The next attempt begins only when the one before it may have been carried out unseen;
one that certainly was not is repeated under its own number.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, FromClause, Select, and_, case, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends import own_schema
from activities.backends.openstack.schema import Outcome, calls, create_schema, revocations
from activities.backends.protocol import Token
from domain.data import database
from domain.settings import Settings

TOUCHED: Final = (calls.c.touched_at, revocations.c.revoked_at)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last attempt of a call, or the one that the cloud accepted. `age` is the time since it was sent."""

    number: int
    outcome: Outcome
    intent_at: datetime
    age: timedelta | None
    request_id: str | None
    cloud_id: str | None


@dataclass(frozen=True, slots=True)
class History:
    """What is recorded of a call.

    `since` is the intent of the first attempt that the cloud may have received, by its clock; None if there is none.
    """

    last: Attempt | None
    since: datetime | None
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class AcceptedCall:
    """A call that the cloud accepted, at the attempt with this number; `since` is the cloud's time shortly before."""

    verb: str
    attempt: int
    since: datetime
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a call, which may send one attempt; `id` tells it from other runs of the same call."""

    token: Token
    attempt: int
    id: UUID = field(default_factory=uuid4)


class Permission(StrEnum):
    """The answer to the question whether an attempt may be sent now."""

    GRANTED = "granted"
    REVOKED = "revoked"
    TAKEN_OVER = "taken over"  # by another run of the same call, or the call was accepted meanwhile


class Ledger:
    """The ledger of all workers."""

    def __init__(self, settings: Settings) -> None:
        self._engine = database.create_engine(settings)
        self._autocommit = database.autocommit(self._engine)

    async def prepare(self) -> None:
        """Create what is missing."""
        async with self._engine.begin() as tx:
            await create_schema(tx)

    async def close(self) -> None:
        """Close all connections."""
        await database.close(self._engine)

    async def read(self, token: Token) -> History:
        """Return what is recorded of the call."""
        sent = calls.alias()
        since = select(func.min(sent.c.intent_at)).where(_of(token, sent), sent.c.outcome != Outcome.UNSENT)
        age = func.clock_timestamp() - calls.c.sent_at
        statement = (
            select(calls, age.label("age"), since.scalar_subquery().label("since"))
            .where(_of(token))
            .order_by(case((calls.c.outcome == Outcome.ACCEPTED, 0), else_=1), calls.c.attempt.desc())
            .limit(1)
        )
        async with self._autocommit.connect() as connection:
            row = (await connection.execute(statement)).one_or_none()
            is_revoked = bool(await connection.scalar(_is_revoked(token)))
        if row is None:
            return History(None, None, is_revoked)
        last = Attempt(row.attempt, Outcome(row.outcome), row.intent_at, row.age, row.request_id, row.cloud_id)
        return History(last, row.since, is_revoked)

    async def last_accepted(self, operation_id: UUID, verbs: Collection[str]) -> AcceptedCall | None:
        """Return the operation's last accepted call of one of these verbs."""
        columns = (calls.c.verb, calls.c.attempt, calls.c.intent_at, calls.c.request_id)
        of_operation = (calls.c.operation_id == operation_id, calls.c.verb.in_(verbs))
        statement = select(*columns).where(*of_operation, calls.c.outcome == Outcome.ACCEPTED)
        async with self._autocommit.connect() as connection:
            last = statement.order_by(calls.c.touched_at.desc()).limit(1)
            row = (await connection.execute(last)).one_or_none()
        return AcceptedCall(*row) if row else None

    async def steps(self, operation_id: UUID, verb: str) -> set[str]:
        """Return the steps of the operation's calls of this verb."""
        statement = select(calls.c.step).where(calls.c.operation_id == operation_id, calls.c.verb == verb)
        async with self._autocommit.connect() as connection:
            return set((await connection.scalars(statement)).all())

    async def known_requests(self, request_ids: Collection[str]) -> set[str]:
        """Return those of the requests whose end is known, of whatever call they are."""
        has_ended = calls.c.outcome.in_((Outcome.ACCEPTED, Outcome.REFUSED))
        statement = select(calls.c.request_id).where(calls.c.request_id.in_(request_ids), has_ended)
        async with self._autocommit.connect() as connection:
            return set((await connection.scalars(statement)).all())

    async def intend(self, run: Run, verb: str, intent_at: datetime) -> bool:
        """Record that this run is going to send its attempt; false if another run has sent it already."""
        values = {"verb": verb, "run_id": run.id, "outcome": Outcome.UNSENT, "intent_at": intent_at}
        unsent = calls.c.outcome.in_((Outcome.UNSENT, Outcome.REFUSED))
        return await self._upsert(run, values, values | {"sent_at": None, "request_id": None, "code": None}, unsent)

    async def adopt(self, run: Run, verb: str, intent_at: datetime, cloud_id: str | None) -> None:
        """Record that the cloud was found to have carried out the call."""
        found = {"outcome": Outcome.ACCEPTED, "cloud_id": cloud_id, "intent_at": intent_at, "code": None}
        values = found | {"verb": verb, "run_id": run.id}
        await self._upsert(run, values, found, calls.c.outcome != Outcome.ACCEPTED)

    async def reopen(self, token: Token, accepted: Attempt) -> bool:
        """Record that the cloud did not carry out what it accepted, so it may be sent again; false if another run has.

        The request's id tells this acceptance from a later one of the same attempt.
        """
        is_it = and_(
            _of(token),
            calls.c.attempt == accepted.number,
            calls.c.outcome == Outcome.ACCEPTED,
            calls.c.request_id.is_not_distinct_from(accepted.request_id),
        )
        async with self._autocommit.connect() as connection:
            reopened = await connection.execute(update(calls).where(is_it).values(outcome=Outcome.REFUSED))
        return bool(reopened.rowcount)

    async def permit(self, run: Run, flight: timedelta) -> Permission:
        """Ask for the permission to send the attempt now, and record it as sent; `flight` is how long that may take.

        The permission and a revocation exclude each other. A call asks with the operation's lock held shared, and a
        revocation is written with it held exclusively. So either this sees the revocation, or `revoke` sees
        `in_flight_until` and waits for the end of the request. A lock that is held during the whole request would do
        the same, but it would need a connection of its own for a minute, a transaction that PgBouncer and the timeout
        for idle ones end, and it would be lost with its connection while the request goes on.
        """
        other = calls.alias()
        accepted = exists(select(other.c.attempt).where(_of(run.token, other), other.c.outcome == Outcome.ACCEPTED))
        now = func.clock_timestamp()
        sent = (
            update(calls)
            .where(_is(run), ~accepted)
            .values(outcome=Outcome.AMBIGUOUS, sent_at=now, in_flight_until=now + flight, touched_at=now)
        )
        async with self._engine.begin() as tx:
            await _lock_operation(tx, run.token.operation_id, "pg_advisory_xact_lock_shared")
            if not run.token.compensates and await tx.scalar(_is_revoked(run.token)):
                return Permission.REVOKED
            return Permission.GRANTED if (await tx.execute(sent)).rowcount else Permission.TAKEN_OVER

    async def end(
        self,
        run: Run,
        outcome: Outcome,
        *,
        cloud_id: str | None = None,
        request_id: str | None = None,
        code: str | None = None,
    ) -> None:
        """Record how the attempt ended, unless the call was found to be carried out meanwhile."""
        is_found = calls.c.outcome == Outcome.ACCEPTED
        known = {"outcome": outcome, "cloud_id": cloud_id, "code": code}
        values = {name: case((is_found, calls.c[name]), else_=value) for name, value in known.items()}
        ended = {"request_id": request_id, "in_flight_until": None, "touched_at": func.clock_timestamp()}
        async with self._autocommit.connect() as connection:
            await connection.execute(update(calls).where(_is(run)).values(values | ended))

    async def revoke(self, operation_id: UUID) -> None:
        """Refuse to permit calls of the operation from now on, except those that compensate."""
        async with self._engine.begin() as tx:
            await _lock_operation(tx, operation_id, "pg_advisory_xact_lock")
            await tx.execute(insert(revocations).values(operation_id=operation_id).on_conflict_do_nothing())

    async def revoked(self, operation_ids: Collection[UUID]) -> set[UUID]:
        """Return which of the operations are revoked."""
        statement = select(revocations.c.operation_id).where(revocations.c.operation_id.in_(operation_ids))
        async with self._autocommit.connect() as connection:
            return set((await connection.scalars(statement)).all())

    async def is_in_flight(self, operation_id: UUID) -> bool:
        """Return whether a request of the operation, none that compensates, may be on its way in any process."""
        flying = and_(calls.c.in_flight_until > func.clock_timestamp(), ~calls.c.compensates)
        statement = select(exists(select(calls.c.attempt).where(calls.c.operation_id == operation_id, flying)))
        async with self._autocommit.connect() as connection:
            return bool(await connection.scalar(statement))

    async def age_of_ambiguous(self, operation_id: UUID, verb: str) -> timedelta | None:
        """Return the time since the operation last sent a call of this verb of which nobody knows the end, if it did.

        Calls that compensate do not count.
        """
        age = func.clock_timestamp() - func.max(calls.c.sent_at)
        sent = and_(calls.c.operation_id == operation_id, calls.c.verb == verb, ~calls.c.compensates)
        statement = select(age).where(sent, calls.c.outcome == Outcome.AMBIGUOUS)
        async with self._autocommit.connect() as connection:
            found: timedelta | None = await connection.scalar(statement)
            return found

    async def forget_old_calls(self) -> None:
        """Each hour, delete the rows that nobody needs any more."""
        await own_schema.forget_old_calls(self._engine, TOUCHED)

    async def _upsert(
        self, run: Run, values: dict[str, Any], changes: dict[str, Any], condition: ColumnElement[bool]
    ) -> bool:
        """Insert the attempt with the values, or change it where the condition holds; false if it does not."""
        key = {"operation_id": run.token.operation_id, "step": run.token.step, "attempt": run.attempt}
        statement = insert(calls).values(key | values | {"compensates": run.token.compensates})
        changes = changes | {"touched_at": func.clock_timestamp()}
        upsert = statement.on_conflict_do_update(index_elements=list(key), set_=changes, where=condition)
        async with self._autocommit.connect() as connection:
            return bool((await connection.execute(upsert)).rowcount)


def _of(token: Token, table: FromClause = calls) -> ColumnElement[bool]:
    return and_(table.c.operation_id == token.operation_id, table.c.step == token.step)


def _is(run: Run) -> ColumnElement[bool]:
    return and_(_of(run.token), calls.c.attempt == run.attempt, calls.c.run_id == run.id)


def _is_revoked(token: Token) -> Select[bool]:
    return select(exists().where(revocations.c.operation_id == token.operation_id))


async def _lock_operation(tx: AsyncConnection, operation_id: UUID, function: str) -> None:
    # An advisory lock, because the ledger may have no row of the operation that could be locked.
    await tx.execute(text(f"SELECT {function}(hashtextextended(:id, 0))"), {"id": str(operation_id)})
