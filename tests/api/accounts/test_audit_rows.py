"""Rows of the audit cannot be changed by SQL, have the database's time, and go only when they are old."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.background import housekeeping
from api.background.refusals import MOST, SPAN, Refusals
from domain.commands import audit
from domain.commands.acceptance import Source
from domain.commands.audit import Stranger
from domain.data.audit import AuditEvent
from domain.rules.accounts import Event, Outcome
from domain.settings import Settings
from tests.api.conftest import client_of, running

ADDRESS = Source("192.0.2.1", "tests")


async def add(tx: AsyncConnection, *, days_ago: int = 0) -> None:
    """Add a row, behind the back of the trigger if it is to be old."""
    if days_ago:
        await tx.execute(text("ALTER TABLE audit_events DISABLE TRIGGER keep_rows"))
    at = datetime.now(UTC) - timedelta(days=days_ago)
    await tx.execute(insert(AuditEvent).values(event="login", outcome="succeeded", at=at))
    if days_ago:
        await tx.execute(text("ALTER TABLE audit_events ENABLE TRIGGER keep_rows"))


async def rows(engine: AsyncEngine) -> int:
    """The number of rows."""
    async with engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(AuditEvent)) or 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET actor = 'nobody'",
        "UPDATE audit_events SET at = at - interval '90 days'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
    ],
)
async def test_not_even_the_owner_of_the_table_changes_or_deletes_a_row(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as tx:
        await add(tx)
    with pytest.raises(DBAPIError, match="append-only"):
        async with engine.begin() as tx:
            await tx.execute(text(statement))
    assert await rows(engine) == 1


async def test_no_row_can_be_written_with_another_time(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        old = {"event": "login", "outcome": "succeeded", "at": datetime.now(UTC) - timedelta(days=400)}
        await tx.execute(insert(AuditEvent).values(old))
        at = await tx.scalar(select(AuditEvent.at))
    assert at
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(("days", "left"), [(0, 3), (365, 2), (60, 1), (30, 1)])
async def test_only_old_rows_are_deleted(engine: AsyncEngine, days: int, left: int) -> None:
    async with engine.begin() as tx:
        for ago in (0, 100, 400):
            await add(tx, days_ago=ago)
    await housekeeping.delete_old_audit(engine, days)
    assert await rows(engine) == left


async def test_a_role_that_may_only_insert_and_select_keeps_the_retention(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        for ago in (0, 20, 400):
            await add(tx, days_ago=ago)
        await tx.execute(text("DROP ROLE IF EXISTS audit_writer"))
        await tx.execute(text("CREATE ROLE audit_writer"))
        await tx.execute(text("GRANT INSERT, SELECT ON audit_events TO audit_writer"))
    try:
        async with engine.begin() as tx:
            await tx.execute(text("SET SESSION AUTHORIZATION audit_writer"))
            await tx.execute(text("SAVEPOINT before"))
            with pytest.raises(DBAPIError, match="permission denied"):
                await tx.execute(text("DELETE FROM audit_events"))
            await tx.execute(text("ROLLBACK TO before"))
            # A table in front of ours, for a function with the rights of its owner.
            await tx.execute(text("CREATE TEMP TABLE audit_events (id uuid, at timestamptz) ON COMMIT DROP"))
            deleted = "SELECT delete_old_audit_events(interval '1 day', 1000)"
            assert await tx.scalar(text(deleted)) == 1
            await tx.execute(text("RESET SESSION AUTHORIZATION"))
        assert await rows(engine) == 2
    finally:
        async with engine.begin() as tx:
            await tx.execute(text("DROP OWNED BY audit_writer"))
            await tx.execute(text("DROP ROLE audit_writer"))


async def test_a_record_is_undone_with_what_it_tells_of(engine: AsyncEngine) -> None:
    async with engine.connect() as tx:
        await audit.record(tx, Event.LOGIN, Stranger("request", ADDRESS))
        await tx.rollback()
    assert await rows(engine) == 0


async def test_a_flood_of_refusals_adds_few_rows(engine: AsyncEngine) -> None:
    refusals = Refusals(engine)
    for number in range(10_000):
        source = Source(f"192.0.{number % 250}.{number // 250}", "flood")
        record = audit.record_of(
            Event.LOGIN, Stranger("request", source), outcome=Outcome.REFUSED, reason="invalid_credentials"
        )
        refusals.note(record, source.address)
        if not number % 1000:
            await refusals.write()
    await refusals.write(at_once=True)
    assert await rows(engine) <= 2 * (MOST + 2)
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.sum(AuditEvent.count))) == 10_000
        others = select(func.sum(AuditEvent.count)).where(AuditEvent.address.is_(None))
        assert (await connection.scalar(others) or 0) >= 10_000 - 2 * MOST - 1000


async def test_a_flood_of_one_event_hides_no_other_and_no_account(engine: AsyncEngine) -> None:
    refusals = Refusals(engine)

    def refuse(event: Event, address: str, target: str | None, reason: str) -> None:
        actor = Stranger("request", Source(address, "flood"))
        record = audit.record_of(event, actor, target=target, outcome=Outcome.REFUSED, reason=reason)
        refusals.note(record, address)

    for number in range(1000):
        refuse(Event.REGISTER, f"198.51.{number // 250}.{number % 250}", None, "registration_closed")
    refuse(Event.LOGIN, "192.0.2.1", "root", "invalid_credentials")
    for number in range(1000):
        refuse(Event.LOGIN, f"198.51.{number // 250}.{number % 250}", None, "invalid_credentials")
    refuse(Event.LOGIN, "192.0.2.2", "ada", "invalid_credentials")
    await refusals.write(at_once=True)
    async with engine.connect() as connection:
        found = await connection.execute(
            select(AuditEvent.target, AuditEvent.address, AuditEvent.details["reason"].astext)
            .where(AuditEvent.target.is_not(None))
            .order_by(AuditEvent.target)
        )
        assert [tuple(row) for row in found] == [
            ("ada", None, "others"),
            ("root", "192.0.2.1", "invalid_credentials"),
        ]


async def test_refusals_that_cannot_be_written_are_written_later(engine: AsyncEngine) -> None:
    refusals = Refusals(engine)
    record = audit.record_of(Event.LOGIN, Stranger("request", ADDRESS), outcome=Outcome.REFUSED, reason="x")
    refusals.note(record, ADDRESS.address)
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE audit_events RENAME TO away"))
    assert not await refusals.write()
    refusals.note(record, ADDRESS.address)
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE away RENAME TO audit_events"))
    assert await refusals.write()
    assert await refusals.write(at_once=True)
    async with engine.connect() as connection:
        assert (await connection.scalars(select(AuditEvent.count))).all() == [2]


async def test_a_process_that_stops_writes_what_it_has_counted(settings: Settings, engine: AsyncEngine) -> None:
    wrong = {"username": "nobody", "password": "Wrong-Horse-1"}
    async with running(settings) as app:
        for _ in range(3):
            assert (await client_of(app).post("/auth/login", json=wrong)).status_code == 401
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.sum(AuditEvent.count))) == 3


async def test_equal_refusals_share_a_row_for_a_minute(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("api.background.refusals.time.monotonic", lambda: clock[0])
    refusals = Refusals(engine)
    record = audit.record_of(Event.LOGIN, Stranger("request", ADDRESS), outcome=Outcome.REFUSED, reason="x")
    written = []
    for step in (0.0, 1.0, 1.0, SPAN, 1.0, 1.0):
        clock[0] += step
        refusals.note(record, ADDRESS.address)
        await refusals.write()
        async with engine.connect() as connection:
            written.append(await connection.scalar(select(func.sum(AuditEvent.count))))
    assert written == [1, 1, 1, 4, 5, 5]
