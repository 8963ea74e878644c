"""How long operations stand still after a kill -9: `python -m bench.recovery [ROUNDS]`, by default 20 of each kind.

Starts an API, two workers, Temporal and PostgreSQL in a temporary folder. In each round operations are under way when
one worker dies and stays away, or when every process dies at once and the supervisor starts all again. Exit code 1 says
that something went wrong; the last lines say what.
"""

import asyncio
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from temporalio.api.history.v1 import HistoryEvent

from bench.usage import end, table
from tests.faults import schedule_cluster
from tests.faults.client import Client, log_in
from tests.faults.schedule_cluster import WORKERS, Cluster
from tests.faults.schedule_world import OPERATIONS, open_operations, owner_of, until_ended
from tests.support.truth import differences

DELAYS = {"MOCK_BUILD_DELAY": "4", "MOCK_STOP_DELAY": "2", "MOCK_START_DELAY": "2"}
OLD_VMS, NEW_VMS = 10, 10
EARLIEST, LATEST = 0.3, 3.0  # seconds after the requests
POLL = 0.02  # seconds
SETTLE = 3.0  # seconds that a new worker has until it takes its half of the work
SINCE = "SELECT workflow_id FROM operations WHERE owner_id = $1 AND created_at > to_timestamp($2)"
ENDED_BADLY = "SELECT count(*) FROM operations WHERE status <> 'SUCCEEDED'"
Standstill = tuple[float, float]


async def begin(client: Client, vms: Sequence[str], round: int) -> None:
    """Ask for new VMs, and for the old ones to be stopped, or started again in the next round."""
    create = {"name": "new", "flavor_id": (await client.flavors())[0]}
    action = "start" if round % 2 else "stop"
    asked = [client.ask("POST", "/vms", create) for _ in range(NEW_VMS)]
    asked += [client.ask("POST", f"/vms/{id}/actions/{action}", {}) for id in vms]
    await asyncio.gather(*asked)
    await asyncio.sleep(random.uniform(EARLIEST, LATEST))


async def one_worker(cluster: Cluster, owner_id: UUID, name: str) -> list[Standstill]:
    """Kill a worker for good; seconds that each operation which it was at then stood still."""
    part = cluster.parts[name]
    part.task.cancel()
    await asyncio.wait([part.task])
    killed_at = time.time()
    cluster.signal(signal.SIGKILL, *cluster.pids(name))
    await until_ended(cluster, owner_id)
    part.start()
    rows = await cluster.sql(SINCE, owner_id, killed_at - 2 * LATEST)
    stood = [standstill(await history(cluster, row["workflow_id"]), killed_at) for row in rows]
    await asyncio.sleep(SETTLE)
    return [one for one in stood if any(one)]


async def history(cluster: Cluster, workflow_id: str) -> Sequence[HistoryEvent]:
    """What Temporal has recorded of an operation."""
    client = await cluster.temporal()
    return list((await client.get_workflow_handle(workflow_id).fetch_history()).events)


def standstill(events: Sequence[HistoryEvent], killed_at: float) -> Standstill:
    """Seconds until the step that was under way began elsewhere, and that the workflow then waited for a worker.

    0 where the worker that died had no step, or not the workflow in its cache.
    """
    times = {event.event_id: event.event_time.ToMicroseconds() / 1e6 for event in events}
    step = workflow = 0.0
    waits_since: float | None = None
    for event in events:
        at = times[event.event_id]
        if event.HasField("activity_task_started_event_attributes"):
            started = event.activity_task_started_event_attributes
            if started.attempt > 1 and times[started.scheduled_event_id] < killed_at < at:
                step = at - killed_at
        elif event.HasField("workflow_task_timed_out_event_attributes"):
            attributes = event.workflow_task_timed_out_event_attributes
            waits_since = max(killed_at, times[attributes.scheduled_event_id])
        elif event.HasField("workflow_task_started_event_attributes") and waits_since is not None:
            workflow, waits_since = at - waits_since, None
    return step, workflow


async def everything(cluster: Cluster, owner_id: UUID) -> tuple[float, float]:
    """Kill all processes; seconds until the API is ready again, and from then until each operation has gone on."""
    pids = [pid for part in cluster.parts for pid in cluster.pids(part)]
    cluster.signal(signal.SIGSTOP, *(pid for part in (*WORKERS, "api") for pid in cluster.pids(part)))
    waiting = await open_operations(cluster, owner_id)
    cluster.signal(signal.SIGKILL, *pids)
    began = time.monotonic()
    await asyncio.sleep(POLL)
    await cluster.until_ready()
    ready = time.monotonic()
    while waiting:
        now = await open_operations(cluster, owner_id)
        waiting = {id: version for id, version in waiting.items() if now.get(id) == version}
        await asyncio.sleep(POLL)
    moving = time.monotonic() - ready
    await until_ended(cluster, owner_id)
    return ready - began, moving


async def measure(cluster: Cluster, rounds: int) -> list[str]:
    """All rounds, and the table of them; returns what is wrong."""
    async with log_in(cluster.url, "bench") as client:
        flavor_id = (await client.flavors())[0]
        owner_id = await owner_of(cluster, client)
        created = [await client.ask("POST", "/vms", {"name": "old", "flavor_id": flavor_id}) for _ in range(OLD_VMS)]
        vms = [answer.json()["id"] for answer in created]
        await until_ended(cluster, owner_id)
        deaths: list[Standstill] = []
        restarts = []
        for round in range(2 * rounds):
            await begin(client, vms, round)
            if round < rounds:
                deaths += await one_worker(cluster, owner_id, WORKERS[round % 2])
            else:
                restarts.append(await everything(cluster, owner_id))
            print(f"round {round + 1} of {2 * rounds}", file=sys.stderr, flush=True)
        operations = await cluster.sql(OPERATIONS, owner_id)
    rows = [
        ("a worker dies: its step begins elsewhere", [step for step, _ in deaths if step]),
        (
            "a worker dies: a workflow that it had in its cache goes on",
            [workflow for _, workflow in deaths if workflow],
        ),
        ("a worker dies: both, for each operation that it was at", [sum(one) for one in deaths]),
        ("everything dies: the API is ready", [ready for ready, _ in restarts]),
        ("everything dies: all operations go on, from then", [moving for _, moving in restarts]),
    ]
    told = [(what, len(all), statistics.median(all), max(all)) for what, all in rows if all]
    table("kill -9", "times", "median s", "worst s", rows=told)
    [[unhappy]] = await cluster.sql(ENDED_BADLY)
    wrong = [f"{unhappy} of {len(operations)} operations did not succeed"] if unhappy else []
    return wrong + await differences(cluster)


async def run(folder: Path, rounds: int) -> list[str]:
    """Start the cluster, measure, stop it."""
    async with schedule_cluster.running(folder, **DELAYS) as cluster:
        return await measure(cluster, rounds)


def main() -> None:
    """Measure in a temporary folder."""
    rounds = int(sys.argv[1]) if sys.argv[1:] else 20
    with tempfile.TemporaryDirectory() as folder:
        wrong = asyncio.run(run(Path(folder), rounds))
    end(wrong)


if __name__ == "__main__":
    main()
