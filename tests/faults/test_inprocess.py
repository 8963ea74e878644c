"""Many short schedules at once in one process, with faults at the seams between its parts.

A short slice runs with the tests; `make faults` runs a thousand. SEED=7 (or 1-40) runs those alone, at once.
"""

import asyncio
import contextlib
import gc
import os
import time
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from temporalio.client import Client as TemporalClient
from temporalio.service import RPCError

import api.background.dispatcher
import api.background.workflow_recovery
from activities.recovery import reconciler
from domain import temporal as connections
from domain.settings import Settings
from tests.conftest import make_settings
from tests.faults.inprocess import Inprocess, InprocessClient, log_in
from tests.faults.inprocess_seams import Mode, Plan, Seams, make_plan
from tests.faults.schedule import FAILING, Fault, seeds, step
from tests.faults.schedule_operator import interfere
from tests.faults.schedule_report import Report
from tests.faults.schedule_world import OPERATIONS, FaultyWorld, complaints, delete_remains, statuses, until_ended
from tests.integration.anything import Step
from tests.support.truth import differences

SCHEDULES = int(os.environ.get("INPROCESS", "12"))
AT_ONCE, PAUSE = 40, 0.2  # seconds between their beginnings: all in one second would be a test of the event loop
STEPS, SPAN = 4, 6.0
pytestmark = [
    pytest.mark.timeout(600 + 5 * SCHEDULES),
    # A request that is cut while SQLAlchemy prepares its new connection leaves that to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed connection:ResourceWarning"),
]
LOOKS = 3.0  # seconds: looks after operations, and at the cloud, come this often here


@dataclass(frozen=True)
class Short:
    """A schedule of one client in one process, as a pure function of its seed.

    `cut_database` are times at which connections to PostgreSQL are ended, and which; `replaces_api`: whether an API is.
    """

    seed: int
    lanes: list[list[Step]]
    plan: Plan
    cuts: dict[int, float]
    operator: list[Fault]
    cut_database: list[tuple[float, int]]
    replaces_api: bool

    @property
    def may_fail(self) -> bool:
        """Whether anything in it lets an operation fail."""
        return bool(self.operator) or Mode.REFUSES in self.plan.values()


def make(seed: int) -> Short:
    """The schedule of a seed."""
    random = Random(seed)
    lanes = [[step(random) for _ in range(STEPS)] for _ in range(2)]
    cuts = {random.randrange(30): random.choice([0.002, 0.01, 0.03, 0.1]) for _ in range(random.randint(0, 3))}
    interferes = random.random() < 0.25
    kind = random.choice(sorted(FAILING))
    operator = [Fault(random.uniform(0.5, SPAN), kind, which=random.randrange(8))] if interferes else []
    cut_database = [(random.uniform(0, SPAN), random.randrange(5))] if random.random() < 0.1 else []
    replaces_api = random.random() < 0.05
    return Short(seed, lanes, make_plan(random), cuts, operator, cut_database, replaces_api)


@pytest.fixture
async def world(
    database_url: str, temporal: TemporalClient, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Inprocess]:
    """All parts, with seams in every client of Temporal and between every worker and its cloud."""
    seams = Seams()
    connect = connections.connect

    async def through_seams(settings: Settings, **options: Any) -> TemporalClient:
        client = await connect(settings, **options)
        return TemporalClient(**client.config() | {"interceptors": [seams]})

    monkeypatch.setattr(connections, "connect", through_seams)
    monkeypatch.setattr(api.background.dispatcher, "CHECK_AFTER", LOOKS)
    monkeypatch.setattr(api.background.workflow_recovery, "CHECK_AFTER", LOOKS)
    monkeypatch.setattr(reconciler, "INTERVAL", LOOKS)
    address = temporal.service_client.config.target_host
    settings = make_settings(database_url, temporal_address=address, temporal_task_queue=f"faults-{uuid4().hex[:8]}")
    world = Inprocess(settings, await through_seams(settings, retry_for=5.0), seams)
    try:
        await world.start()
        yield world
    finally:
        await world.stop()
        gc.collect()


async def play(world: Inprocess, schedule: Short, client: InprocessClient, owner_id: UUID) -> FaultyWorld:
    """Do what a schedule says; what its operations came to is looked at later."""
    things = FaultyWorld(world, client, [], [])
    async with asyncio.TaskGroup() as group:
        for fault in schedule.operator:
            group.create_task(_interfere(world, owner_id, fault))
        for at, which in schedule.cut_database:
            group.create_task(_after(at, world.cut_database, which))
        if schedule.replaces_api:
            group.create_task(world.replace_api())
        things = await FaultyWorld.begin(world, client, 1)
        for lane in schedule.lanes:
            group.create_task(things.walk(lane))
    await until_ended(world, owner_id)
    return things


async def _interfere(world: Inprocess, owner_id: UUID, fault: Fault) -> None:
    await asyncio.sleep(fault.at)
    for _ in range(20):
        with contextlib.suppress(RPCError):  # it has no workflow yet, or no more
            if await interfere(world.operator, world, owner_id, fault):
                world.done[f"an operator: {fault.kind}"] += 1
                return
        await asyncio.sleep(0.1)


async def _after(at: float, fault: Any, which: int) -> None:
    await asyncio.sleep(at)
    await fault(which)


async def _one(world: Inprocess, schedule: Short, report: Report, after: float) -> None:
    async with log_in(world, f"seed-{schedule.seed}", schedule.cuts) as (client, owner_id):
        await asyncio.sleep(after)
        world.seams.plans[client.name] = schedule.plan
        try:
            things = await play(world, schedule, client, owner_id)
            del world.seams.plans[client.name]
            wrong = await complaints(world, client, owner_id, refused=schedule.may_fail)
            assert wrong == [], "\n".join(wrong)
            for vm_id in things.vms:
                await client.request("DELETE", f"/vms/{vm_id}")
            await until_ended(world, owner_id)
            await delete_remains(world, client, owner_id)
        except Exception:  # noqa: BLE001 - the others are to be run all the same
            report.failures[schedule.seed] = traceback.format_exc()
            print(f"SEED={schedule.seed}: {report.failures[schedule.seed]}")  # noqa: T201
        report.schedules += 1
        report.add_requests(client.attempts)
        report.operations += statuses(await world.sql(OPERATIONS, owner_id))


async def test_schedules_of_faults_at_the_seams(world: Inprocess) -> None:
    report = Report()
    wanted = seeds(SCHEDULES)
    for start in range(0, len(wanted), AT_ONCE):
        began, at_once = time.monotonic(), wanted[start : start + AT_ONCE]
        begun = (_one(world, make(seed), report, number * PAUSE) for number, seed in enumerate(at_once))
        await asyncio.gather(*begun)
        wrong = await differences(world)
        if wrong:
            report.failures[at_once[0]] = "\n".join([report.failures.get(at_once[0], ""), *wrong])
        failed = [seed for seed in at_once if seed in report.failures]
        print(f"seeds {at_once[0]}-{at_once[-1]}: {time.monotonic() - began:.1f} s, failed: {failed}")  # noqa: T201
    report.faults = world.seams.done + world.done
    print("\n".join(report.lines()))  # noqa: T201 - the figures
    assert list(report.failures) == []
