"""The world outside a workflow: every activity, scripted and recorded."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from domain.rules.cloud import ImageState, PortState, ServerStatus, VolumeState
from domain.rules.messages import Activity, LeftoversResult, OperationInput, waits_queue
from domain.rules.resize_messages import ClaimConfirmResult, ConfirmWindowResult
from domain.rules.states import Action, Status
from domain.rules.table import TABLE
from tests.support.sandbox import sandbox
from worker import WORKFLOWS, SignalInterceptor

HANG = object()
SLOW = object()
MAY_COMBINE = {
    *(Activity.SCHEDULE_SERVER, Activity.PREPARE_RESIZE, Activity.WAIT_FOR_SERVER),
    *(Activity.WAIT_FOR_VOLUME, Activity.WAIT_FOR_EXTENSION, Activity.WAIT_FOR_IMAGE),
}
HAS_RESOURCES = True  # the answer of DELETE_SERVER if the VM has resources to release
WITHOUT_VM = {Action.CREATE_VOLUME, Action.DELETE_VOLUME, Action.EXTEND_VOLUME}


def new_operation(action: Action, previous: Status = Status.ACTIVE) -> OperationInput:
    """Return an operation as its workflow or signal gets it."""
    rule = TABLE[action]
    id = uuid4()
    vm = (None, None, "") if action in WITHOUT_VM else (id, previous if rule.steps else None, "web-1")
    is_on_vm = rule.changes == () or action in {Action.CREATE, Action.DELETE}
    resource_id = id if is_on_vm else uuid4()
    return OperationInput(uuid4(), vm[0], action, 0, vm[1], vm[2], "ada", "from a to b", resource_id)


def refused(code: str) -> ApplicationError:
    """Return an error of an activity that is not retried."""
    return ApplicationError(f"{code}, for good", type=code, non_retryable=True)


def failed(code: str) -> ApplicationError:
    """Return an error of an activity that is retried."""
    return ApplicationError(f"{code}, for now", type=code)


def _give_time(worker: Worker) -> None:
    """Let the tasks of workflows take longer than two seconds, as on a machine with much other work.

    The worker would end such a task with an error at whatever line it is. The server repeats the task, but if Python
    cannot raise that error, in a finalizer for example, pytest fails the test. The SDK has no option for this time.
    """
    if worker._workflow_worker:
        worker._workflow_worker._deadlock_timeout_seconds = 60


@dataclass
class World:
    """Answers activities as scripted, or else with a success, and records their names and inputs."""

    environment: WorkflowEnvironment
    combines: bool = False
    """Whether activities do what they may do in addition, as the worker's do. Those of older versions did not."""
    calls: list[tuple[Activity, dict[str, Any]]] = field(default_factory=list)
    waited: dict[Activity, bool] = field(default_factory=dict)
    """Whether an activity ran on the task queue of waits."""
    reached: dict[Activity, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    _script: dict[Activity, list[object]] = field(default_factory=lambda: defaultdict(list))
    _queue: str = field(default_factory=lambda: uuid4().hex)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def client(self) -> Client:
        """A client of the Temporal server."""
        return self.environment.client

    async def __aenter__(self) -> Self:
        for queue, workflows in ((self._queue, WORKFLOWS), (waits_queue(self._queue), [])):
            worker = Worker(
                self.client,
                task_queue=queue,
                workflows=workflows,
                activities=[self._answer],
                workflow_runner=sandbox(is_strict=True),
                interceptors=[SignalInterceptor()],
                max_heartbeat_throttle_interval=timedelta(seconds=0.1),
            )
            _give_time(worker)
            await self._stack.enter_async_context(worker)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def script(self, name: Activity, *outcomes: object) -> None:
        """Set the outcomes of an activity's next calls: an error, HANG until canceled, SLOW, an event, or a result."""
        self._script[name].extend(outcomes)

    def called(self) -> list[Activity]:
        """Return the activities in the order of their calls, retries included."""
        return [name for name, _ in self.calls]

    def last_input(self, name: Activity) -> dict[str, Any]:
        """Return the input of an activity's last call."""
        return [input for activity, input in self.calls if activity is name][-1]

    async def start(
        self, action: Action, previous: Status = Status.ACTIVE, window: float | None = None, *, is_over: bool = False
    ) -> WorkflowHandle[Any, Any]:
        """Start the workflow of an action. `window` (in seconds) and `is_over` describe a resize's confirm window."""
        if action is Action.RESIZE:
            self._script[Activity.READ_CONFIRM_WINDOW] = [ConfirmWindowResult(window, is_over)]
        return await self.start_with(new_operation(action, previous))

    async def start_with(self, operation: OperationInput) -> WorkflowHandle[Any, Any]:
        """Start the workflow of an operation."""
        workflow = TABLE[operation.action].workflow
        assert workflow
        id = f"{operation.action.word}-{operation.vm_id or operation.resource_id}-{operation.operation_id}"
        return await self.client.start_workflow(workflow, operation, id=id, task_queue=self._queue)

    @activity.defn(dynamic=True)
    async def _answer(self, args: Sequence[RawValue]) -> Any:
        name = Activity(activity.info().activity_type)
        self.waited[name] = activity.info().task_queue == waits_queue(self._queue)
        self.calls.append((name, activity.payload_converter().from_payload(args[0].payload)))
        self.reached[name].set()
        outcome = self._script[name].pop(0) if self._script[name] else None
        if isinstance(outcome, ApplicationError):
            raise ApplicationError(outcome.message, type=outcome.type, non_retryable=outcome.non_retryable)
        while outcome is HANG or (isinstance(outcome, asyncio.Event) and not outcome.is_set()):
            activity.heartbeat()
            await asyncio.sleep(0.05)
        if outcome is SLOW:
            await asyncio.sleep(0.5)
        if outcome is SLOW or isinstance(outcome, asyncio.Event) or outcome is None:
            return self._default(name)
        return outcome

    def _default(self, name: Activity) -> object:
        if self.combines and name in MAY_COMBINE:
            input = self.last_input(name)
            return bool(input.get("combines") or input.get("records"))
        return DEFAULTS.get(name)


DEFAULTS: dict[Activity, object] = {
    Activity.PREEMPT_OPERATIONS: [],
    Activity.LIST_OPEN_WORKFLOWS: [],
    Activity.DELETE_SERVER: False,
    Activity.SETTLE_SERVER: ServerStatus.ERROR,
    Activity.SETTLE_VOLUME: VolumeState.ERROR,
    Activity.SETTLE_IMAGE: ImageState.ERROR,
    Activity.SETTLE_INTERFACE: PortState.ACTIVE,
    Activity.SETTLE_REMAINS: LeftoversResult(),
    Activity.IS_RESTORED: False,
    Activity.READ_CONFIRM_WINDOW: ConfirmWindowResult(None),
    Activity.CLAIM_CONFIRM: ClaimConfirmResult(None),
}
