"""An interface whose port was missing for a while comes back with the port."""

from collections.abc import Collection
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.ports import add_ports
from activities.backends.mock.schema import ports
from activities.backends.resources import Port, PortSpec, Ref
from activities.recovery import leftovers
from activities.recovery.reconciler import Reconciler
from domain.data.models import VM, Interface
from domain.rules.resources import AttachmentStatus, Kind
from domain.rules.states import Action, OperationStatus, Status
from domain.upkeep.findings import Drift
from tests.activities.drift import (
    add_idle_vm,
    all_rows,
    change_after_comparison,
    change_cloud,
    recorded_findings,
    recorded_repairs,
)
from tests.support.rows import add_interface, add_operation, read_vm


@pytest.fixture(autouse=True)
def no_minimum_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leftovers go at the second look."""
    monkeypatch.setattr(leftovers, "MIN_AGE", 0.0)


async def reconcile(reconciler: Reconciler) -> None:
    for _ in range(2):
        await reconciler.reconcile()


async def lose(engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler) -> tuple[VM, Interface, RowMapping]:
    """Return a VM, an interface that it has lost because the cloud hid the port, and the port."""
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm)
        addresses = (interface.ip_address, interface.mac_address)
        await add_ports(tx, vm.id, [PortSpec(Ref(interface.id), interface.network_id, *addresses)])
        port = (await tx.execute(select(ports))).mappings().one()
        await tx.execute(update(Interface).values(cloud_id=str(port["cloud_id"])))
    await change_cloud(engine, ports)
    await reconcile(reconciler)
    assert await all_rows(engine, Interface) == []
    return vm, interface, port


async def show(engine: AsyncEngine, port: RowMapping) -> None:
    """Let the cloud show the port again."""
    async with engine.begin() as tx:
        await tx.execute(insert(ports).values(**port))


@pytest.mark.parametrize("has_mark", [True, False])
async def test_it_comes_back_with_its_addresses(
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_mark: bool,
) -> None:
    """A port that Nova has made with its server has no mark."""
    vm, interface, port = await lose(engine, backend, reconciler)
    await show(engine, port)
    if not has_mark:
        list_ports = backend.list_ports

        async def without_marks(vms: Collection[Ref]) -> list[Port]:
            return [replace(port, id=None) for port in await list_ports(vms)]

        monkeypatch.setattr(backend, "list_ports", without_marks)
    before = await read_vm(engine, vm.id)
    await reconcile(reconciler)
    [found] = await all_rows(engine, Interface)
    kept = ("id", "vm_id", "network_id", "ip_address", "mac_address", "status")
    assert [getattr(found, name) for name in kept] == [getattr(interface, name) for name in kept]
    assert found.cloud_id == str(port["cloud_id"])
    assert (await read_vm(engine, vm.id)).updated_at > before.updated_at
    assert set(await recorded_findings(engine)) == {
        (Drift.INTERFACE_GONE, interface.id, False),
        (Drift.INTERFACE_RECOVERED, interface.id, False),
        (Drift.ORPHAN_PORT, interface.id, False),  # until it was clear whose it is
    }
    operations = [(repair.vm_id, repair.input["status"]) for repair in await recorded_repairs(engine)]
    assert sorted(operations) == [(vm.id, "ATTACHED"), (vm.id, "gone")]
    await reconcile(reconciler)
    assert len(await all_rows(engine, ports)) == len(await all_rows(engine, Interface)) == 1


async def test_a_port_whose_interface_was_detached_here_is_removed(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    """It was lost and came back earlier; then its owner detached it."""
    vm, interface, port = await lose(engine, backend, reconciler)
    async with engine.begin() as tx:
        status = OperationStatus.SUCCEEDED
        await add_operation(
            tx, vm, Action.DETACH_INTERFACE, status=status, resource_type=Kind.INTERFACE, resource_id=interface.id
        )
    await show(engine, port)
    await reconcile(reconciler)
    assert (await all_rows(engine, Interface), await all_rows(engine, ports)) == ([], [])


async def test_a_port_of_a_vm_that_another_operation_has_held_since_the_comparison_is_not_given_back(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operation has ended, but it may have been about the port."""
    vm, _, port = await lose(engine, backend, reconciler)
    await show(engine, port)
    await reconciler.reconcile()

    async def hold() -> None:
        async with engine.begin() as tx:
            await tx.execute(update(VM).where(VM.id == vm.id).values(operation_id=uuid4()))

    await change_after_comparison(engine, backend, monkeypatch, hold)
    await reconciler.reconcile()
    assert await all_rows(engine, Interface) == []


async def test_a_port_whose_latest_repair_is_of_an_earlier_version_stops_no_comparison(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    """That version has not kept the port's id."""
    vm, interface, port = await lose(engine, backend, reconciler)
    async with engine.begin() as tx:
        earlier = {"status": "gone", "because": "interface_gone", "seen": {"vm_id": str(vm.id)}}
        await add_operation(
            tx,
            vm,
            Action.RESET_STATE,
            status=OperationStatus.SUCCEEDED,
            resource_type=Kind.INTERFACE,
            resource_id=interface.id,
            input=earlier,
        )
    await show(engine, port)
    other = await add_idle_vm(engine, backend)
    await backend.purge(Ref(other.id))
    await reconcile(reconciler)
    assert await all_rows(engine, Interface) == []
    assert (await read_vm(engine, other.id)).status is Status.ERROR


async def test_it_does_not_come_back_while_an_operation_works_on_its_vm(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    _, _, port = await lose(engine, backend, reconciler)
    await show(engine, port)
    await reconciler.reconcile()
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(attaching=1))
    await reconcile(reconciler)
    assert await all_rows(engine, Interface) == []
    assert len(await all_rows(engine, ports)) == 1


async def test_its_addresses_are_taken_from_an_interface_that_still_has_them_here(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    """The cloud gives an address to one port, so the other port has another one by now."""
    vm, interface, port = await lose(engine, backend, reconciler)
    other = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        await add_interface(tx, other, interface.ip_address, status=AttachmentStatus.ATTACHING)
    await show(engine, port)
    await reconcile(reconciler)
    addresses = {row.vm_id: row.ip_address for row in await all_rows(engine, Interface)}
    assert addresses == {vm.id: interface.ip_address, other.id: None}
