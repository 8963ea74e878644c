"""How long operations stand still after a kill -9: `python -m bench.recovery [ROUNDS]`, by default 20 of each kind.

Starts an API, two workers, Temporal and PostgreSQL in a temporary folder. In each round operations are running when one
worker dies and stays down, or when every process dies at once and the supervisor restarts them all. On errors the exit
code is 1 and the last lines list them.
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

from bench.usage import exit_with, table
from tests.faults import schedule_cluster
from tests.faults.schedule_checks import OPERATIONS, open_operations, owner_of, until_ended
from tests.faults.schedule_cluster import WORKERS, Cluster
from tests.support.truth import differences
from tests.support.users import RetryingUser, log_in_retrying

DELAYS = {"MOCK_BUILD_DELAY": "4", "MOCK_STOP_DELAY": "2", "MOCK_START_DELAY": "2"}
OLD_VMS, NEW_VMS = 10, 10
EARLIEST, LATEST = 0.3, 3.0  # seconds from the requests to the kill
POLL = 0.02  # seconds
SETTLE = 3.0  # seconds until a new worker takes half of the work
SINCE = "SELECT workflow_id FROM operations WHERE owner_id = $1 AND created_at > to_timestamp($2)"
NOT_SUCCEEDED = "SELECT count(*) FROM operations WHERE status <> 'SUCCEEDED'"
Standstill = tuple[float, float]
"""Seconds until the step was running again, and seconds that the workflow waited for a worker."""


async def send_requests(user: RetryingUser, vms: Sequence[str], round: int) -> None:
    """Request new VMs, and a stop of the old ones or, every other round, a start."""
    create = {"name": "new", "flavor_id": (await user.flavors())[0]}
    action = "start" if round % 2 else "stop"
    requests = [user.change("POST", "/vms", create) for _ in range(NEW_VMS)]
    requests += [user.change("POST", f"/vms/{id}/actions/{action}", {}) for id in vms]
    await asyncio.gather(*requests)
    await asyncio.sleep(random.uniform(EARLIEST, LATEST))


async def kill_one_worker(cluster: Cluster, owner_id: UUID, name: str) -> list[Standstill]:
    """Kill a worker and keep it down; returns the standstill of each operation on which it was working."""
    part = cluster.parts[name]
    part.task.cancel()  # the task that would restart it
    await asyncio.wait([part.task])
    killed_at = time.time()
    cluster.signal(signal.SIGKILL, *cluster.pids(name))
    await until_ended(cluster, owner_id)
    part.start()
    rows = await cluster.sql(SINCE, owner_id, killed_at - 2 * LATEST)
    standstills = [standstill(await history(cluster, row["workflow_id"]), killed_at) for row in rows]
    await asyncio.sleep(SETTLE)
    return [times for times in standstills if any(times)]


async def history(cluster: Cluster, workflow_id: str) -> Sequence[HistoryEvent]:
    """The history of an operation's workflow."""
    client = await cluster.temporal()
    return list((await client.get_workflow_handle(workflow_id).fetch_history()).events)


def standstill(events: Sequence[HistoryEvent], killed_at: float) -> Standstill:
    """Compute a standstill from a history.

    The first time is 0 if the dead worker was not running a step; the second is 0 if it did not cache the workflow.
    """
    times = {event.event_id: event.event_time.ToMicroseconds() / 1e6 for event in events}
    step = workflow = 0.0
    waiting_since: float | None = None
    for event in events:
        time = times[event.event_id]
        if event.HasField("activity_task_started_event_attributes"):
            started = event.activity_task_started_event_attributes
            if started.attempt > 1 and times[started.scheduled_event_id] < killed_at < time:
                step = time - killed_at
        elif event.HasField("workflow_task_timed_out_event_attributes"):
            attributes = event.workflow_task_timed_out_event_attributes
            waiting_since = max(killed_at, times[attributes.scheduled_event_id])
        elif event.HasField("workflow_task_started_event_attributes") and waiting_since is not None:
            workflow, waiting_since = time - waiting_since, None
    return step, workflow


async def kill_everything(cluster: Cluster, owner_id: UUID) -> tuple[float, float]:
    """Kill all processes; returns the seconds until the API is ready, and from then until all operations continue."""
    pids = [pid for part in cluster.parts for pid in cluster.pids(part)]
    # Frozen processes change nothing between reading the open operations and the kill.
    cluster.signal(signal.SIGSTOP, *(pid for part in (*WORKERS, "api") for pid in cluster.pids(part)))
    waiting = await open_operations(cluster, owner_id)
    cluster.signal(signal.SIGKILL, *pids)
    killed_at = time.monotonic()
    await asyncio.sleep(POLL)
    await cluster.until_ready()
    ready = time.monotonic()
    while waiting:
        now = await open_operations(cluster, owner_id)
        waiting = {id: version for id, version in waiting.items() if now.get(id) == version}
        await asyncio.sleep(POLL)
    moving = time.monotonic() - ready
    await until_ended(cluster, owner_id)
    return ready - killed_at, moving


async def measure(cluster: Cluster, rounds: int) -> list[str]:
    """Run all rounds and print the table; returns errors."""
    async with log_in_retrying(cluster.url, "bench") as user:
        flavor_id = (await user.flavors())[0]
        owner_id = await owner_of(cluster, user)
        created = [await user.change("POST", "/vms", {"name": "old", "flavor_id": flavor_id}) for _ in range(OLD_VMS)]
        vms = [answer.json()["id"] for answer in created]
        await until_ended(cluster, owner_id)
        deaths: list[Standstill] = []
        restarts = []
        for round in range(2 * rounds):
            await send_requests(user, vms, round)
            if round < rounds:
                deaths += await kill_one_worker(cluster, owner_id, WORKERS[round % 2])
            else:
                restarts.append(await kill_everything(cluster, owner_id))
            print(f"round {round + 1} of {2 * rounds}", file=sys.stderr, flush=True)
        operations = await cluster.sql(OPERATIONS, owner_id)
    rows = [
        ("a worker dies: its step runs on the other worker", [step for step, _ in deaths if step]),
        (
            "a worker dies: a workflow in its cache continues",
            [workflow for _, workflow in deaths if workflow],
        ),
        ("a worker dies: both, for each of its operations", [sum(times) for times in deaths]),
        ("everything dies: the API is ready", [ready for ready, _ in restarts]),
        ("everything dies: from then until all operations continue", [moving for _, moving in restarts]),
    ]
    figures = [(name, len(times), statistics.median(times), max(times)) for name, times in rows if times]
    table("kill -9", "times", "median s", "worst s", rows=figures)
    [[failures]] = await cluster.sql(NOT_SUCCEEDED)
    errors = [f"{failures} of {len(operations)} operations did not succeed"] if failures else []
    return errors + await differences(cluster)


async def run(folder: Path, rounds: int) -> list[str]:
    """Start a cluster, measure it and stop it."""
    async with schedule_cluster.running(folder, **DELAYS) as cluster:
        return await measure(cluster, rounds)


def main() -> None:
    """Run in a temporary folder."""
    rounds = int(sys.argv[1]) if sys.argv[1:] else 20
    with tempfile.TemporaryDirectory() as folder:
        errors = asyncio.run(run(Path(folder), rounds))
    exit_with(errors)


if __name__ == "__main__":
    main()
