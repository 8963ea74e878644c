"""The worker process: `python -m worker`. Runs workflows and activities until SIGTERM, in any number of replicas."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.worker import (
    HandleSignalInput,
    Interceptor,
    PollerBehaviorSimpleMaximum,
    Worker,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.backends import load_backend
from activities.backends.protocol import ComputeBackend
from activities.compute import ComputeActivities
from activities.interceptor import OperationInterceptor
from activities.interfaces import InterfaceActivities
from activities.preemption import PreemptionActivities
from activities.records import RecordActivities
from activities.recovery.reconciler import Reconciler
from activities.resize import ResizeActivities
from activities.snapshots import SnapshotActivities
from activities.volumes import VolumeActivities
from activities.waits import WaitActivities
from domain import temporal
from domain.data import database
from domain.rules.messages import Activity, waits_queue
from domain.settings import Settings, load_settings
from workflows.build import CreateVM
from workflows.delete import DeleteVM
from workflows.interfaces import AttachInterface, DetachInterface
from workflows.power import RebootVM, StartVM, StopVM
from workflows.resize import FinishResizeVM, ResizeVM
from workflows.snapshots import CreateSnapshot, DeleteSnapshot, RestoreVM
from workflows.volumes import AttachVolume, CreateVolume, DeleteVolume, DetachVolume

logger = logging.getLogger("worker")

WORKFLOWS = [
    *(CreateVM, StartVM, StopVM, RebootVM, ResizeVM, FinishResizeVM, DeleteVM),
    *(CreateSnapshot, RestoreVM, DeleteSnapshot),
    *(CreateVolume, DeleteVolume, AttachVolume, DetachVolume),
    *(AttachInterface, DetachInterface),
]
STEPS = [ComputeActivities, ResizeActivities, SnapshotActivities, VolumeActivities, InterfaceActivities]
RPC_PATIENCE = 10.0  # seconds
RECONNECT_PAUSE = 1.0  # seconds
DRAIN = timedelta(seconds=5)
MOST_CALLS = 100
MOST_TASKS = 20  # workflows that go on at once: they share one processor, so more would only wait in the worker
# One of ten asks for workflows to begin, the others for those begun. With more of the first, begun ones pile up: each
# step waits for those of all the others, and after 1 s is given to any worker, which replays the workflow for it.
POLLERS, ONE_BEGINS = PollerBehaviorSimpleMaximum(10), 0.1
MOST_WAITS = 5_000
HEARTBEAT_EVERY = timedelta(seconds=1.5)  # half of its timeout
CACHE_PATIENCE = timedelta(seconds=1)  # that a workflow waits for the worker that has it in its cache


def sandbox() -> SandboxedWorkflowRunner:
    """Keeps workflows deterministic; `domain` is pure where they reach it, and need not be loaded anew for each."""
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules("domain"))


class SignalInterceptor(Interceptor):
    """Passes over signals with more arguments than any handler takes; whether one makes sense its handler says.

    A handler that raises fails its workflow's task, again and again, until somebody terminates the workflow.
    """

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """What is put before every workflow."""
        del input
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        if len(input.args) <= 1:
            await super().handle_signal(input)


def make_workers(settings: Settings, client: Client, engine: AsyncEngine, backend: ComputeBackend) -> list[Worker]:
    """The worker of workflows and steps, and the worker of waits, on their task queues."""
    on_cloud = [kind(engine, backend) for kind in STEPS]
    records = RecordActivities(engine)
    waiting = WaitActivities(engine, backend)
    preemption = PreemptionActivities(engine, backend, client)
    steps = Worker(
        client,
        task_queue=settings.temporal_task_queue,
        workflows=WORKFLOWS,
        activities=_activities(*on_cloud, preemption, records),
        workflow_runner=sandbox(),
        interceptors=[OperationInterceptor(engine, client), SignalInterceptor()],
        max_concurrent_workflow_tasks=MOST_TASKS,
        workflow_task_poller_behavior=POLLERS,
        nonsticky_to_sticky_poll_ratio=ONE_BEGINS,
        max_concurrent_activities=MOST_CALLS,
        sticky_queue_schedule_to_start_timeout=CACHE_PATIENCE,
        max_heartbeat_throttle_interval=HEARTBEAT_EVERY,
        graceful_shutdown_timeout=DRAIN,
    )
    waits = Worker(
        client,
        task_queue=waits_queue(settings.temporal_task_queue),
        activities=_activities(waiting),
        interceptors=[OperationInterceptor(engine, client)],
        max_concurrent_activities=MOST_WAITS,
        max_heartbeat_throttle_interval=HEARTBEAT_EVERY,
    )
    return [steps, waits]


def _activities(*holders: object) -> list[Callable[..., Any]]:
    return [getattr(holder, name) for holder in holders for name in Activity if hasattr(holder, name)]


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then drain: steps end, waits go to another worker or the next start."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    engine = database.create_engine(settings)
    backend = load_backend(settings)
    try:
        client = await _until_available(stopping, settings, backend)
        if client is not None:
            reconciling = asyncio.create_task(Reconciler(engine, backend, client).run())
            await _work(make_workers(settings, client, engine, backend), stopping)
            reconciling.cancel()
    finally:
        await backend.close()
        await engine.dispose()


async def _work(workers: list[Worker], stopping: asyncio.Event) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        logger.info("Working on %s", ", ".join(worker.task_queue for worker in workers))
        await stopping.wait()
        logger.info("Draining")


async def _until_available(stopping: asyncio.Event, settings: Settings, backend: ComputeBackend) -> Client | None:
    while not stopping.is_set():
        try:
            await backend.prepare()
            return await temporal.connect(settings, retry_for=RPC_PATIENCE)
        except (OSError, RuntimeError, SQLAlchemyError) as error:
            logger.warning("Waiting for PostgreSQL and Temporal: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), RECONNECT_PAUSE)
    return None


def main() -> None:
    """Run the process."""
    settings = load_settings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
