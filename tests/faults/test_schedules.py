"""Faults at random times on real processes: nothing is lost, stuck or done twice, and cloud and database agree.

`make slices` runs a slice, `make faults` a hundred schedules. SEED=7 (or 7-12) runs only those seeds.
"""

import asyncio
import os
import time
import traceback
from collections.abc import AsyncIterator

import pytest

from tests.faults import schedule_cluster
from tests.faults.schedule import Schedule, make, seeds
from tests.faults.schedule_checks import (
    OPERATIONS,
    RetryingWalker,
    delete_leftovers,
    errors_of,
    owner_of,
    statuses,
    until_ended,
    until_moving,
)
from tests.faults.schedule_cluster import Cluster
from tests.faults.schedule_faults import Faults
from tests.faults.schedule_report import Report
from tests.support.truth import differences
from tests.support.users import RetryingUser, log_in_retrying

SCHEDULES = int(os.environ.get("SCHEDULES", "1"))
pytestmark = pytest.mark.timeout(600 + 60 * SCHEDULES)


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One cluster for all schedules."""
    async with schedule_cluster.running(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


async def run(cluster: Cluster, schedule: Schedule, report: Report) -> None:
    """Run one schedule on the cluster and check what it leaves."""
    async with log_in_retrying(cluster.url, f"seed-{schedule.seed}") as user:
        walker = await RetryingWalker.begin(cluster, user)
        owner_id = await owner_of(cluster, user)
        faults = Faults(cluster, owner_id)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_inject(faults, schedule, report))
                for lane in schedule.lanes:
                    group.create_task(walker.walk(lane))
            await until_ended(cluster, owner_id)
            await _check(cluster, user, schedule)
            await _delete_everything(cluster, walker)
        finally:
            report.faults += faults.done
            report.missed += faults.missed
            report.answers += walker.answers
            report.add_requests(user.attempts)
        report.operations += statuses(await cluster.sql(OPERATIONS, owner_id))


async def _inject(faults: Faults, schedule: Schedule, report: Report) -> None:
    """Inject all faults, and measure how long recovery takes after the last."""
    cluster = faults.cluster
    await asyncio.gather(*(faults.inject(fault) for fault in schedule.faults))
    for link in cluster.links.values():
        link.stop_cutting()
    over_at = time.monotonic()
    await cluster.until_ready()
    report.add_recovery("ready after the last fault", time.monotonic() - over_at)
    await cluster.sql("DELETE FROM mock_cloud.faults WHERE mode <> 'never-answer'")
    moving = await until_moving(cluster, faults.owner_id)
    if moving is not None:
        report.add_recovery("all operations go on after the last fault", time.monotonic() - over_at)


async def _check(cluster: Cluster, user: RetryingUser, schedule: Schedule) -> None:
    owner_id = await owner_of(cluster, user)
    errors = await errors_of(cluster, user, owner_id, may_fail=schedule.may_fail)
    await delete_leftovers(cluster, user, owner_id)
    errors += await differences(cluster)
    assert errors == [], "\n".join(errors)


async def _delete_everything(cluster: Cluster, walker: RetryingWalker) -> None:
    """Delete all VMs without faults; the cloud must have none left."""
    await cluster.sql("DELETE FROM mock_cloud.faults")
    for vm_id in walker.vms:
        await walker.user.request("DELETE", f"/vms/{vm_id}")
    await until_ended(cluster, await owner_of(cluster, walker.user))
    errors = await differences(cluster)
    assert errors == [], "\n".join(errors)
    (servers,) = await cluster.sql("SELECT count(*) FROM mock_cloud.servers")
    assert servers["count"] == 0


async def test_schedules_of_faults(cluster: Cluster) -> None:
    report = Report()
    for seed in seeds(SCHEDULES):
        started_at = time.monotonic()
        try:
            await run(cluster, make(seed), report)
        except Exception:  # noqa: BLE001 - a failure must not stop the others
            report.failures[seed] = traceback.format_exc()
        report.schedules += 1
        print(f"seed {seed}: {time.monotonic() - started_at:.1f} s{' FAILED' if seed in report.failures else ''}")  # noqa: T201
    print("\n".join(report.lines()))  # noqa: T201 - the figures
    assert list(report.failures) == []
