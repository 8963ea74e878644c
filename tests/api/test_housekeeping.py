"""Housekeeping: expired rows go in batches, and history goes when nothing needs it any more."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import housekeeping
from domain.data.accounts import IdempotencyKey, ProgramToken, RefreshToken
from domain.data.cloud import Finding
from domain.data.models import VM, Operation, Snapshot, Volume
from domain.rules.resources import Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status
from domain.upkeep import retention
from tests.api.conftest import count
from tests.api.old_rows import DAYS, LONG_AGO, NOW, ended
from tests.support.rows import add_operation, add_snapshot, add_user, add_vm, add_volume

FAILED = OperationStatus.FAILED


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between batches."""
    monkeypatch.setattr(housekeeping, "PAUSE", 0)


async def ids(engine: AsyncEngine, model: type[Any]) -> set[UUID]:
    """The ids of all rows of the table."""
    async with engine.connect() as connection:
        return set((await connection.scalars(select(model.id))).all())


async def clean(engine: AsyncEngine, days: int = DAYS) -> None:
    """Run housekeeping twice: what the first run deletes may free other rows."""
    await housekeeping.delete_expired(engine, days)
    await housekeeping.delete_expired(engine, days)


async def test_old_idempotency_keys_and_expired_refresh_tokens_are_deleted(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        for days in (1, 3):
            answer = {"scope": "s", "key": str(days), "fingerprint": "f", "status_code": 202, "headers": {}, "body": ""}
            await tx.execute(insert(IdempotencyKey).values(answer | {"created_at": NOW - timedelta(days=days)}))
            expiry = NOW + timedelta(days=days - 2)
            token = {"id": uuid4(), "family_id": uuid4(), "user_id": user.id, "expires_at": expiry}
            await tx.execute(insert(RefreshToken).values(token))
    await housekeeping.delete_expired(engine, DAYS)
    async with engine.connect() as connection:
        assert (await connection.execute(select(IdempotencyKey.key))).scalars().all() == ["1"]
        [kept_until] = (await connection.execute(select(RefreshToken.expires_at))).scalars().all()
    assert kept_until > NOW


async def test_tokens_of_programs_go_a_month_after_their_end(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        for name, days in (("long ended", -31), ("ended", -29), ("in use", 1), ("endless", None)):
            token = {"owner_id": user.id, "name": name, "digest": name.encode(), "scopes": ["read"]}
            end = None if days is None else NOW + timedelta(days=days)
            await tx.execute(insert(ProgramToken).values(token | {"expires_at": end}))
    await housekeeping.delete_expired(engine, 0)
    async with engine.connect() as connection:
        kept = (await connection.scalars(select(ProgramToken.name))).all()
    assert set(kept) == {"ended", "in use", "endless"}


async def test_history_is_kept_for_ever_if_the_setting_is_zero(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.DELETED, updated_at=LONG_AGO)
        await ended(tx, vm, Action.DELETE, holds=True)
    await clean(engine, 0)
    assert (await count(engine, VM), await count(engine, Operation)) == (1, 1)


async def test_ended_operations_go_but_not_young_open_and_named_ones(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user)
        await ended(tx, vm, Action.CREATE)
        named = await ended(tx, vm, Action.START, holds=True)
        young = await ended(tx, vm, Action.STOP, finished_at=NOW)
        open_since_long = await add_operation(tx, vm, Action.STOP, holds=False, created_at=LONG_AGO)
        snapshot_of = await ended(tx, vm, Action.SNAPSHOT)
        await add_snapshot(tx, vm, operation_id=snapshot_of.id)
        volume_of = await ended(tx, vm, Action.DETACH_VOLUME)
        await add_volume(tx, user, operation_id=volume_of.id)
    await clean(engine)
    kept = {named.id, young.id, open_since_long.id, snapshot_of.id, volume_of.id}
    assert await ids(engine, Operation) == kept


async def test_a_failed_operation_stays_as_long_as_its_retry(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        failed = await ended(tx, vm, Action.STOP, status=FAILED)
        retry = await ended(tx, vm, Action.STOP, finished_at=NOW, retry_of=failed.id)
        await ended(tx, vm, Action.START)  # goes with the same statement
    await clean(engine)
    assert await ids(engine, Operation) == {failed.id, retry.id}
    async with engine.begin() as tx:
        await tx.execute(text("UPDATE operations SET finished_at = created_at"))
    await clean(engine)
    assert await ids(engine, Operation) == set()


async def test_rows_that_are_still_in_use_do_not_keep_those_behind_them(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    async with engine.begin() as tx:
        user = await add_user(tx)
        kept = {(await ended(tx, await add_vm(tx, user), Action.START, holds=True)).id for _ in range(5)}
        vm = await add_vm(tx, user)
        for minute in range(1, 4):
            await ended(tx, vm, Action.START, minutes=minute)
    await clean(engine)
    assert await ids(engine, Operation) == kept


async def test_a_resize_stays_while_its_decision_is_open(engine: AsyncEngine) -> None:
    """Confirm and revert look for it, and its workflow waits for them."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        resize = await ended(tx, vm, Action.RESIZE)
        await ended(tx, vm, Action.CONFIRM_RESIZE, minutes=1, status=FAILED)
        last = await ended(tx, vm, Action.CONFIRM_RESIZE, minutes=2, status=FAILED, holds=True)
    await clean(engine)
    assert {resize.id, last.id} <= await ids(engine, Operation)


async def test_a_decided_resize_goes_together_with_its_decision(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        await ended(tx, vm, Action.RESIZE)
        await ended(tx, vm, Action.REVERT_RESIZE, minutes=1)
        last = await ended(tx, vm, Action.STOP, minutes=2, holds=True)
    await clean(engine)
    assert await ids(engine, Operation) == {last.id}


@pytest.mark.parametrize("kind", [Kind.VOLUME, Kind.INTERFACE, Kind.SNAPSHOT])
async def test_a_decided_resize_goes_although_what_the_vm_has_was_repaired_before(
    engine: AsyncEngine, kind: Kind
) -> None:
    """A repair of another resource leaves no workflow waiting."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        await ended(tx, vm, Action.RESIZE)
        await ended(tx, vm, Action.RESET_STATE, minutes=1, resource_type=kind, resource_id=uuid4())
        await ended(tx, vm, Action.CONFIRM_RESIZE, minutes=2)
        await ended(tx, vm, Action.RESET_STATE, minutes=3, resource_type=kind, resource_id=uuid4())
        last = await ended(tx, vm, Action.STOP, minutes=4, holds=True)
    await clean(engine)
    assert await ids(engine, Operation) == {last.id}


async def test_a_resize_that_a_reset_left_waiting_stays_until_its_vm_is_deleted(engine: AsyncEngine) -> None:
    """Its workflow is still open, and only the delete of the VM ends it: by the id in the row of the operation."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        waiting = await ended(tx, vm, Action.RESIZE)
        reset = await ended(tx, vm, Action.RESET_STATE, minutes=1)
        await ended(tx, vm, Action.RESIZE, minutes=2)
        await ended(tx, vm, Action.CONFIRM_RESIZE, minutes=3)
        await ended(tx, vm, Action.DELETE, minutes=4, holds=True)
    await clean(engine)
    assert {waiting.id, reset.id} <= await ids(engine, Operation)
    async with engine.begin() as tx:
        await tx.execute(text("UPDATE vms SET status = 'DELETED', updated_at = now() - interval '99 days'"))
    await clean(engine)
    await clean(engine)
    assert (await count(engine, Operation), await count(engine, VM)) == (0, 0)


async def test_deleted_vms_go_with_their_history_but_after_their_snapshots(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        gone, with_snapshot, young = [await add_vm(tx, user, status=Status.DELETED) for _ in range(3)]
        for vm in (gone, with_snapshot, young):
            await ended(tx, vm, Action.CREATE)
            await ended(tx, vm, Action.DELETE, minutes=1, holds=True)
        await add_snapshot(tx, gone, status=SnapshotStatus.DELETED, updated_at=LONG_AGO)
        kept = await add_snapshot(tx, with_snapshot, updated_at=LONG_AGO)
        await tx.execute(update(VM).where(VM.id != young.id).values(updated_at=LONG_AGO))
    await clean(engine)
    assert await ids(engine, VM) == {with_snapshot.id, young.id}
    assert await ids(engine, Snapshot) == {kept.id}
    assert await count(engine, Operation) == 2


async def test_a_vm_whose_delete_was_retried_goes_with_all_its_deletes(engine: AsyncEngine) -> None:
    """The VM names its last delete, which names the one before in `retry_of`: neither could go before the other."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.DELETED)
        failed = await ended(tx, vm, Action.DELETE, status=FAILED)
        again = await ended(tx, vm, Action.DELETE, minutes=1, status=FAILED, retry_of=failed.id)
        await ended(tx, vm, Action.DELETE, minutes=2, holds=True, retry_of=again.id)
        await tx.execute(update(VM).values(updated_at=LONG_AGO))
    await clean(engine)
    assert (await count(engine, Operation), await count(engine, VM)) == (0, 0)


async def test_a_delete_stays_as_long_as_a_volume_that_outlived_the_vm_names_it(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user, status=Status.DELETED)
        last = await ended(tx, vm, Action.DELETE, holds=True)
        await tx.execute(update(VM).values(updated_at=LONG_AGO))
        await add_volume(tx, user, operation_id=last.id)
    await clean(engine)
    assert (await ids(engine, Operation), await ids(engine, VM)) == ({last.id}, {vm.id})
    async with engine.begin() as tx:
        await tx.execute(text("UPDATE volumes SET operation_id = gen_random_uuid()"))
    await clean(engine)
    assert (await count(engine, Operation), await count(engine, VM)) == (0, 0)


async def test_deleted_volumes_and_resolved_findings_go(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        await add_volume(tx, user, status=VolumeStatus.DELETED, updated_at=LONG_AGO)
        kept = {(await add_volume(tx, user, updated_at=LONG_AGO)).id}
        kept |= {(await add_volume(tx, user, status=VolumeStatus.DELETED)).id}
        for resolved in (LONG_AGO, NOW, None):
            finding = {"kind": "k", "resource_type": Kind.VM, "resource_id": uuid4(), "seen": {}, "found_at": LONG_AGO}
            await tx.execute(insert(Finding).values(finding | {"resolved_at": resolved}))
    await clean(engine)
    assert await ids(engine, Volume) == kept
    assert await count(engine, Finding) == 2


async def test_an_operation_that_a_transaction_has_locked_is_left_for_the_next_hour(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        operation = await ended(tx, vm, Action.START)
    async with engine.begin() as tx:
        await tx.execute(select(Operation.id).where(Operation.id == operation.id).with_for_update())
        await asyncio.wait_for(housekeeping.delete_expired(engine, DAYS), 5)
    assert await count(engine, Operation) == 1
