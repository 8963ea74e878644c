"""Drift between the cloud and the database, and what the reconciler records about it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.resources import Ref
from activities.recovery import drift_detection
from domain.data.cloud import Finding
from domain.data.models import VM, Interface, Operation, Snapshot, Volume
from domain.rules.states import Action, OperationStatus, Status
from domain.upkeep.findings import Drift
from tests.activities.cloud import add_server
from tests.support.rows import (
    add_interface,
    add_operation,
    add_snapshot,
    add_user,
    add_vm,
    add_volume,
    read_vm,
)


async def add_idle_vm(engine: AsyncEngine, backend: MockBackend, status: Status = Status.ACTIVE, **values: Any) -> VM:
    """Add a VM of any status, without an operation, whose server is ACTIVE."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=status, **values)
        await add_operation(tx, vm, Action.CREATE, status=OperationStatus.SUCCEEDED)
    await add_server(engine, backend, vm.id)
    return await read_vm(engine, vm.id)


async def recorded_findings(engine: AsyncEngine) -> list[tuple[str, UUID, bool]]:
    """Return the kind, the resource and whether it is open, of every finding."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(Finding).order_by(Finding.found_at))
        return [(row.kind, row.resource_id, row.resolved_at is None) for row in rows]


async def recorded_repairs(engine: AsyncEngine) -> list[Operation]:
    """Return the operations that record repairs."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(Operation).where(Operation.action == Action.RESET_STATE))
        return list(rows)  # type: ignore[arg-type] # rows have the model's attributes


async def all_rows(engine: AsyncEngine, model: Any) -> list[Any]:
    """Return all rows of a table."""
    async with engine.connect() as connection:
        return list(await connection.execute(select(model)))


async def change_cloud(engine: AsyncEngine, table: Any, **values: Any) -> None:
    """Change all rows of a table of the cloud, or delete them where there are no values."""
    async with engine.begin() as tx:
        await tx.execute(update(table).values(values) if values else delete(table))


async def add_drift(engine: AsyncEngine, backend: MockBackend) -> dict[Any, tuple[Drift, UUID]]:
    """Add a VM, an interface, a volume and a snapshot that the cloud no longer has, and return their differences."""
    vm, with_port = [await add_idle_vm(engine, backend) for _ in range(2)]
    async with engine.begin() as tx:
        interface = await add_interface(tx, with_port)
        volume = await add_volume(tx, await add_user(tx))
        snapshot = await add_snapshot(tx, with_port)
    await backend.purge(Ref(vm.id))
    return {
        VM: (Drift.SERVER_GONE, vm.id),
        Interface: (Drift.INTERFACE_GONE, interface.id),
        Volume: (Drift.VOLUME_GONE, volume.id),
        Snapshot: (Drift.IMAGE_GONE, snapshot.id),
    }


async def change_after_comparison(
    engine: AsyncEngine, backend: MockBackend, monkeypatch: pytest.MonkeyPatch, change: Callable[[], Awaitable[None]]
) -> None:
    """Make the change after the next comparison and before its repairs."""
    found = [page async for page in drift_detection.find_drift(engine, backend)]

    async def find_and_change(*_: object) -> AsyncIterator[object]:
        await change()
        for page in found:
            yield page

    monkeypatch.setattr(drift_detection, "find_drift", find_and_change)
