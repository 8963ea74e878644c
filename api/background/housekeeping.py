"""Deletes expired rows in small batches: answers of idempotency keys, tokens, old history, and old security events."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import advisory_locks, outages
from domain.upkeep import retention
from domain.upkeep.retention import Expiry

logger = logging.getLogger(__name__)

INTERVAL = 3600.0  # seconds
PAUSE = 0.05  # seconds between two batches: requests come first


async def run(engine: AsyncEngine, retention_days: int, audit_days: int) -> None:
    """Delete expired rows now and every hour."""
    while True:
        await delete_expired(engine, retention_days)
        await delete_old_audit(engine, audit_days)
        await asyncio.sleep(INTERVAL)


async def delete_expired(engine: AsyncEngine, retention_days: int) -> None:
    """Delete all rows that have expired; an error in one table does not stop the others.

    It ends if another process is at it. One that went on to the next table could take the lock there while the other
    pauses, and nobody would delete the rest of either table in this hour.
    """
    tables_of = defaultdict[str, list[str]](list)
    reason_of = dict[str, str]()
    for expiry in retention.expiries(retention_days):
        try:
            if not await _delete_all(engine, expiry):
                break
        except Exception as error:  # noqa: BLE001 - the next hour tries again
            reason = outages.describe(error)
            # Before the migrations have run, each reason names another missing table.
            kind = outages.sqlstate_of(error) or reason
            reason_of.setdefault(kind, reason)
            tables_of[kind].append(expiry.model.__tablename__)
    for kind, tables in tables_of.items():  # an outage has the same reason in all tables
        logger.warning("old rows of %s could not be deleted: %s", ", ".join(tables), reason_of[kind])


async def delete_old_audit(engine: AsyncEngine, days: int) -> None:
    """Delete security events that are older than these days; 0 means none."""
    try:
        while days:
            async with engine.begin() as tx:
                if not await retention.delete_old_audit_events(tx, timedelta(days=days)):
                    return
            await asyncio.sleep(PAUSE)
    except Exception as error:  # noqa: BLE001 - the next hour tries again
        logger.warning("old rows of audit_events could not be deleted: %s", outages.describe(error))


async def _delete_all(engine: AsyncEngine, expiry: Expiry) -> bool:
    """Delete one table's expired rows; False if another process deletes rows."""
    position: Sequence[Any] | None = None
    while True:
        # Each batch is a transaction of its own, so it holds locks and a connection only for milliseconds.
        async with engine.begin() as tx:
            if not await tx.scalar(select(func.pg_try_advisory_xact_lock(advisory_locks.HOUSEKEEPING))):
                return False
            position = await retention.delete_batch(tx, expiry, position)
        if position is None:
            return True
        await asyncio.sleep(PAUSE)
