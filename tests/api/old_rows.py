"""Rows that are old enough for housekeeping."""

from datetime import UTC, datetime, timedelta
from typing import Any

from domain.data.models import VM, Operation
from domain.rules.states import Action, OperationStatus
from tests.support.rows import add_operation

DAYS = 30
NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=DAYS + 1)
SUCCEEDED = OperationStatus.SUCCEEDED


async def ended(tx: Any, vm: VM, action: Action, *, minutes: int = 0, **values: Any) -> Operation:
    """An operation on the VM that ended long ago, and that no row names."""
    at = LONG_AGO + timedelta(minutes=minutes)
    row: dict[str, Any] = {"status": SUCCEEDED, "holds": False, "created_at": at, "finished_at": at} | values
    return await add_operation(tx, vm, action, **row)
