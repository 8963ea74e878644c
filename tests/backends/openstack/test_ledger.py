"""The ledger: its tables, the life of a row, and what it forgets."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends import own_schema
from activities.backends.openstack.ledger import TOUCHED, Ledger, Permission, Run
from activities.backends.openstack.schema import Outcome, calls, create_schema, revocations
from activities.backends.protocol import Token
from domain.settings import Settings
from tests.backends.openstack.guarded import let_time_pass, rows
from tests.support.waiting import wait_until_blocked

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FLIGHT = timedelta(seconds=74)


def new_run(attempt: int = 1, token: Token | None = None) -> Run:
    """A run of a new call, or of this one."""
    return Run(token or Token(uuid4(), "spawning"), attempt)


async def test_workers_that_start_together_create_the_tables_once(settings: Settings, engine: AsyncEngine) -> None:
    workers = [Ledger(settings) for _ in range(4)]
    await asyncio.gather(*(worker.prepare() for worker in workers))
    for worker in workers:
        await worker.close()
    async with engine.connect() as connection:
        names = text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'openstack_cloud'")
        assert set(await connection.scalars(names)) == {"calls", "revocations"}


async def test_tables_that_are_there_need_no_right_to_create_any(ledger: Ledger, engine: AsyncEngine) -> None:
    await ledger.prepare()
    async with engine.connect() as connection:
        await connection.execute(text("CREATE ROLE limited"))
        await connection.execute(text("GRANT USAGE ON SCHEMA openstack_cloud TO limited"))
        await connection.execute(text("SET LOCAL ROLE limited"))
        await create_schema(connection)
        await connection.rollback()


async def test_tables_of_an_earlier_version_get_what_they_lack(ledger: Ledger, engine: AsyncEngine) -> None:
    run = new_run()
    assert await ledger.intend(run, "create_server", NOW)
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE openstack_cloud.calls DROP COLUMN code, DROP COLUMN in_flight_until"))
        await tx.execute(text("DROP INDEX openstack_cloud.ix_calls_touched_at"))
    for _ in range(2):
        await ledger.prepare()
    assert await ledger.permit(run, FLIGHT) is Permission.GRANTED
    await ledger.end(run, Outcome.REFUSED, code="no_valid_host")
    assert await rows(engine, run.token) == [(1, Outcome.REFUSED, None, "no_valid_host")]
    async with engine.connect() as connection:
        names = await connection.scalars(text("SELECT indexname FROM pg_indexes WHERE tablename = 'calls'"))
        assert "ix_calls_touched_at" in set(names)


async def test_the_life_of_a_row(ledger: Ledger, engine: AsyncEngine) -> None:
    run = new_run()
    assert (await ledger.read(run.token)).last is None
    assert await ledger.intend(run, "create_server", NOW)
    history = await ledger.read(run.token)
    assert history.last
    assert (history.last.outcome, history.last.age, history.since) == (Outcome.UNSENT, None, None)
    assert await ledger.permit(run, FLIGHT) is Permission.GRANTED
    await let_time_pass(engine, 60)
    history = await ledger.read(run.token)
    assert history.last
    assert history.last.age
    assert timedelta(seconds=60) <= history.last.age < timedelta(seconds=70)
    assert (history.last.outcome, history.since) == (Outcome.AMBIGUOUS, NOW)
    await ledger.end(run, Outcome.ACCEPTED, cloud_id="cloud-id", request_id="req-1")
    last = (await ledger.read(run.token)).last
    assert last
    assert (last.outcome, last.cloud_id, last.request_id, last.intent_at) == ("accepted", "cloud-id", "req-1", NOW)


async def test_an_attempt_that_was_not_sent_is_taken_over_by_the_next_run(ledger: Ledger) -> None:
    first = new_run()
    second = new_run(token=first.token)
    assert await ledger.intend(first, "create_server", NOW)
    assert await ledger.intend(second, "create_server", NOW + timedelta(seconds=1))
    assert await ledger.permit(first, FLIGHT) is Permission.TAKEN_OVER
    assert await ledger.permit(second, FLIGHT) is Permission.GRANTED
    assert not await ledger.intend(first, "create_server", NOW)
    await ledger.end(first, Outcome.UNSENT)
    last = (await ledger.read(first.token)).last
    assert last
    assert (last.outcome, last.intent_at) == (Outcome.AMBIGUOUS, NOW + timedelta(seconds=1))


async def test_no_attempt_is_sent_after_an_earlier_one_was_found(ledger: Ledger, engine: AsyncEngine) -> None:
    first = new_run()
    second = new_run(2, first.token)
    for run in (first, second):
        await ledger.intend(run, "create_server", NOW)
    await ledger.adopt(first, "create_server", NOW, "found")
    assert await ledger.permit(second, FLIGHT) is Permission.TAKEN_OVER
    last = (await ledger.read(first.token)).last
    assert last
    assert (last.number, last.cloud_id) == (1, "found")
    assert await rows(engine, first.token) == [(1, "accepted", "found", None), (2, "unsent", None, None)]


async def test_the_ledger_tells_which_operations_are_revoked(ledger: Ledger) -> None:
    revoked, other = uuid4(), uuid4()
    await ledger.revoke(revoked)
    assert await ledger.revoked([revoked, other]) == {revoked}
    run = new_run(token=Token(revoked, "spawning"))
    assert (await ledger.read(run.token)).is_revoked
    await ledger.intend(run, "create_server", NOW)
    assert await ledger.permit(run, FLIGHT) is Permission.REVOKED


async def test_what_nothing_has_touched_for_long_is_forgotten(ledger: Ledger, engine: AsyncEngine) -> None:
    old, new = new_run(), new_run()
    await ledger.intend(old, "create_server", NOW)
    await ledger.revoke(old.token.operation_id)
    async with engine.begin() as tx:
        await tx.execute(text("UPDATE openstack_cloud.revocations SET revoked_at = revoked_at - interval '31 days'"))
    await let_time_pass(engine, timedelta(days=31).total_seconds())
    await ledger.intend(new, "create_server", NOW)
    await ledger.revoke(new.token.operation_id)
    assert await own_schema.forget(engine, TOUCHED, timedelta(days=30)) == 2
    assert await own_schema.forget(engine, TOUCHED, timedelta(days=30)) == 0
    assert await ledger.revoked([old.token.operation_id, new.token.operation_id]) == {new.token.operation_id}
    assert await rows(engine, old.token) == []
    assert len(await rows(engine, new.token)) == 1


LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:id, 0))")


async def test_a_permission_waits_for_a_revocation_that_is_being_written(ledger: Ledger, engine: AsyncEngine) -> None:
    run = new_run()
    await ledger.intend(run, "create_server", NOW)
    async with engine.begin() as tx:
        await tx.execute(LOCK, {"id": str(run.token.operation_id)})
        permission = asyncio.create_task(ledger.permit(run, FLIGHT))
        await wait_until_blocked(engine, 1)
        await tx.execute(insert(revocations).values(operation_id=run.token.operation_id))
    assert await permission is Permission.REVOKED


async def test_a_revocation_waits_for_a_permission_that_is_being_written(ledger: Ledger, engine: AsyncEngine) -> None:
    run = new_run()
    await ledger.intend(run, "create_server", NOW)
    async with engine.begin() as tx:
        await tx.execute(select(calls).where(calls.c.step == run.token.step).with_for_update())
        permission = asyncio.create_task(ledger.permit(run, FLIGHT))
        await wait_until_blocked(engine, 1)
        revoke = asyncio.create_task(ledger.revoke(run.token.operation_id))
        await wait_until_blocked(engine, 2)
    assert await permission is Permission.GRANTED
    await revoke
    assert await ledger.is_in_flight(run.token.operation_id)
