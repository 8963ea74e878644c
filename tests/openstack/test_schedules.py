"""Faults at random times, on our processes and on Nova's API: nothing is lost, stuck or made twice on the real cloud.

The schedules are those of `tests/faults`. What they do there to the mock's calls, they do here to Nova's API: it dies,
or it stands still. The tests run two schedules; SCHEDULES=10 runs ten, and SEED=7 (or 7-12) runs only those seeds. An
operation may fail, because the cloud gives up what it was doing when its API died.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from tests.faults import schedule_cluster
from tests.faults.schedule import Fault, Schedule, make, seeds
from tests.faults.schedule_checks import RetryingWalker, errors_of_operations, open_operations, owner_of
from tests.faults.schedule_cluster import Cluster
from tests.faults.schedule_faults import Faults
from tests.openstack import logins
from tests.openstack.cloud.services import DAEMONS
from tests.openstack.drill import say, until_equal, until_listed
from tests.openstack.truth import Project, read_project
from tests.support.users import RetryingUser, log_in_retrying
from tests.support.waiting import poll

SCHEDULES = int(os.environ.get("SCHEDULES", "2"))
END = 900.0  # seconds; a lost answer is looked for two minutes long
pytestmark = [
    pytest.mark.timeout(1200 * SCHEDULES),
    pytest.mark.usefixtures("test_cloud"),
    pytest.mark.filterwarnings("ignore:The 'service_type' parameter"),  # which the SDK passes to itself
]


class CloudFaults(Faults):
    """The faults of a schedule; those of the mock's calls hit Nova's API, one after the other."""

    def __init__(self, cluster: Cluster, owner_id: UUID) -> None:
        super().__init__(cluster, owner_id)
        self._api, self._lock = DAEMONS["nova-api"], asyncio.Lock()

    async def _cloud(self, _fault: Fault) -> bool:
        async with self._lock:
            await asyncio.to_thread(self._api.kill)
            self._api.start()
            await asyncio.to_thread(self._api.wait)
        return True

    async def _slow_cloud(self, fault: Fault) -> bool:
        async with self._lock:
            pid = self._api.pid
            assert pid is not None
            self.cluster.signal(signal.SIGSTOP, pid)
            await asyncio.sleep(fault.duration)
            self.cluster.signal(signal.SIGCONT, pid)
        return True

    _hung_cloud = _slow_cloud


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One cluster for all schedules, in front of the cloud."""
    async with schedule_cluster.running(tmp_path_factory.mktemp("cluster"), **logins.settings()) as cluster:
        yield cluster


async def run(cluster: Cluster, schedule: Schedule, before: Project) -> list[str]:
    """Run one schedule on the cluster, delete what it has left, and return the errors.

    `before` is what the project had before the first schedule: what one has left by mistake is no stranger to the next.
    """
    async with log_in_retrying(cluster.url, f"seed-{schedule.seed}") as user:
        user.deadline = END
        await until_listed(user)
        walker = await RetryingWalker.begin(cluster, user)
        owner_id = await owner_of(cluster, user)
        faults = CloudFaults(cluster, owner_id)
        async with asyncio.TaskGroup() as group:
            for fault in schedule.faults:
                group.create_task(faults.inject(fault))
            for lane in schedule.lanes:
                group.create_task(walker.walk(lane))
        for link in cluster.links.values():
            link.stop_cutting()
        errors = await until_ended(cluster, user)
        say(f"seed {schedule.seed}: {dict(faults.done)}, missed {dict(faults.missed)}")
        errors += await errors_of_operations(cluster, user, owner_id, may_fail=True)
        project, different = await until_equal(cluster, before)
        say(f"seed {schedule.seed}: the project has {project.counts()}, {len(different)} differences")
        for vm_id in walker.vms:
            await user.request("DELETE", f"/vms/{vm_id}")
        errors += different + await until_ended(cluster, user)
        say(f"seed {schedule.seed}: {(await user.read('/snapshots'))['total']} snapshots outlive their VMs")
        for kind in ("volumes", "snapshots"):  # these outlive their VMs
            for item in (await user.read(f"/{kind}?page_size=100"))["items"]:
                await user.request("DELETE", f"/{kind}/{item['id']}")
        errors += await until_ended(cluster, user)
        return errors + (await until_equal(cluster, before))[1]


async def until_ended(cluster: Cluster, user: RetryingUser) -> list[str]:
    """Wait until no operation of the user is open; returns those that stay."""
    owner_id = await owner_of(cluster, user)
    try:
        await poll(lambda: open_operations(cluster, owner_id), lambda rows: not rows, deadline=END, interval=0.5)
    except AssertionError as error:
        return [f"operations did not end: {error}"]
    return []


async def test_schedules_of_faults_on_the_real_cloud(cluster: Cluster) -> None:
    failures, before = dict[int, list[str]](), read_project(logins.connect())
    for seed in seeds(SCHEDULES):
        began = time.monotonic()
        if errors := await run(cluster, make(seed), before):
            failures[seed] = errors
        say(f"seed {seed}: {time.monotonic() - began:.0f} s, {len(failures.get(seed, ()))} errors")
    assert failures == {}
