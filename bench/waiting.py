"""The cost of resizes that wait for confirmation: `python -m bench.waiting [COUNT]`, by default ten thousand.

Starts a stack in a temporary folder, inserts ACTIVE VMs into its database, resizes all of them through the API, and
compares the idle stack before and after. Then it confirms some: the oldest, the newest, and more after the worker and
after Temporal were killed. Ten thousand take about 25 minutes on two cores. On errors the exit code is 1 and the last
lines list them.
"""

import asyncio
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import httpx
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from bench.usage import (
    MB,
    PARTS,
    Figures,
    compare,
    cpu,
    difference,
    memory,
    run_on_a_stack,
    table,
    temporal_calls,
    temporal_file,
)
from domain.rules.states import Action
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS
from tests.support.stack import Stack
from tests.support.users import User, log_in

SETTINGS = {
    "RESIZE_CONFIRM_WINDOW": "604800",  # seconds: a week, so no resize is confirmed automatically
    "MOCK_RESIZE_DELAY": "0.5",
    "ACCESS_TOKEN_EXPIRE_MINUTES": "1440",
    "RATE_LIMIT_USER_READS": "0",
    "RATE_LIMIT_USER_WRITES": "0",
}
OLD, NEW, IMAGE = FLAVOR_IDS["m1.small"], FLAVOR_IDS["m1.medium"], IMAGE_IDS["cirros-0.6.3"]
CONCURRENT = 16  # requests
MAX_CONFIRMS, SINGLE_CONFIRMS, SAMPLE = 100, 10, 100
SETTLE, IDLE, AFTER_KILL, STALLED, REPORT_INTERVAL = 60.0, 60.0, 15.0, 300.0, 30.0  # seconds
OPEN = "WorkflowType = 'ResizeVM' AND ExecutionStatus = 'Running'"
WAITING = f"{OPEN} AND WaitsFor = 'confirmation'"
WORK = ("Temporal: RespondWorkflowTaskCompleted", "Temporal: RespondActivityTaskCompleted")
TABLES = """
SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'
AND relnamespace IN ('public'::regnamespace, 'mock_cloud'::regnamespace)
"""
SEED = """
WITH vm AS (
    INSERT INTO vms (id, owner_id, name, status, flavor_id, image_id, labels, operation_id, launched_at)
    SELECT gen_random_uuid(), users.id, 'vm-' || n, 'ACTIVE', $1, $2, '{}', gen_random_uuid(), now()
    FROM users, generate_series(1, $3::int) n RETURNING *
), operation AS (
    INSERT INTO operations (id, owner_id, actor, action, status, resource_type, resource_id, vm_id, input,
                            previous_status, workflow_id, progress, request_id, started_at, finished_at)
    SELECT operation_id, owner_id, 'bench', 'create', 'SUCCEEDED', 'vm', id, id, '{}',
           'BUILDING', 'create-' || id || '-' || operation_id, 100, 'bench', now(), now() FROM vm
), server AS (
    INSERT INTO mock_cloud.servers (vm_id, name, vcpus, ram_mb, disk_gb, image_id, status)
    SELECT vm.id, vm.name, vcpus, ram_mb, disk_gb, image_id, 'ACTIVE' FROM vm JOIN flavors ON flavors.id = flavor_id
) SELECT id FROM vm
"""
BY_AGE = "SELECT vm_id, workflow_id FROM operations WHERE action = 'resize' ORDER BY finished_at"
IN_VERIFY_RESIZE = "SELECT count(*) FROM vms WHERE status = 'VERIFY_RESIZE' AND task_state IS NULL"
DELIVERIES = "SELECT sum(deliveries), max(deliveries), max(attempt) FROM operations WHERE action = 'resize'"
CONFIRMED = """
SELECT extract(epoch FROM finished_at - created_at)::float FROM operations
WHERE action = 'confirm-resize' AND status = 'SUCCEEDED' AND vm_id = ANY($1)
"""
IN_CLOUD = """
SELECT count(*) FROM mock_cloud.servers JOIN flavors USING (vcpus, ram_mb, disk_gb)
WHERE vm_id = ANY($1) AND status = 'ACTIVE' AND flavors.id = $2
AND vm_id NOT IN (SELECT vm_id FROM mock_cloud.migrations)
"""


@dataclass
class Bench:
    """The measured stack, its user, a client of its Temporal server, and the errors so far."""

    stack: Stack
    user: User
    temporal: Client
    errors: list[str] = field(default_factory=list)

    def check(self, name: str, actual: object, expected: object) -> None:
        """Record an error if a value is not as expected."""
        if actual != expected:
            self.errors.append(f"{name}: {actual}, not {expected}")

    async def send(self, vm_ids: Iterable[UUID], action: Action, concurrent: int, body: object = None) -> None:
        """Request an action of every VM; `concurrent` requests run at a time."""
        remaining = iter(vm_ids)

        async def send_some() -> None:
            for vm_id in remaining:
                answer = await self.user.request("POST", f"/vms/{vm_id}/actions/{action.word}", json=body)
                self.check(f"answer to {action.word}", answer.status_code, 202)

        await asyncio.gather(*(send_some() for _ in range(concurrent)))

    async def state_of(self, vm_id: UUID) -> tuple[str, str]:
        """Status and flavor of a VM, according to the API."""
        vm = (await self.user.request("GET", f"/vms/{vm_id}")).json()
        return vm["status"], vm["flavor_id"]

    async def count(self, query: str, *arguments: object) -> int:
        """The number that a query returns."""
        return int((await self.stack.sql(query, *arguments))[0][0])

    async def count_workflows(self, query: str) -> int:
        """The number of workflows that match a query of Temporal's visibility store."""
        return (await self.temporal.count_workflows(query)).count

    async def until(self, name: str, expected: int, read: Callable[[], Awaitable[int]]) -> float:
        """Wait until a number is reached; returns the seconds. TimeoutError if it does not change for a while."""
        started_at = changed_at = reported_at = time.monotonic()
        before = -1
        while (number := await read()) != expected:
            now = time.monotonic()
            if number != before:
                before, changed_at = number, now
            if now - reported_at > REPORT_INTERVAL:
                reported_at = now
                worker = memory(self.stack, "worker")
                print(f"{now - started_at:.0f} s: {name} {number}, worker {worker:.0f} MB", file=sys.stderr, flush=True)
            if now - changed_at > STALLED:
                raise TimeoutError(f"{name}: {number} for {STALLED:.0f} s, not {expected}")
            await asyncio.sleep(1)
        return time.monotonic() - started_at

    async def held(self) -> Figures:
        """What the stack holds now: memory, disk, rows, workflows."""
        figures = {f"{part}, MB of memory": memory(self.stack, part) for part in PARTS}
        figures |= {f"{part}, MB at most": memory(self.stack, part, "VmHWM") for part in PARTS[:-1]}
        figures["database vmapi, MB"] = await self.count("SELECT pg_database_size('vmapi')") / MB
        for [name] in await self.stack.sql(TABLES):
            figures[f"rows of {name}"] = await self.count(f"SELECT count(*) FROM {name}")  # noqa: S608
        figures |= temporal_file(self.stack)
        figures["open ResizeVM workflows"] = await self.count_workflows(OPEN)
        return figures | {"of them waiting for confirmation": await self.count_workflows(WAITING)}

    async def used(self) -> Figures:
        """What the stack has used since its start: processor time, transactions, calls to Temporal."""
        used = {f"{part}, CPU s": cpu(self.stack, part) for part in PARTS}
        [row] = await self.stack.sql("SELECT xact_commit, xact_rollback FROM pg_stat_database WHERE datname = 'vmapi'")
        used |= {"PostgreSQL: transactions": row["xact_commit"], "PostgreSQL: rollbacks": row["xact_rollback"]}
        return used | {f"Temporal: {name}": times for name, times in temporal_calls(self.stack).items()}

    async def used_while_idle(self, seconds: float) -> Figures:
        """What the stack uses during these seconds without requests."""
        before = await self.used()
        await asyncio.sleep(seconds)
        return difference(before, await self.used())

    async def histories(self, workflow_ids: Sequence[str]) -> Sequence[tuple[str, float]]:
        """The average history: its size, and the number of its events by type."""
        handles = [self.temporal.get_workflow_handle(id) for id in workflow_ids]
        infos = [(await handle.describe()).raw_description.workflow_execution_info for handle in handles]
        histories = [await handle.fetch_history() for handle in handles]
        events = Counter(event.event_type for history in histories for event in history.events)
        named = {EventType.Name(kind).removeprefix("EVENT_TYPE_"): times for kind, times in events.items()}
        totals = {"bytes": sum(info.history_size_bytes for info in infos), "events": events.total(), **named}
        return [(name, total / len(handles)) for name, total in totals.items()]


async def resize(bench: Bench, vm_ids: Sequence[UUID]) -> None:
    """Resize all VMs and print the durations and costs."""
    count, before, started_at = len(vm_ids), await bench.used(), time.monotonic()
    await bench.send(vm_ids, Action.RESIZE, CONCURRENT, {"flavor_id": str(NEW)})
    accepted = time.monotonic() - started_at
    await bench.until("in VERIFY_RESIZE", count, partial(bench.count, IN_VERIFY_RESIZE))
    arrived = time.monotonic() - started_at
    await bench.until("waiting workflows", count, partial(bench.count_workflows, WAITING))
    costs = difference(before, await bench.used())
    times = {"s until all are accepted": accepted, "s until all are in VERIFY_RESIZE": arrived}
    times["s until all workflows wait"] = time.monotonic() - started_at
    [[deliveries, most, attempts]] = await bench.stack.sql(DELIVERIES)
    times |= {
        "deliveries": deliveries,
        "deliveries of one operation, at most": most,
        "attempts of a step, at most": attempts,
    }
    rows = [(name, value, value / count) for name, value in {**times, **costs}.items() if value]
    table(f"to resize {count}", "all", "each", rows=rows)


async def confirm(bench: Bench, name: str, vm_ids: Sequence[UUID], concurrent: int = CONCURRENT) -> tuple[object, ...]:
    """Confirm some resizes; returns a row of durations, by the database's clock, and of costs."""

    async def confirmed() -> int:
        return len(await bench.stack.sql(CONFIRMED, vm_ids))

    before = await bench.used()
    await bench.send(vm_ids, Action.CONFIRM_RESIZE, concurrent)
    await bench.until(f"confirmed, {name}", len(vm_ids), confirmed)
    costs = difference(before, await bench.used())
    bench.check(f"confirmed, {name}", {await bench.state_of(id) for id in vm_ids}, {("ACTIVE", str(NEW))})
    bench.check(f"in the cloud, {name}", await bench.count(IN_CLOUD, vm_ids, NEW), len(vm_ids))
    seconds = [row[0] for row in await bench.stack.sql(CONFIRMED, vm_ids)]
    each = [costs[f"{part}, CPU s"] / len(vm_ids) * 1000 for part in ("worker", "temporal")]
    return name, len(vm_ids), concurrent, statistics.median(seconds), max(seconds), *each


async def kill(bench: Bench, part: str, waiting: int) -> tuple[object, ...]:
    """Kill a part and check that the waiting workflows cause no work; returns a row of what the new process uses."""
    old, killed_at = bench.stack.pids(part), time.monotonic()
    bench.stack.kill(part)

    async def new() -> int:
        return len(set(bench.stack.pids(part)) - set(old))

    await bench.until(f"new processes, {part}", 1, new)
    await bench.until(f"workflows waiting, {part} killed", waiting, partial(bench.count_workflows, WAITING))
    seconds, used = time.monotonic() - killed_at, await bench.used_while_idle(AFTER_KILL)
    tasks = sum(used.get(name, 0) for name in WORK)
    bench.check(f"tasks, {part} killed", tasks, 0)
    bench.check(f"VMs in VERIFY_RESIZE, {part} killed", await bench.count(IN_VERIFY_RESIZE), waiting)
    bench.check(f"workflows waiting, {part} killed", await bench.count_workflows(WAITING), waiting)
    return part, seconds, tasks, used[f"{part}, CPU s"], memory(bench.stack, part)


async def decide(bench: Bench, vm_ids: list[UUID]) -> None:
    """Confirm some resizes, before and after the worker and Temporal are killed; `vm_ids` are sorted by age."""
    some = min(MAX_CONFIRMS, len(vm_ids) // 5)
    rest, half = vm_ids[some:-some], some // 2
    rows = [
        await confirm(bench, "the oldest, one after the other", vm_ids[:SINGLE_CONFIRMS], concurrent=1),
        await confirm(bench, "the next oldest at once", vm_ids[SINGLE_CONFIRMS:some]),
        await confirm(bench, "the newest at once", vm_ids[-some:]),
    ]
    kills = [await kill(bench, "worker", len(rest))]
    rows.append(await confirm(bench, "after the worker was killed", rest[:half] + rest[-half:]))
    rest = rest[half:-half]
    kills.append(await kill(bench, "temporal", len(rest)))
    rows.append(await confirm(bench, "after Temporal was killed", rest[:some]))
    await bench.until("open workflows", len(rest) - some, partial(bench.count_workflows, OPEN))
    columns = ("confirmed", "count", "concurrent", "median s", "max s", "worker, CPU ms each", "temporal, CPU ms each")
    table(*columns, rows=rows)
    table("killed", "s until it is back", f"tasks in {AFTER_KILL:.0f} s", "CPU s", "MB of memory", rows=kills)


async def measure(bench: Bench, count: int) -> None:
    """Run all measurements."""
    vm_ids = [row[0] for row in await bench.stack.sql(SEED, OLD, IMAGE, count)]
    await bench.stack.sql("ANALYZE")
    await asyncio.sleep(SETTLE)
    held, idle = await bench.held(), await bench.used_while_idle(IDLE)
    await resize(bench, vm_ids)
    await asyncio.sleep(SETTLE)
    compare("the stack holds", count, held, await bench.held())
    waiting = await bench.used_while_idle(IDLE)
    compare(f"{IDLE:.0f} s without requests", count, idle, waiting)
    for name in WORK:
        bench.check(f"{name} without requests", waiting.get(name, 0), 0)
    by_age = await bench.stack.sql(BY_AGE)
    some = [row["workflow_id"] for row in by_age[:: max(count // SAMPLE, 1)]]
    table("average history of a waiting resize", "", rows=await bench.histories(some))
    await decide(bench, [row["vm_id"] for row in by_age])
    compare("the stack holds at the end", count, held, await bench.held(), "resized, some confirmed")


async def run(stack: Stack, count: int) -> list[str]:
    """Measure as a new user; returns errors."""
    async with log_in(stack) as user:
        user.http.timeout = httpx.Timeout(60)  # a resize that is sent a second time would be refused
        bench = Bench(stack, user, await stack.temporal())
        try:
            await measure(bench, count)
        except TimeoutError as error:
            bench.errors.append(str(error))
    return bench.errors


def main() -> None:
    """Start a stack, measure it and stop it."""
    run_on_a_stack(SETTINGS, lambda stack: run(stack, int((sys.argv[1:] or ["10000"])[0])))


if __name__ == "__main__":
    main()
