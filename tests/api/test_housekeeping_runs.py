"""Runs of housekeeping: batches, several processes, errors."""

from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import housekeeping
from api.background.housekeeping import run
from domain.data import advisory_locks, database
from domain.data.accounts import IdempotencyKey
from domain.data.models import Operation
from domain.rules.states import Action
from domain.settings import Settings
from domain.upkeep import retention
from tests.api.conftest import count, running
from tests.api.old_rows import DAYS, ended
from tests.conftest import make_settings
from tests.support.rows import add_user, add_vm
from tests.support.waiting import poll


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between batches."""
    monkeypatch.setattr(housekeeping, "PAUSE", 0)


async def test_any_number_of_rows_goes_in_small_batches(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 100)
    keys = "SELECT 's', n::text, 'f', 202, '{}', '', now() - interval '3 days' FROM generate_series(1, 1050) AS n"
    columns = "scope, key, fingerprint, status_code, headers, body, created_at"
    deleted: list[int] = []
    original = retention.delete_batch

    async def counting(*arguments: Any) -> Any:
        before = await count(engine, IdempotencyKey)
        position = await original(*arguments)
        deleted.append(before - await arguments[0].scalar(select(func.count()).select_from(IdempotencyKey)))
        return position

    async with engine.begin() as tx:
        await tx.execute(text(f"INSERT INTO idempotency_keys ({columns}) {keys}"))
    monkeypatch.setattr(retention, "delete_batch", counting)
    await housekeeping.delete_expired(engine, 0)
    assert await count(engine, IdempotencyKey) == 0
    assert (max(deleted), sum(deleted)) == (100, 1050)


async def test_the_application_deletes_old_rows_when_it_starts(
    engine: AsyncEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "run", run)
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        await ended(tx, vm, Action.START)
    async with running(settings.model_copy(update={"operation_retention_days": DAYS})):
        await poll(lambda: count(engine, Operation), lambda number: number == 0, interval=0.01)


async def test_one_process_deletes_at_a_time(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        await ended(tx, vm, Action.START)
    async with engine.begin() as other:
        await other.execute(select(func.pg_advisory_xact_lock(advisory_locks.HOUSEKEEPING)))
        await housekeeping.delete_expired(engine, DAYS)
        assert await count(engine, Operation) == 1
    await housekeeping.delete_expired(engine, DAYS)
    assert await count(engine, Operation) == 0


async def test_it_pauses_between_two_batches(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests need the processor and the disk meanwhile."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        for _ in range(3):
            await ended(tx, vm, Action.START)
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr(housekeeping, "PAUSE", 60)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(housekeeping, "asyncio", SimpleNamespace(sleep=pause))
    await housekeeping.delete_expired(engine, DAYS)
    assert await count(engine, Operation) == 0
    assert set(pauses) == {60}


async def test_a_process_that_finds_another_at_it_leaves_all_tables_to_that_one(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not take the lock for a later table while the other one pauses: neither would finish its table."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        await ended(tx, vm, Action.START)
    original = housekeeping._delete_all
    async with engine.connect() as other:
        await other.execute(select(func.pg_advisory_xact_lock(advisory_locks.HOUSEKEEPING)))

        async def then_the_other_pauses(*arguments: Any) -> Any:
            result = await original(*arguments)
            await other.rollback()
            return result

        monkeypatch.setattr(housekeeping, "_delete_all", then_the_other_pauses)
        await housekeeping.delete_expired(engine, DAYS)
    assert await count(engine, Operation) == 1


async def test_an_error_in_one_table_is_logged_with_its_reason_and_the_others_go_on(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        await ended(tx, vm, Action.START)
        await tx.execute(text("ALTER TABLE idempotency_keys RENAME TO renamed"))
    await housekeeping.delete_expired(engine, DAYS)
    assert await count(engine, Operation) == 0
    [record] = caplog.records
    assert "idempotency_keys could not be deleted: UndefinedTableError" in record.getMessage()


async def test_an_outage_is_one_line_for_all_tables(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = database.create_engine(make_settings("postgresql://127.0.0.1:1/none"))
    await housekeeping.delete_expired(nowhere, DAYS)
    await database.close(nowhere)
    [record] = caplog.records
    assert "old rows of idempotency_keys, refresh_tokens, " in record.getMessage()


async def test_missing_tables_are_one_line_before_the_migrations_have_run(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine.begin() as tx:
        for table in ("idempotency_keys", "refresh_tokens"):
            await tx.execute(text(f"ALTER TABLE {table} RENAME TO renamed_{table}"))
    await housekeeping.delete_expired(engine, DAYS)
    [record] = caplog.records
    assert "old rows of idempotency_keys, refresh_tokens could not be deleted" in record.getMessage()
    assert record.getMessage().endswith("; run python -m migrations")
