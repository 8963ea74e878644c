"""What operations cost: `python -m bench.operations [COUNT [ROUNDS]]`, by default 100 of each kind, in 3 rounds.

Starts a stack whose mock cloud takes no time, and carries out builds, stops and resizes that are confirmed. In turn,
bare workflows run as many activities that do nothing, on the same Temporal server, in a worker with the same options:
as many as the operation has activities, and as many as it has steps. `measure` returns the figures.
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from bench.bare_workflow import QUEUE, BareWorkflow
from bench.usage import PARTS, cpu, cpu_of, run_on_a_stack, table, temporal_calls
from tests.support.rows import FLAVOR_IDS
from tests.support.stack import DELAYS, Stack
from tests.support.users import User, log_in

SETTINGS = {
    **dict.fromkeys(DELAYS, "0"),
    "RESIZE_CONFIRM_WINDOW": "604800",  # seconds: no resize is confirmed before it is asked for
    "RATE_LIMIT_USER_READS": "0",
    "RATE_LIMIT_USER_WRITES": "0",
    "ACCESS_TOKEN_EXPIRE_MINUTES": "1440",
}
SMALL, LARGE = str(FLAVOR_IDS["m1.small"]), str(FLAVOR_IDS["m1.medium"])
CONCURRENT = 16  # requests, and starts of bare workflows, as in the dispatcher
SAMPLE = 10  # histories, and operations whose statements are counted
LIMIT = 300.0  # seconds
FLOOR_PARTS = ("temporal", "bare", "bench")
STEPS = {"build": 5, "stop": 3, "resize and confirm": 10}
"""The steps, waits and records of each kind. Each was an activity once, so this floor stays where it is."""
TASKS = {"workflow tasks": "RespondWorkflowTaskCompleted", "activity tasks": "RespondActivityTaskCompleted"}
STATEMENT = re.compile(r"^LOG:  (?:execute \S+|statement): (\w+)(.*)", re.MULTILINE | re.DOTALL)
OPEN = "SELECT count(*) FROM operations WHERE id = ANY($1) AND status IN ('QUEUED', 'RUNNING')"
FAILED = "SELECT action, error FROM operations WHERE id = ANY($1) AND status != 'SUCCEEDED'"
WORKFLOWS = "SELECT DISTINCT workflow_id FROM operations WHERE id = ANY($1)"


@dataclass
class Sample:
    """One round of a kind: how many a second, and what one of them costs; `cpu_ms` by process."""

    rate: float
    cpu_ms: dict[str, float]
    tasks: dict[str, float]
    transactions: float


@dataclass
class Kind:
    """The rounds of a kind and of its floor, the history of one, and its SQL statements by what sends them."""

    activities: int = 0
    events: dict[str, float] = field(default_factory=dict)
    statements: dict[str, float] = field(default_factory=dict)
    ours: list[Sample] = field(default_factory=list)
    bare: list[Sample] = field(default_factory=list)
    stepwise: list[Sample] = field(default_factory=list)

    def ratio(self, floor: Sequence[Sample]) -> tuple[float, float]:
        """Our rate by that of a floor, and the floor's processor time by ours: medians of the rounds."""
        pairs = list(zip(self.ours, floor, strict=True))
        rates = [ours.rate / bare.rate for ours, bare in pairs]
        return median(rates), median(sum(bare.cpu_ms.values()) / sum(ours.cpu_ms.values()) for ours, bare in pairs)


@dataclass
class Bench:
    """The stack, its user, a client of its Temporal server, the bare worker, and the VMs of this round."""

    stack: Stack
    user: User
    temporal: Client
    bare: subprocess.Popen[bytes]
    database: asyncpg.Connection  # kept open: a new process of PostgreSQL for each look would cost more than a build
    vm_ids: list[str] = field(default_factory=list)

    async def used(self) -> dict[str, float]:
        """What has been used since the start."""
        used = {f"cpu {part}": cpu(self.stack, part) for part in PARTS}
        used |= {"cpu bare": cpu_of(self.bare.pid), "cpu bench": time.process_time()}
        calls = temporal_calls(self.stack)
        used |= {name: calls.get(call, 0) for name, call in TASKS.items()}
        [[transactions]] = await self.database.fetch("SELECT sum(xact_commit) FROM pg_stat_database")
        return used | {"transactions": float(transactions)}

    async def sampled(self, count: int, parts: Sequence[str], work: Callable[[], Awaitable[object]]) -> Sample:
        """Measure some work; `parts` are the processes whose processor time counts."""
        before, began = await self.used(), time.monotonic()
        await work()
        seconds = time.monotonic() - began
        await self.until_idle()
        after = await self.used()
        each = {name: (after[name] - before[name]) / count for name in after}
        cpu_ms = {part: each[f"cpu {part}"] * 1000 for part in parts}
        return Sample(count / seconds, cpu_ms, {name: each[name] for name in TASKS}, each["transactions"])

    async def until_idle(self) -> None:
        """Wait until no workflow runs, except those that wait to be confirmed."""
        query = "ExecutionStatus = 'Running' AND WaitsFor IS NULL"
        async with asyncio.timeout(LIMIT):
            while (await self.temporal.count_workflows(query)).count:  # noqa: ASYNC110 - Temporal offers no event
                await asyncio.sleep(0.2)

    async def run_bare(self, count: int, activities: int) -> None:
        """Run so many bare workflows."""
        ended = asyncio.create_task(asyncio.to_thread(self.bare_ends, count))

        async def start(_: int) -> None:
            await self.temporal.start_workflow(BareWorkflow.run, activities, id=f"bare-{uuid4()}", task_queue=QUEUE)

        await each(range(count), start)
        await asyncio.wait_for(ended, LIMIT)

    def bare_ends(self, count: int) -> None:
        """Return when so many bare workflows have run their last activities: each writes a line."""
        for _ in range(count):
            if self.bare.stdout is None or not self.bare.stdout.readline():
                raise RuntimeError("the bare worker has ended")

    async def run_ours(self, kind: str, count: int) -> list[UUID]:
        """Carry out so many operations of a kind, and return their ids; a build makes new VMs, the others take them."""
        ids: list[UUID] = []

        async def ask(path: str, body: object = None) -> dict[str, Any]:
            answer = await self.user.request("POST", path, json=body)
            if answer.status_code != 202:  # noqa: PLR2004
                raise RuntimeError(answer.text)
            ids.append(UUID(answer.headers["Operation-Location"].rpartition("/")[2]))
            return dict(answer.json())

        async def build(number: int) -> None:
            self.vm_ids.append((await ask("/vms", {"name": f"bench-{number}", "flavor_id": SMALL}))["id"])

        async def act(vm_id: str, action: str, body: object = None) -> None:
            await ask(f"/vms/{vm_id}/actions/{action}", body)

        if kind == "build":
            self.vm_ids.clear()
            await each(range(count), build)
        elif kind == "stop":
            await each(self.vm_ids, lambda vm_id: act(vm_id, "stop"))
        else:
            await each(self.vm_ids, lambda vm_id: act(vm_id, "resize", {"flavor_id": LARGE}))
            await self.until_ended(ids)
            await each(self.vm_ids, lambda vm_id: act(vm_id, "confirm-resize"))
        await self.until_ended(ids)
        return ids

    async def until_ended(self, ids: Sequence[UUID]) -> None:
        """Wait until all these operations have ended, and check that they have succeeded."""
        async with asyncio.timeout(LIMIT):
            while (await self.database.fetch(OPEN, ids))[0][0]:  # noqa: ASYNC110 - a listener would cost what is measured
                await asyncio.sleep(0.1)
        if failed := await self.database.fetch(FAILED, ids):
            raise RuntimeError(f"{len(failed)} operations have failed, the first: {failed[0]}")

    async def look_into(self, kind: str, into: Kind) -> None:
        """Carry out a few operations, and note their events and their statements."""
        log = self.stack.data_dir / "logs" / "postgres.log"
        await self.log_statements("all")
        begins_at = log.stat().st_size
        ids = await self.run_ours(kind, SAMPLE)
        await self.until_idle()
        await self.log_statements("none")
        with log.open() as file:
            file.seek(begins_at)
            entries = re.split(r"^(?=\[\w*\] )", file.read(), flags=re.MULTILINE)
        into.statements = {name: times / SAMPLE for name, times in sorted(_statements(entries).items())}
        rows = await self.database.fetch(WORKFLOWS, ids)
        events: Counter[str] = Counter()
        for [id] in rows:
            history = await self.temporal.get_workflow_handle(id).fetch_history()
            events.update(EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in history.events)
        into.events = {name: times / len(rows) for name, times in events.items()}
        into.activities = round(into.events["ACTIVITY_TASK_SCHEDULED"])

    async def log_statements(self, which: str) -> None:
        """Have PostgreSQL log its statements, with the role that sends them, or stop that."""
        await self.database.fetch(f"ALTER SYSTEM SET log_statement = '{which}'")
        await self.database.fetch("ALTER SYSTEM SET log_line_prefix = '[%u] '")
        await self.database.fetch("SELECT pg_reload_conf()")
        await asyncio.sleep(1)


def _statements(entries: Sequence[str]) -> Counter[str]:
    """Count the statements of a log by the process that sends them and what they are for."""
    found: Counter[str] = Counter()
    for entry in entries:
        role, _, text = entry.removeprefix("[").partition("] ")
        if not (statement := STATEMENT.match(text)) or role == "postgres":
            continue
        verb, rest = statement[1].upper(), statement[2]
        is_control = verb in {"BEGIN", "COMMIT", "ROLLBACK"}
        kind = "BEGIN, COMMIT" if is_control else "mock cloud" if "mock_cloud" in rest or "advisory" in rest else "ours"
        found[f"{role.removeprefix('vmapi_')}: {kind}"] += 1
    return found


async def each(items: Any, work: Callable[[Any], Awaitable[None]]) -> None:
    """Do the work for each item, CONCURRENT at a time."""
    remaining = iter(list(items))

    async def some() -> None:
        for item in remaining:
            await work(item)

    await asyncio.gather(*(some() for _ in range(CONCURRENT)))


async def measure(stack: Stack, count: int = 100, rounds: int = 3) -> dict[str, Kind]:
    """Return the figures of each kind of operation."""
    kinds = {name: Kind() for name in STEPS}
    async with running(stack) as bench:
        for name, kind in kinds.items():
            await bench.look_into(name, kind)
            await bench.run_bare(SAMPLE, kind.activities)
        for _ in range(rounds):
            for name, kind in kinds.items():
                for activities, floor in ((kind.activities, kind.bare), (STEPS[name], kind.stepwise)):
                    floor.append(await bench.sampled(count, FLOOR_PARTS, partial(bench.run_bare, count, activities)))
                kind.ours.append(await bench.sampled(count, PARTS, partial(bench.run_ours, name, count)))
    return kinds


@contextlib.asynccontextmanager
async def running(stack: Stack) -> AsyncIterator[Bench]:
    """Start the bare worker beside the stack, and log in."""
    temporal = await stack.temporal()
    database = await asyncpg.connect(host=str(stack.socket_dir), user="postgres", database="vmapi")
    command = [sys.executable, "-m", "bench.bare_workflow", f"127.0.0.1:{stack.temporal_port}"]
    bare = subprocess.Popen(command, cwd=stack.root, stdout=subprocess.PIPE)  # noqa: ASYNC220 - before the measurement
    try:
        async with log_in(stack) as user:
            user.http.timeout = httpx.Timeout(60)
            yield Bench(stack, user, temporal, bare, database)
    finally:
        bare.kill()
        await database.close()


def report(kinds: dict[str, Kind]) -> None:
    """Print the tables."""
    columns = ("", "activities of the floor", "per second", "floor", "ratio", "CPU ms", "floor", "ratio")
    rows = []
    for name, kind in kinds.items():
        for activities, floor in ((kind.activities, kind.bare), (STEPS[name], kind.stepwise)):
            rate, by_cpu = kind.ratio(floor)
            total = [median(sum(sample.cpu_ms.values()) for sample in samples) for samples in (kind.ours, floor)]
            per_second = [median(sample.rate for sample in samples) for samples in (kind.ours, floor)]
            rows.append((name, activities, *per_second, rate, *total, by_cpu))
    table(*columns, rows=rows)
    costs = []
    for name, kind in kinds.items():
        for title, samples in ((name, kind.ours), (f"its floor, {kind.activities} activities", kind.bare)):
            parts = {part: median(sample.cpu_ms[part] for sample in samples) for part in samples[0].cpu_ms}
            worker = parts.get("worker", parts.get("bare", 0.0))
            row = (worker, parts["temporal"], parts.get("postgres", 0.0), parts.get("api", parts.get("bench", 0.0)))
            tasks = [median(sample.tasks[task] for sample in samples) for task in TASKS]
            costs.append((title, *row, *tasks, median(sample.transactions for sample in samples)))
    table("CPU ms each", "worker", "Temporal", "PostgreSQL", "API or starter", *TASKS, "transactions", rows=costs)
    table("events", *STEPS, rows=_side_by_side([kind.events for kind in kinds.values()]))
    table("statements", *STEPS, rows=_side_by_side([kind.statements for kind in kinds.values()]))


def _side_by_side(figures: Sequence[dict[str, float]]) -> list[tuple[object, ...]]:
    names = list(dict.fromkeys(name for some in figures for name in some))
    rows = [(name, *(some.get(name, 0.0) for some in figures)) for name in names]
    return [*rows, ("all", *(sum(some.values()) for some in figures))]


async def run(stack: Stack) -> list[str]:
    """Measure and print; the figures also go to the file that BENCH_JSON names."""
    kinds = await measure(stack, *map(int, sys.argv[1:]))
    report(kinds)
    if path := os.environ.get("BENCH_JSON"):
        await asyncio.to_thread(Path(path).write_text, json.dumps({name: asdict(kind) for name, kind in kinds.items()}))
    return []


if __name__ == "__main__":
    run_on_a_stack(SETTINGS, run)
