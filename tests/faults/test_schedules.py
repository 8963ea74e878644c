"""Faults at any time on real processes: nothing is lost, stuck or done twice, and cloud and database agree.

A short slice runs with the tests; `make faults` runs a hundred. SEED=7 (or 7-12) runs those schedules alone.
"""

import asyncio
import os
import time
import traceback
from collections.abc import AsyncIterator

import pytest

from tests.faults import schedule_cluster
from tests.faults.client import Client, log_in
from tests.faults.schedule import Schedule, make, seeds
from tests.faults.schedule_cluster import Cluster
from tests.faults.schedule_faults import Faults
from tests.faults.schedule_report import Report
from tests.faults.schedule_world import (
    OPERATIONS,
    FaultyWorld,
    complaints,
    delete_remains,
    owner_of,
    statuses,
    until_ended,
    until_moving,
)
from tests.support.truth import differences

SCHEDULES = int(os.environ.get("SCHEDULES", "1"))
pytestmark = pytest.mark.timeout(600 + 60 * SCHEDULES)


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One cluster for all schedules."""
    async with schedule_cluster.running(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


async def play(cluster: Cluster, schedule: Schedule, report: Report) -> None:
    """Run one schedule on the cluster; AssertionError where it leaves anything wrong."""
    async with log_in(cluster.url, f"seed-{schedule.seed}") as client:
        world = await FaultyWorld.begin(cluster, client)
        owner_id = await owner_of(cluster, client)
        faults = Faults(cluster, owner_id)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_inflict(faults, schedule, report))
                for lane in schedule.lanes:
                    group.create_task(world.walk(lane))
            await until_ended(cluster, owner_id)
            await _check(cluster, client, schedule)
            await _give_back(cluster, world)
        finally:
            report.faults += faults.done
            report.missed += faults.missed
            report.answers += world.answers
            report.add_requests(client.attempts)
        report.operations += statuses(await cluster.sql(OPERATIONS, owner_id))


async def _inflict(faults: Faults, schedule: Schedule, report: Report) -> None:
    """Do all the faults, and see how long it takes until everything moves again."""
    cluster = faults.cluster
    await asyncio.gather(*(faults.inflict(fault) for fault in schedule.faults))
    for link in cluster.links.values():
        link.mend()
    over = time.monotonic()
    await cluster.until_ready()
    report.recovered("ready after the last fault", time.monotonic() - over)
    await cluster.sql("DELETE FROM mock_cloud.faults WHERE mode <> 'never-answer'")
    moving = await until_moving(cluster, faults.owner_id)
    if moving is not None:
        report.recovered("all operations go on after the last fault", time.monotonic() - over)


async def _check(cluster: Cluster, client: Client, schedule: Schedule) -> None:
    owner_id = await owner_of(cluster, client)
    wrong = await complaints(cluster, client, owner_id, refused=schedule.may_fail)
    await delete_remains(cluster, client, owner_id)
    wrong += await differences(cluster)
    assert wrong == [], "\n".join(wrong)


async def _give_back(cluster: Cluster, world: FaultyWorld) -> None:
    """Delete what there is, calmly; nothing may be left of it anywhere."""
    await cluster.sql("DELETE FROM mock_cloud.faults")
    for vm_id in world.vms:
        await world.user.request("DELETE", f"/vms/{vm_id}")
    await until_ended(cluster, await owner_of(cluster, world.user))
    wrong = await differences(cluster)
    assert wrong == [], "\n".join(wrong)
    (left,) = await cluster.sql("SELECT count(*) FROM mock_cloud.servers")
    assert left["count"] == 0


async def test_schedules_of_faults(cluster: Cluster) -> None:
    report = Report()
    for seed in seeds(SCHEDULES):
        began = time.monotonic()
        try:
            await play(cluster, make(seed), report)
        except Exception:  # noqa: BLE001 - the others are to be run all the same
            report.failures[seed] = traceback.format_exc()
        report.schedules += 1
        print(f"seed {seed}: {time.monotonic() - began:.1f} s{' FAILED' if seed in report.failures else ''}")  # noqa: T201
    print("\n".join(report.lines()))  # noqa: T201 - the figures
    assert list(report.failures) == []
