"""Many short schedules at once in one process, with faults at the seams between its parts.

`make slices` runs a slice, `make faults` a thousand. SEED=7 (or 1-40) runs only those seeds.
"""

import asyncio
import contextlib
import gc
import os
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
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
from tests.faults.inprocess import InProcessStack, InProcessUser, log_in
from tests.faults.inprocess_seams import Mode, Plan, Seams, make_plan
from tests.faults.schedule import OPERATOR_KINDS, Fault, seeds, step
from tests.faults.schedule_checks import OPERATIONS, RetryingWalker, delete_leftovers, errors_of, statuses, until_ended
from tests.faults.schedule_operator import interfere
from tests.faults.schedule_report import Report
from tests.support.random_walk import Step
from tests.support.truth import differences

SCHEDULES = int(os.environ.get("INPROCESS", "12"))
CONCURRENT = 40
# Seconds between the starts of schedules. If all started at the same time, they would only test how long the one event
# loop is blocked.
PAUSE = 0.2
STEPS, SPAN = 4, 6.0
pytestmark = [
    pytest.mark.timeout(600 + 5 * SCHEDULES),
    # If a request is cut while SQLAlchemy sets up its new connection, the garbage collector closes the connection.
    pytest.mark.filterwarnings("ignore:unclosed connection:ResourceWarning"),
]
CHECK_INTERVAL = 3.0  # seconds between checks of operations and of the cloud; shorter than in production


@dataclass(frozen=True)
class ShortSchedule:
    """A schedule of one user in one process; it is a pure function of its seed.

    `cuts` maps numbers of the user's requests to the seconds after which they are cut. `cut_database` has the times at
    which connections to PostgreSQL are cut, and which.
    """

    seed: int
    lanes: list[list[Step]]
    plan: Plan
    cuts: dict[int, float]
    operator_faults: list[Fault]
    cut_database: list[tuple[float, int]]
    replaces_api: bool

    @property
    def may_fail(self) -> bool:
        """Whether a fault may make an operation fail."""
        return bool(self.operator_faults) or Mode.REFUSES in self.plan.values()


def make(seed: int) -> ShortSchedule:
    """The schedule of a seed."""
    random = Random(seed)
    lanes = [[step(random) for _ in range(STEPS)] for _ in range(2)]
    cuts = {random.randrange(30): random.choice([0.002, 0.01, 0.03, 0.1]) for _ in range(random.randint(0, 3))}
    has_operator = random.random() < 0.25
    kind = random.choice(sorted(OPERATOR_KINDS))
    operator_faults = [Fault(random.uniform(0.5, SPAN), kind, which=random.randrange(8))] if has_operator else []
    cut_database = [(random.uniform(0, SPAN), random.randrange(5))] if random.random() < 0.1 else []
    replaces_api = random.random() < 0.05
    return ShortSchedule(seed, lanes, make_plan(random), cuts, operator_faults, cut_database, replaces_api)


@pytest.fixture
async def stack(
    database_url: str, temporal: TemporalClient, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[InProcessStack]:
    """APIs and workers, with seams in every Temporal client and between every worker and its cloud."""
    seams = Seams()
    connect = connections.connect

    async def through_seams(settings: Settings, **options: Any) -> TemporalClient:
        client = await connect(settings, **options)
        return TemporalClient(**client.config() | {"interceptors": [seams]})

    monkeypatch.setattr(connections, "connect", through_seams)
    monkeypatch.setattr(api.background.dispatcher, "CHECK_AFTER", CHECK_INTERVAL)
    monkeypatch.setattr(api.background.workflow_recovery, "CHECK_AFTER", CHECK_INTERVAL)
    monkeypatch.setattr(reconciler, "INTERVAL", CHECK_INTERVAL)
    address = temporal.service_client.config.target_host
    settings = make_settings(database_url, temporal_address=address, temporal_task_queue=f"faults-{uuid4().hex[:8]}")
    stack = InProcessStack(settings, await through_seams(settings, retry_for=5.0), seams)
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()
        gc.collect()  # now, so that its warnings belong to this test


async def run(stack: InProcessStack, schedule: ShortSchedule, user: InProcessUser, owner_id: UUID) -> RetryingWalker:
    """Run a schedule until all operations have ended; they are checked later."""
    async with asyncio.TaskGroup() as group:
        for fault in schedule.operator_faults:
            group.create_task(_interfere(stack, owner_id, fault))
        for begins_at, which in schedule.cut_database:
            group.create_task(_after(begins_at, stack.cut_database, which))
        if schedule.replaces_api:
            group.create_task(stack.replace_api())
        walker = await RetryingWalker.begin(stack, user, 1)
        for lane in schedule.lanes:
            group.create_task(walker.walk(lane))
    await until_ended(stack, owner_id)
    return walker


async def _interfere(stack: InProcessStack, owner_id: UUID, fault: Fault) -> None:
    await asyncio.sleep(fault.begins_at)
    for _ in range(20):
        with contextlib.suppress(RPCError):  # its workflow has not started yet, or has closed
            if await interfere(stack.operator, stack, owner_id, fault):
                stack.faults[f"operator: {fault.kind}"] += 1
                return
        await asyncio.sleep(0.1)


async def _after(seconds: float, inject: Callable[[int], Awaitable[None]], which: int) -> None:
    await asyncio.sleep(seconds)
    await inject(which)


async def run_and_check(stack: InProcessStack, schedule: ShortSchedule, report: Report, delay: float) -> None:
    async with log_in(stack, f"seed-{schedule.seed}", schedule.cuts) as (user, owner_id):
        await asyncio.sleep(delay)
        stack.seams.plans[user.name] = schedule.plan
        try:
            walker = await run(stack, schedule, user, owner_id)
            del stack.seams.plans[user.name]
            errors = await errors_of(stack, user, owner_id, may_fail=schedule.may_fail)
            assert errors == [], "\n".join(errors)
            for vm_id in walker.vms:
                await user.request("DELETE", f"/vms/{vm_id}")
            await until_ended(stack, owner_id)
            await delete_leftovers(stack, user, owner_id)
        except Exception:  # noqa: BLE001 - a failure must not stop the others
            report.failures[schedule.seed] = traceback.format_exc()
            print(f"SEED={schedule.seed}: {report.failures[schedule.seed]}")  # noqa: T201
        report.schedules += 1
        report.add_requests(user.attempts)
        report.operations += statuses(await stack.sql(OPERATIONS, owner_id))


async def test_schedules_of_faults_at_the_seams(stack: InProcessStack) -> None:
    report = Report()
    wanted = seeds(SCHEDULES)
    for start in range(0, len(wanted), CONCURRENT):
        started_at, batch = time.monotonic(), wanted[start : start + CONCURRENT]
        runs = (run_and_check(stack, make(seed), report, number * PAUSE) for number, seed in enumerate(batch))
        await asyncio.gather(*runs)
        errors = await differences(stack)
        if errors:
            report.failures[batch[0]] = "\n".join([report.failures.get(batch[0], ""), *errors])
        failed = [seed for seed in batch if seed in report.failures]
        print(f"seeds {batch[0]}-{batch[-1]}: {time.monotonic() - started_at:.1f} s, failed: {failed}")  # noqa: T201
    report.faults = stack.seams.faults + stack.faults
    print("\n".join(report.lines()))  # noqa: T201 - the figures
    assert list(report.failures) == []
