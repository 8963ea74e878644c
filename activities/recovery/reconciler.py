"""Compares the cloud with the database again and again, and repairs the differences that stay. Runs in every worker.

Where they differ, the cloud is right about what exists: the database is changed to match it, and an operation records
the change. What the database has deleted is removed from the cloud. What the database has never known may belong to
somebody else, so it is only reported.
"""

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from activities.backends.protocol import BackendError, ComputeBackend
from activities.recovery import drift_detection
from activities.recovery.repairs import Repairs
from domain.data import advisory_locks, database, outages, queries
from domain.data.models import VM
from domain.rules.states import Status
from domain.upkeep import findings, usage
from domain.upkeep.findings import GONE, Difference, Drift

logger = logging.getLogger(__name__)

INTERVAL = 15.0  # seconds between two comparisons
COUNT_INTERVAL = 3600.0  # seconds between two counts of what projects use: they read all rows
# A finding is repaired only if a later comparison finds it unchanged. Clouds are eventually consistent, and a single
# wrong answer must not cost a VM. Different workers may compare within the same second, which proves no more than one
# comparison. So the time between the two comparisons must be at least this part of INTERVAL.
CONFIRM_AFTER_INTERVALS = 0.6
# If more resources than this are gone at once, the answer is probably wrong: credentials of another project, or a cloud
# that is partly down. The findings are shown to admins, but nothing is marked as gone. The interfaces and volumes of a
# server that is gone do not count: one VM may have more of them than this.
MAX_GONE = 50
FEW_GONE = 10  # servers; if more than these are gone, and they are most of all, the answer is probably wrong, too
MOST_MARKED = 1_000  # as gone, after one comparison; the next one finds the others again


class Confirmed(NamedTuple):
    """A difference that an earlier comparison has seen too: its finding, and the operation that last held it."""

    difference: Difference
    finding_id: UUID
    held_by: UUID


class Reconciler:
    """Compares and repairs periodically; an error ends one comparison, never the loop."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend, client: Client) -> None:
        self._engine = engine
        self._backend = backend
        self._repairs = Repairs(engine, backend, client)
        self._counted_at = -math.inf

    async def run(self) -> None:
        """Reconcile every INTERVAL until canceled. Skip a round if another worker is reconciling."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self._reconcile_unless_locked()
            except Exception as error:  # noqa: BLE001 - the loop must survive every error
                if outages.is_outage(error):
                    outages.log.failed(error)
                else:
                    logger.warning("Could not compare the cloud with the database: %s", outages.describe(error))
            else:
                outages.log.succeeded()

    async def _reconcile_unless_locked(self) -> None:
        # The lock ends with its transaction, and the transaction with the connection if the worker dies.
        async with self._engine.begin() as tx:
            if await queries.try_long_lock(tx, advisory_locks.RECONCILIATION):
                await self.reconcile()

    async def reconcile(self) -> None:
        """Record all present differences, and repair those that an earlier comparison has seen too."""
        began = await self._database_time()
        gone_count, servers, gone = 0, 0, list[Confirmed]()
        async for differences in drift_detection.find_drift(self._engine, self._backend):
            confirmed = await self._record(differences, began)
            gone_count += sum(found.drift in GONE and not found.with_server for found in differences)
            servers += sum(found.drift is Drift.SERVER_GONE for found in differences)
            # Only when the comparison is complete is it known whether too many resources are gone.
            gone += [found for found in confirmed if found.difference.drift in GONE][: MOST_MARKED - len(gone)]
            await self._repair(found for found in confirmed if found.difference.drift not in GONE)
        async with self._engine.begin() as tx:
            await findings.resolve_unseen(tx, began)
        if gone_count > MAX_GONE or await self._are_most(servers):
            logger.error("%d resources are gone at once; they are reported, not marked as gone", gone_count)
        else:
            await self._repair(gone)
        if time.monotonic() - self._counted_at >= COUNT_INTERVAL:
            self._counted_at = time.monotonic()
            await self._count()

    async def _are_most(self, servers: int) -> bool:
        """Whether so many servers are more than a few, and more than half of those that there should be."""
        if servers <= FEW_GONE:
            return False
        wanted = select(VM.id).where(VM.status.not_in((Status.DELETED, Status.ERROR))).limit(2 * servers).subquery()
        async with database.autocommit(self._engine).connect() as connection:
            return (await connection.scalar(select(func.count()).select_from(wanted)) or 0) < 2 * servers

    async def _count(self) -> None:
        """Compare the counts of the quotas with the rows, and correct those that are wrong."""
        async with database.autocommit(self._engine).connect() as connection:
            wrong = await usage.find_wrong(connection)
        for project_id in wrong:
            logger.error("The use of project %s was counted wrongly; it is counted afresh", project_id)
            async with self._engine.begin() as tx:
                await usage.correct(tx, project_id)

    async def _database_time(self) -> datetime:
        async with database.autocommit(self._engine).connect() as connection:
            now: datetime = (await connection.execute(select(func.now()))).scalar_one()
            return now

    async def _record(self, differences: Sequence[Difference], began: datetime) -> list[Confirmed]:
        """Record differences, and return those that may be repaired."""
        if not differences:
            return []
        async with self._engine.begin() as tx:
            finding_ids = await findings.record(tx, differences, began, CONFIRM_AFTER_INTERVALS * INTERVAL)
        found = [(difference, finding_ids.get((difference.drift, difference.id))) for difference in differences]
        # Only an operation in the database proves that the resource belongs to this service.
        return [Confirmed(difference, id, difference.held_by) for difference, id in found if id and difference.held_by]

    async def _repair(self, confirmed: Iterable[Confirmed]) -> None:
        for found in confirmed:
            await self._repair_one(found.difference, found.finding_id, found.held_by)

    async def _repair_one(self, found: Difference, finding_id: UUID, held_by: UUID) -> None:
        try:
            resolution = await self._repairs.repair(found, held_by)
            if resolution:
                logger.warning("%s %s had the finding %s: %s", found.kind, found.id, found.drift, resolution)
                async with self._engine.begin() as tx:
                    await findings.resolve(tx, finding_id, resolution)
        except Exception as error:
            if outages.is_outage(error) and outages.sqlstate_of(error) != outages.NO_RIGHTS:
                raise  # it would stop the other repairs, too
            # Any other error is of this finding alone, and must not stop the repairs behind it.
            reason = error if isinstance(error, BackendError) else outages.describe(error)
            logger.warning("%s %s still has the finding %s: %s", found.kind, found.id, found.drift, reason)
