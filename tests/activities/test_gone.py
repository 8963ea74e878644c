"""How the reconciler marks what is gone: not if too much is gone at once, and a server with all that it had as one."""

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import servers
from activities.backends.resources import Ref
from activities.recovery import reconciler as reconciler_module
from activities.recovery.reconciler import Reconciler
from domain.data.models import Interface, Volume
from domain.rules.cloud import ServerStatus
from domain.rules.resources import VolumeStatus
from domain.rules.states import Status
from tests.activities.drift import add_idle_vm, all_rows, change_cloud, recorded_findings
from tests.support.rows import add_attachment, add_interface, add_user, add_volume, read_vm


@pytest.fixture
def few_gone(reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch) -> Reconciler:
    """A reconciler for which three servers are few."""
    monkeypatch.setattr(reconciler_module, "FEW_GONE", 3)
    return reconciler


async def test_too_many_resources_gone_at_once_are_reported_but_not_adopted(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    vms = [await add_idle_vm(engine, backend) for _ in range(3)]
    await change_cloud(engine, servers, status=ServerStatus.SHUTOFF)
    async with engine.begin() as tx:
        await tx.execute(delete(servers).where(servers.c.vm_id != vms[0].id))
    monkeypatch.setattr(reconciler_module, "MAX_GONE", 1)
    for _ in range(3):
        await reconciler.reconcile()
    shown = [(await read_vm(engine, vm.id)).status for vm in vms]
    assert shown == [Status.SHUTOFF, Status.ACTIVE, Status.ACTIVE]
    assert sorted(is_open for _, _, is_open in await recorded_findings(engine)) == [False, True, True]
    monkeypatch.setattr(reconciler_module, "MAX_GONE", 2)
    await reconciler.reconcile()
    shown = [(await read_vm(engine, vm.id)).status for vm in vms]
    assert shown == [Status.SHUTOFF, Status.ERROR, Status.ERROR]


@pytest.mark.parametrize(("left", "expected"), [(3, Status.ACTIVE), (4, Status.ERROR)])
async def test_more_than_a_few_that_are_most_of_all_are_not_adopted(
    engine: AsyncEngine, backend: MockBackend, few_gone: Reconciler, left: int, expected: Status
) -> None:
    """A small installation, of whose servers the credentials of another project show none or few."""
    vms = [await add_idle_vm(engine, backend) for _ in range(4 + left)]
    for vm in vms[:4]:
        await backend.purge(Ref(vm.id))
    for _ in range(2):
        await few_gone.reconcile()
    assert {(await read_vm(engine, vm.id)).status for vm in vms[:4]} == {expected}


@pytest.mark.parametrize("known", [Status.ACTIVE, Status.ERROR])
async def test_what_is_gone_with_its_server_does_not_count(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch, known: Status
) -> None:
    """One VM may have more interfaces and volumes than may be gone at once. In ERROR, its server was lost before."""
    vm, other = await add_idle_vm(engine, backend, known), await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        for n in range(3):
            await add_interface(tx, vm, f"10.0.0.{n + 2}")
            volume = await add_volume(tx, await add_user(tx), status=VolumeStatus.IN_USE)
            await add_attachment(tx, vm, volume, device=f"/dev/vd{n}")
    await backend.purge(Ref(vm.id))
    await backend.purge(Ref(other.id))
    monkeypatch.setattr(reconciler_module, "MAX_GONE", 2)
    for _ in range(2):
        await reconciler.reconcile()
    assert [(await read_vm(engine, each.id)).status for each in (vm, other)] == [Status.ERROR] * 2
    assert await all_rows(engine, Interface) == []
    assert {row.status for row in await all_rows(engine, Volume)} == {VolumeStatus.ERROR}


async def test_what_servers_that_are_there_have_lost_counts(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        for n in range(2):
            await add_interface(tx, vm, f"10.0.0.{n + 2}")
        volume = await add_volume(tx, await add_user(tx), status=VolumeStatus.IN_USE)
        await add_attachment(tx, vm, volume)
    monkeypatch.setattr(reconciler_module, "MAX_GONE", 2)
    for _ in range(2):
        await reconciler.reconcile()
    assert len(await all_rows(engine, Interface)) == 2
    assert [row.status for row in await all_rows(engine, Volume)] == [VolumeStatus.IN_USE]


async def test_comparisons_mark_all_that_is_gone_some_at_a_time(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    vms = [await add_idle_vm(engine, backend) for _ in range(3)]
    await change_cloud(engine, servers)
    monkeypatch.setattr(reconciler_module, "MOST_MARKED", 2)
    marked = []
    for _ in range(3):
        await reconciler.reconcile()
        marked.append([(await read_vm(engine, vm.id)).status for vm in vms].count(Status.ERROR))
    assert marked == [0, 2, 3]
