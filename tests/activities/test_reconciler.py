"""The reconciler: it repairs what two comparisons have seen, one worker at a time, and within limits."""

from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import servers, volumes
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from activities.recovery import reconciler as reconciler_module
from activities.recovery.reconciler import Reconciler
from domain.data.cloud import Finding
from domain.data.models import VM, Interface, Snapshot, Volume
from domain.data.quotas import ProjectUsage
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.states import Action, Status, TaskState
from domain.upkeep.findings import NO_LONGER_FOUND, Difference, Drift
from tests.activities.conftest import CancelRecorder
from tests.activities.drift import (
    add_drift,
    add_idle_vm,
    all_rows,
    change_after_comparison,
    change_cloud,
    recorded_findings,
    recorded_repairs,
)
from tests.support.rows import claim, read_vm


async def test_no_finding_where_cloud_and_database_agree(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    await add_idle_vm(engine, backend)
    await reconciler.reconcile()
    await reconciler.reconcile()
    assert await recorded_findings(engine) == []


async def test_a_finding_seen_once_is_not_repaired_and_is_resolved_when_it_disappears(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm = await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, status=ServerStatus.SHUTOFF)
    await reconciler.reconcile()
    assert await recorded_findings(engine) == [(Drift.POWER_STATE, vm.id, True)]
    assert (await read_vm(engine, vm.id)).status is Status.ACTIVE
    await change_cloud(engine, servers, status=ServerStatus.ACTIVE)
    await reconciler.reconcile()
    assert await recorded_findings(engine) == [(Drift.POWER_STATE, vm.id, False)]
    assert [row.resolution for row in await all_rows(engine, Finding)] == [NO_LONGER_FOUND]
    assert await recorded_repairs(engine) == []


async def test_vms_and_servers_that_are_being_changed_give_no_finding(
    engine: AsyncEngine, backend: MockBackend, slow_backend: MockBackend, reconciler: Reconciler
) -> None:
    stopping, attaching, building = [await add_idle_vm(engine, backend) for _ in range(3)]
    async with engine.begin() as tx:
        await claim(tx, stopping.id, Action.STOP)
        await tx.execute(update(VM).where(VM.id == attaching.id).values(attaching=1))
        await tx.execute(update(VM).where(VM.id == building.id).values(status="BUILDING", task_state="spawning"))
    await change_cloud(engine, servers, status=ServerStatus.SHUTOFF)
    busy = await add_idle_vm(engine, backend)
    await slow_backend.stop_server(Token(uuid4(), "powering_off"), Ref(busy.id))
    await reconciler.reconcile()
    assert await recorded_findings(engine) == []


async def test_an_action_requested_after_the_comparison_prevents_the_repair(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, status=ServerStatus.SHUTOFF)
    await reconciler.reconcile()

    async def reboot() -> None:
        async with engine.begin() as tx:
            await claim(tx, vm.id, Action.REBOOT_HARD)

    await change_after_comparison(engine, backend, monkeypatch, reboot)
    await reconciler.reconcile()
    after = await read_vm(engine, vm.id)
    assert (after.status, after.task_state) == (Status.REBOOTING, TaskState.REBOOTING_HARD)
    assert await recorded_repairs(engine) == []


@pytest.mark.parametrize("busy", [{"task_state": TaskState.POWERING_OFF}, {"attaching": 1}])
async def test_a_vm_that_is_busy_again_is_not_repaired_although_the_same_operation_holds_it(
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    monkeypatch: pytest.MonkeyPatch,
    busy: dict[str, Any],
) -> None:
    """An attach does not hold the VM: it only counts itself there."""
    vm = await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, status=ServerStatus.SHUTOFF)
    await reconciler.reconcile()

    async def make_busy() -> None:
        async with engine.begin() as tx:
            await tx.execute(update(VM).values(busy))

    await change_after_comparison(engine, backend, monkeypatch, make_busy)
    await reconciler.reconcile()
    assert (await read_vm(engine, vm.id)).status is Status.ACTIVE
    assert await recorded_repairs(engine) == []


@pytest.mark.parametrize("model", [VM, Interface, Volume, Snapshot])
async def test_a_resource_that_another_operation_has_held_since_the_comparison_is_not_repaired(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    """The operation may have ended again, so that the resource looks as it did."""
    differences = await add_drift(engine, backend)
    await reconciler.reconcile()

    async def hold() -> None:
        async with engine.begin() as tx:
            await tx.execute(update(model).values(operation_id=uuid4()))

    await change_after_comparison(engine, backend, monkeypatch, hold)
    await reconciler.reconcile()
    still_open = {(kind, id) for kind, id, is_open in await recorded_findings(engine) if is_open}
    assert still_open == {differences[model]}


async def test_a_comparison_that_breaks_off_resolves_nothing_and_marks_nothing_as_gone(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first pages have been recorded, and on the others there may be more that is gone."""
    gone, unknown = await add_idle_vm(engine, backend), uuid4()
    async with engine.begin() as tx:
        await tx.execute(delete(servers).where(servers.c.vm_id == gone.id))
        await tx.execute(insert(volumes).values(id=unknown, name="unknown", size_gb=1, state=VolumeState.AVAILABLE))
    await reconciler.reconcile()
    expected = {(Drift.SERVER_GONE, gone.id, True), (Drift.ORPHAN_VOLUME, unknown, True)}

    async def break_off(*_: object) -> object:
        raise BackendError("unreachable", "The cloud does not answer.", retryable=True)

    with monkeypatch.context() as patch:
        patch.setattr(backend, "inventory", break_off)
        with pytest.raises(BackendError):
            await reconciler.reconcile()
    assert set(await recorded_findings(engine)) == expected
    assert (await read_vm(engine, gone.id)).status is Status.ACTIVE
    await reconciler.reconcile()
    assert (await read_vm(engine, gone.id)).status is Status.ERROR


@pytest.mark.parametrize("error", [RuntimeError("a bug"), BackendError("refused", "Not this one.", retryable=False)])
async def test_a_repair_that_fails_does_not_stop_those_behind_it(
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped = [await add_idle_vm(engine, backend) for _ in range(3)]
    await change_cloud(engine, servers, status=ServerStatus.SHUTOFF)
    await reconciler.reconcile()
    failed = _fail_first_repair(reconciler, error)
    await reconciler.reconcile()
    [bad] = failed
    assert {vm.id: (await read_vm(engine, vm.id)).status for vm in stopped} == {
        vm.id: Status.ACTIVE if vm.id == bad else Status.SHUTOFF for vm in stopped
    }
    assert {id for _, id, is_open in await recorded_findings(engine) if is_open} == {bad}
    assert f"{bad} still has the finding power_state" in caplog.text
    await reconciler.reconcile()
    assert (await read_vm(engine, bad)).status is Status.SHUTOFF


async def test_an_outage_ends_the_repairs_until_the_next_comparison(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    stopped = [await add_idle_vm(engine, backend) for _ in range(3)]
    await change_cloud(engine, servers, status=ServerStatus.SHUTOFF)
    await reconciler.reconcile()
    _fail_first_repair(reconciler, TimeoutError("no answer"))
    with pytest.raises(TimeoutError):
        await reconciler.reconcile()
    assert {(await read_vm(engine, vm.id)).status for vm in stopped} == {Status.ACTIVE}
    await reconciler.reconcile()
    assert {(await read_vm(engine, vm.id)).status for vm in stopped} == {Status.SHUTOFF}


def _fail_first_repair(reconciler: Reconciler, error: Exception) -> list[UUID]:
    """Let the next repair fail; return a list that will name its resource."""
    repair, failed = reconciler._repairs.repair, list[UUID]()

    async def fail_once(found: Difference, held_by: UUID) -> str | None:
        if not failed:
            failed.append(found.id)
            raise error
        return await repair(found, held_by)

    reconciler._repairs.repair = fail_once  # type: ignore[method-assign]
    return failed


async def test_only_one_worker_reconciles_at_a_time(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, status=ServerStatus.SHUTOFF)
    other = Reconciler(engine, backend, cast("Client", CancelRecorder()))
    reconciled = []

    async def nested() -> None:
        reconciled.append("first")
        await other._reconcile_unless_locked()

    reconciler.reconcile = nested  # type: ignore[method-assign]
    other.reconcile = nested  # type: ignore[method-assign]
    await reconciler._reconcile_unless_locked()
    assert reconciled == ["first"]
    await other._reconcile_unless_locked()
    assert reconciled == ["first", "first"]


async def test_two_comparisons_close_together_count_as_one(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers that take turns may compare within a second."""
    vm = await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, status=ServerStatus.SHUTOFF)
    monkeypatch.setattr(reconciler_module, "INTERVAL", 15.0)
    await reconciler.reconcile()
    await reconciler.reconcile()
    assert (await read_vm(engine, vm.id)).status is Status.ACTIVE
    async with engine.begin() as tx:
        await tx.execute(update(Finding).values(found_at=Finding.found_at - timedelta(seconds=15)))
    await reconciler.reconcile()
    assert (await read_vm(engine, vm.id)).status is Status.SHUTOFF


@pytest.mark.usefixtures("backend")
async def test_thousands_of_findings_are_recorded(engine: AsyncEngine, reconciler: Reconciler) -> None:
    row = {"name": "unknown", "size_gb": 1, "state": VolumeState.AVAILABLE}
    async with engine.begin() as tx:
        for _ in range(7):
            await tx.execute(insert(volumes).values([{"id": uuid4(), **row} for _ in range(1000)]))
    for _ in range(2):
        await reconciler.reconcile()
    assert len(await recorded_findings(engine)) == 7000


async def test_what_projects_use_is_counted_afresh_where_it_is_wrong(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, caplog: pytest.LogCaptureFixture
) -> None:
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        await tx.execute(update(ProjectUsage).values(vms=7))
    await reconciler.reconcile()
    async with engine.connect() as connection:
        of_vm = select(ProjectUsage.vms).where(ProjectUsage.project_id == vm.owner_id)
        assert await connection.scalar(of_vm) == 1
    assert f"The use of project {vm.owner_id} was counted wrongly" in caplog.text
