"""The cost of waits: `python -m bench.waits [COUNT]`, by default 5,000, as many as one worker takes.

Starts PostgreSQL, a Temporal server and a worker of waits, and lets COUNT waits run for servers that are never built.
It counts heartbeats, which are calls to Temporal, with the heartbeat timeout of waits and with that of steps. Then it
supersedes some operations, as a delete does, and measures how soon their waits end.
"""

import asyncio
import logging
import re
import statistics
import sys
import time
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import httpx
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import workflow
from temporalio.client import Client
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    UnsandboxedWorkflowRunner,
    Worker,
)

from activities.backends.mock.backend import MockBackend
from activities.interceptor import OperationInterceptor
from activities.waits import WaitActivities
from bench.drift import on_a_database
from bench.usage import exit_with, table
from domain.data import database
from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity, OperationInput, WaitForServerInput
from domain.rules.states import Action
from domain.settings import Settings
from migrations import embedded_temporal
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS
from worker import HEARTBEAT_THROTTLE, MAX_CONCURRENT_WAITS
from workflows.steps import HEARTBEAT, WAIT_HEARTBEAT, WAIT_SLICE

POLL_INTERVAL = 2.0  # seconds, as for a real cloud
PER_WORKFLOW, SUPERSEDED = 100, 100
WINDOW = 60.0  # seconds
SDK_DEFAULT = 0.8  # the pause between two heartbeats, as a part of their timeout
METRICS = "127.0.0.1:19464"
HEARTBEATS = re.compile(
    r'^temporal_request(?:_total)?\{.*operation="RecordActivityTaskHeartbeat".*\} (\S+)$', re.MULTILINE
)
SEED = """
WITH owner AS (
    INSERT INTO users (id, username, email, password_hash)
    VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), '') RETURNING id
), vm AS (
    INSERT INTO vms (id, owner_id, name, status, task_state, flavor_id, image_id, labels, operation_id)
    SELECT gen_random_uuid(), owner.id, 'vm', 'BUILDING', 'spawning', $1, $2, '{}', gen_random_uuid()
    FROM owner, generate_series(1, $3::int) n RETURNING *
), operation AS (
    INSERT INTO operations (id, owner_id, actor, action, status, resource_type, resource_id, vm_id, input,
                            previous_status, workflow_id, request_id, started_at)
    SELECT operation_id, owner_id, 'bench', 'create', 'RUNNING', 'vm', id, id, '{}', 'BUILDING', '', 'bench', now()
    FROM vm
), server AS (
    INSERT INTO mock_cloud.servers (vm_id, name, vcpus, ram_mb, disk_gb, image_id, status, due_at, next_status)
    SELECT id, 'vm', 1, 1, 1, image_id, 'BUILD', now() + interval '1 day', 'ACTIVE' FROM vm
) SELECT operation_id, id FROM vm
"""


@workflow.defn
class RunWaits:
    """Runs waits side by side."""

    @workflow.run
    async def run(self, inputs: list[WaitForServerInput], heartbeat: float) -> None:
        """Run all, until the workflow is terminated."""
        for input in inputs:
            workflow.start_activity(
                Activity.WAIT_FOR_SERVER,
                input,
                start_to_close_timeout=WAIT_SLICE,
                heartbeat_timeout=timedelta(seconds=heartbeat),
            )
        await workflow.wait_condition(lambda: False)


class Waits(Interceptor):
    """Counts the waits that run, and keeps the times at which waits end."""

    def __init__(self) -> None:
        self.running = 0
        self.ended: dict[UUID, float] = {}

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap an activity."""
        return _Inbound(next, self)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, waits: Waits) -> None:
        super().__init__(next)
        self._waits = waits

    async def execute_activity(self, input: ExecuteActivityInput) -> object:
        self._waits.running += 1
        try:
            return await super().execute_activity(input)
        finally:
            self._waits.running -= 1
            self._waits.ended[input.args[0].operation.operation_id] = time.monotonic()


def heartbeats() -> float:
    """Return the number of heartbeats that this process has sent."""
    return sum(float(times) for times in HEARTBEATS.findall(httpx.get(f"http://{METRICS}/metrics").text))


async def measure_waits(  # noqa: PLR0913, PLR0917
    client: Client,
    backend: MockBackend,
    connection: asyncpg.Connection,
    inputs: list[WaitForServerInput],
    timeouts: tuple[timedelta, timedelta],
    engine: AsyncEngine,
) -> tuple[object, ...]:
    """Run waits with a heartbeat timeout and a throttle; return a row of the table."""
    heartbeat, throttle = timeouts
    waits, queue = Waits(), f"bench-{uuid4()}"
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[RunWaits],
        activities=[WaitActivities(engine, backend).wait_for_server],
        interceptors=[waits, OperationInterceptor(engine, client)],
        max_concurrent_activities=MAX_CONCURRENT_WAITS,
        max_heartbeat_throttle_interval=throttle,
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with worker:
        beat = heartbeat.total_seconds()
        parts = [inputs[start : start + PER_WORKFLOW] for start in range(0, len(inputs), PER_WORKFLOW)]
        handles = [
            await client.start_workflow(RunWaits.run, args=[part, beat], id=str(uuid4()), task_queue=queue)
            for part in parts
        ]
        while waits.running < len(inputs):  # noqa: ASYNC110 - the waits count themselves
            await asyncio.sleep(0.2)
        await asyncio.sleep(heartbeat.total_seconds())
        before, cpu, began = heartbeats(), time.process_time(), time.monotonic()
        await asyncio.sleep(WINDOW)
        seconds = time.monotonic() - began
        sent, cpu = heartbeats() - before, time.process_time() - cpu
        superseded = "UPDATE operations SET status = 'SUPERSEDED', finished_at = now() WHERE id = ANY($1)"
        ids = [input.operation.operation_id for input in inputs[:SUPERSEDED]]
        began = time.monotonic()
        await connection.execute(superseded, ids)
        while not all(id in waits.ended for id in ids):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        ends = [waits.ended[id] - began for id in ids]
        await asyncio.gather(*(handle.terminate() for handle in handles))
    shown = (f"{heartbeat.total_seconds():g} s", f"{throttle.total_seconds():g} s")
    return (len(inputs), *shown, sent / seconds, cpu / seconds, statistics.median(ends), max(ends))


async def measure(settings: Settings, connection: asyncpg.Connection, count: int) -> list[str]:
    """Measure both pairs of timeouts and print the table."""
    runtime = Runtime(telemetry=TelemetryConfig(metrics=PrometheusConfig(bind_address=METRICS)))
    engine, backend = database.create_engine(settings), MockBackend(settings)
    backend.poll_interval = POLL_INTERVAL
    await backend.prepare()
    rows = []
    async with await WorkflowEnvironment.start_local(
        runtime=runtime,
        dev_server_existing_path=embedded_temporal.TEMPORAL,
        dev_server_log_level="error",
        dev_server_extra_args=embedded_temporal.TUNING,
    ) as environment:
        for timeouts in ((WAIT_HEARTBEAT, WAIT_HEARTBEAT * SDK_DEFAULT), (HEARTBEAT, HEARTBEAT_THROTTLE)):
            seeded = await connection.fetch(SEED, FLAVOR_IDS["m1.small"], IMAGE_IDS["cirros-0.6.3"], count)
            inputs = [
                WaitForServerInput(OperationInput(operation_id, vm_id, Action.CREATE), ServerStatus.ACTIVE)
                for operation_id, vm_id in seeded
            ]
            rows.append(await measure_waits(environment.client, backend, connection, inputs, timeouts, engine))
            await connection.execute("DELETE FROM mock_cloud.servers")
    columns = (
        "waits",
        "heartbeat timeout",
        "throttle",
        "heartbeats per s",
        "processors",
        "end after: median s",
        "worst s",
    )
    table(*columns, rows=rows)
    await backend.close()
    await engine.dispose()
    return []


def main() -> None:
    """Measure on a PostgreSQL server of its own."""
    count = int((sys.argv[1:] or ["5000"])[0])
    logging.disable()  # the SDK logs every wait that ends with an error
    exit_with(on_a_database(lambda settings, connection: measure(settings, connection, count)))


if __name__ == "__main__":
    main()
