"""The worker process, `python -m worker`: it runs workflows and activities until SIGTERM. Any number may run."""

import gc

# Nothing is garbage while modules are loaded, and to look for some takes a quarter of the start.
if __name__ == "__main__":
    gc.disable()

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any

import temporalio.activity
import temporalio.workflow
import uvloop
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import (
    HandleSignalInput,
    Interceptor,
    PollerBehaviorSimpleMaximum,
    Worker,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from activities.backends import load_backend
from activities.backends.protocol import BackendError, ComputeBackend, UnusableCloudError
from activities.catalogue import CatalogueReader
from activities.compute import ComputeActivities
from activities.consoles import ConsoleActivities
from activities.found_servers import FoundServersReader
from activities.interceptor import OperationInterceptor
from activities.interfaces import InterfaceActivities
from activities.preemption import PreemptionActivities
from activities.records import RecordActivities
from activities.recovery.reconciler import Reconciler
from activities.resize import ResizeActivities
from activities.snapshots import SnapshotActivities
from activities.volumes import VolumeActivities
from activities.waits import WaitActivities
from domain import logs, temporal
from domain.data import database, outages
from domain.data.outages import UnusableDatabaseError
from domain.rules.console import console_queue
from domain.rules.messages import Activity, waits_queue
from domain.settings import Settings, SettingsWithoutKey, load_settings
from domain.upkeep import binding
from domain.upkeep.binding import OtherCloudError
from domain.workflow_sandbox import sandbox
from workflows.build import CreateVM
from workflows.consoles import ReadConsole
from workflows.delete import DeleteVM
from workflows.interfaces import AttachInterface, DetachInterface
from workflows.power import RebootVM, StartVM, StopVM
from workflows.resize import FinishResizeVM, ResizeVM
from workflows.snapshots import CreateSnapshot, DeleteSnapshot, RestoreVM
from workflows.volumes import AttachVolume, CreateVolume, DeleteVolume, DetachVolume, ExtendVolume

logger = logging.getLogger("worker")

# Temporal stores the names of these classes with each workflow: a renamed class could not continue the open ones.
WORKFLOWS = [
    *(CreateVM, StartVM, StopVM, RebootVM, ResizeVM, FinishResizeVM, DeleteVM),
    *(CreateSnapshot, RestoreVM, DeleteSnapshot),
    *(CreateVolume, DeleteVolume, ExtendVolume, AttachVolume, DetachVolume),
    *(AttachInterface, DetachInterface),
]
STEPS = [ComputeActivities, ResizeActivities, SnapshotActivities, VolumeActivities, InterfaceActivities]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RPC_RETRY_LIMIT = 10.0  # seconds
RECONNECT_PAUSE = 1.0  # seconds
DRAIN_TIMEOUT = timedelta(seconds=5)  # for running steps to end after SIGTERM
STOP_GRACE = 7.0  # seconds from SIGTERM to the end of the process; `make up` kills it after 8
MAX_CONCURRENT_ACTIVITIES = 100
MAX_CONCURRENT_CONSOLES = 3  # each may keep one of the few threads to a real cloud for seconds
MAX_CONCURRENT_WAITS = 5_000  # each costs a coroutine and its heartbeats; the polls are shared
# All workflow tasks of a worker share one processor. More at once would only wait for each other inside the worker,
# instead of going to a worker that has time.
MAX_CONCURRENT_WORKFLOW_TASKS = 20
# One of the ten pollers asks for new workflows, the others for those that this worker has in its cache. With more
# pollers for new ones, a worker under load accepts more workflows than it can continue. Their tasks then miss
# STICKY_TIMEOUT, and other workers must replay them.
WORKFLOW_POLLERS = PollerBehaviorSimpleMaximum(10)
NEW_WORKFLOW_POLLER_RATIO = 0.1
# How long a workflow task waits for the worker that has its workflow in its cache. After that, any worker may take the
# task and replay the history. The time is short, so that workflows continue soon after a worker has died.
STICKY_TIMEOUT = timedelta(seconds=1)
# The SDK sends at most one heartbeat in this time, and a cancel reaches an activity only in the answer to a heartbeat.
# Half of the heartbeat timeout of 3 seconds, so that one lost heartbeat does not count as a lost worker.
HEARTBEAT_THROTTLE = timedelta(seconds=1.5)


class SignalInterceptor(Interceptor):
    """Drops signals that have more arguments than any handler takes. A person may send such a signal by hand.

    The handler's call would raise an error, and Temporal would retry the workflow task until the workflow is
    terminated. The handlers themselves ignore an argument of the wrong type.
    """

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return the class that receives the signals of every workflow first."""
        del input
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        if len(input.args) <= 1:
            await super().handle_signal(input)


def make_workers(settings: Settings, client: Client, engine: AsyncEngine, backend: ComputeBackend) -> list[Worker]:
    """Return the worker of workflows and steps, that of waits and that of consoles, each on its own task queue.

    Waits take minutes and there may be thousands of them. On the queue of the steps they would take all its slots, and
    a step, which takes milliseconds, could not start. Somebody waits for each console, and wants no queue before it.
    """
    steps = [kind(engine, backend) for kind in STEPS]
    preemption = PreemptionActivities(engine, backend, client)
    records = RecordActivities(engine)
    steps_worker = Worker(
        client,
        task_queue=settings.temporal_task_queue,
        workflows=WORKFLOWS,
        activities=_activities(*steps, preemption, records),
        workflow_runner=sandbox(),
        interceptors=[OperationInterceptor(engine, client), SignalInterceptor()],
        max_concurrent_workflow_tasks=MAX_CONCURRENT_WORKFLOW_TASKS,
        workflow_task_poller_behavior=WORKFLOW_POLLERS,
        nonsticky_to_sticky_poll_ratio=NEW_WORKFLOW_POLLER_RATIO,
        max_concurrent_activities=MAX_CONCURRENT_ACTIVITIES,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=DRAIN_TIMEOUT,
    )
    waits_worker = Worker(
        client,
        task_queue=waits_queue(settings.temporal_task_queue),
        activities=_activities(WaitActivities(engine, backend)),
        interceptors=[OperationInterceptor(engine, client)],
        max_concurrent_activities=MAX_CONCURRENT_WAITS,
        # No graceful shutdown: a wait that is interrupted loses nothing, and its next attempt continues it. For the
        # same reason heartbeats are as rare as the SDK makes them. Waits learn from the database that they should stop.
    )
    consoles_worker = Worker(
        client,
        task_queue=console_queue(settings.temporal_task_queue),
        workflows=[ReadConsole],
        activities=[ConsoleActivities(engine, backend).answer_console_request],
        workflow_runner=sandbox(),
        max_concurrent_activities=MAX_CONCURRENT_CONSOLES,
    )
    return [steps_worker, waits_worker, consoles_worker]


def _activities(*instances: object) -> list[Callable[..., Any]]:
    """Return the methods of the instances that are activities; each is named as its Activity."""
    return [getattr(instance, name) for instance in instances for name in Activity if hasattr(instance, name)]


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then drain: steps may finish, waits continue in other workers or the next start."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Not the loop's own handlers: they end with the loop, and a second signal would kill the process before its exit.
    _handle_signals(lambda *_: loop.call_soon_threadsafe(_stop, stopping))
    try:
        backend = load_backend(settings)
    except UnusableCloudError as error:
        raise SystemExit(_unusable(error)) from None
    engine = database.create_engine(settings)
    try:
        client = await _until_available(stopping, settings, engine, backend)
        if client is not None:
            reconciler = asyncio.create_task(Reconciler(engine, backend, client).run())
            catalogue = asyncio.create_task(CatalogueReader(engine, backend).run())
            found_servers = asyncio.create_task(FoundServersReader(engine, backend).run())
            health = asyncio.create_task(temporal.show_health(client, settings.worker_health_file))
            await _work(make_workers(settings, client, engine, backend), stopping)
            reconciler.cancel()
            catalogue.cancel()
            found_servers.cancel()
            health.cancel()
    finally:
        await asyncio.gather(backend.close(), database.close(engine))
        _handle_signals(signal.SIG_IGN if stopping.is_set() else signal.SIG_DFL)


def _unusable(error: UnusableCloudError) -> str:
    return f"The cloud of COMPUTE_BACKEND cannot be used: {error}"


def _handle_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def _stop(stopping: asyncio.Event) -> None:
    """Begin to drain, and end the process after STOP_GRACE even if PostgreSQL or Temporal hangs."""
    stopping.set()
    # A thread, because the end of a process has stages in which no event loop runs any more, and each of them may wait
    # for a server that does not answer. Nothing is lost: Temporal gives the tasks to another worker.
    deadline = threading.Timer(STOP_GRACE, _leave)
    deadline.daemon = True
    deadline.start()


def _leave() -> None:
    logger.warning("Stopped without PostgreSQL or Temporal, which did not answer within %s s", STOP_GRACE)
    os._exit(0)


async def _work(workers: list[Worker], stopping: asyncio.Event) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        logger.info("Working on %s", ", ".join(worker.task_queue for worker in workers))
        await stopping.wait()
        logger.info("Draining")


async def _until_available(
    stopping: asyncio.Event, settings: Settings, engine: AsyncEngine, backend: ComputeBackend
) -> Client | None:
    """Return a client once PostgreSQL, Temporal and the cloud can be reached; None if the worker is stopped before."""
    is_stopping = asyncio.create_task(stopping.wait())
    logged = set[str]()
    while not stopping.is_set():
        connecting = asyncio.create_task(_connect(settings, engine, backend))
        await asyncio.wait([connecting, is_stopping], return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            connecting.cancel()
            return None
        try:
            return await connecting
        except UnusableCloudError as error:
            raise SystemExit(_unusable(error)) from None
        except UnusableDatabaseError as error:
            raise SystemExit(f"The database of DATABASE_URL cannot be used: {error}") from None
        except OtherCloudError as error:
            raise SystemExit(f"The database of DATABASE_URL cannot be used: {error}") from None
        except (BackendError, OSError, RuntimeError, RPCError, SQLAlchemyError) as error:
            reason = str(error) if isinstance(error, BackendError) else outages.describe(error)
            if reason not in logged:  # not every second
                logger.warning("Waiting for PostgreSQL, Temporal and the cloud: %s", reason)
            logged.add(reason)
            await asyncio.wait([is_stopping], timeout=RECONNECT_PAUSE)
    return None


async def _connect(settings: Settings, engine: AsyncEngine, backend: ComputeBackend) -> Client:
    async with engine.connect():
        pass  # a server that the service cannot work with is refused here
    await backend.prepare()
    # Not before the cloud has said who it is: in another one, all servers would be gone.
    identity = await backend.identity()
    async with engine.begin() as tx:
        await binding.bind(tx, settings.compute_backend, identity)
    client = await temporal.connect(settings, retry_for=RPC_RETRY_LIMIT)
    # Without its namespace the worker would end with an error of the SDK; the namespace may be created later.
    request = DescribeNamespaceRequest(namespace=settings.temporal_namespace)
    await client.workflow_service.describe_namespace(request, timeout=temporal.RPC_TIMEOUT)
    return client


def main() -> None:
    """Run the process."""
    gc.freeze()
    gc.enable()
    settings = load_settings(SettingsWithoutKey)
    logs.configure(settings.log_level)
    temporal.forward_logs()
    # The operation is a field of its own in each line, so its workflow need not be in the text.
    temporalio.activity.logger.activity_info_on_message = False
    temporalio.workflow.logger.workflow_info_on_message = False
    try:
        uvloop.run(run(settings))
    except Exception:
        logger.exception("The worker failed")
        sys.exit(1)


if __name__ == "__main__":
    main()
