"""Drift between the cloud and the database, and what the reconciler records about it."""

from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from domain.data.models import VM, Finding, Operation
from domain.rules.states import Action, OperationStatus, Status
from tests.activities.cloud import add_server
from tests.support.rows import add_operation, add_user, add_vm, read_vm


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
