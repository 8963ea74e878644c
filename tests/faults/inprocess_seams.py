"""Seams: places for faults in one process, around calls of the cloud, activities and RPCs to Temporal.

Each owner has a plan that says which of their calls, counted from 0, gets which fault.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any, Final, cast

from temporalio import activity
from temporalio import client as temporal_client
from temporalio import worker as temporal_worker
from temporalio.client import OutboundInterceptor, SignalWorkflowInput, StartWorkflowInput, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.backends.faults import VERBS
from activities.backends.protocol import BackendError, ComputeBackend

owner: ContextVar[str] = ContextVar("owner", default="")
SILENCE: Final = 1.5  # heartbeat timeouts without a heartbeat, after which Temporal takes an activity for dead


class Seam(StrEnum):
    """The kinds of calls, which are counted separately."""

    CLOUD = "cloud"
    ACTIVITY = "activity"
    RPC = "rpc"


class Mode(StrEnum):
    """The faults of a call."""

    FAILS = "fails"  # with a retryable error, before it has any effect
    LOSES_ANSWER = "loses-answer"  # with a retryable error, after its effect
    CRASHES = "crashes"  # with an unexpected error, before its effect
    REFUSES = "refuses"  # with a non-retryable error
    IS_SLOW = "is-slow"
    DIES_BEFORE = "dies-before"  # stops its heartbeats, and runs as a zombie after the next attempt has
    DIES_AFTER = "dies-after"  # stops its heartbeats after its effect
    COMES_TWICE = "comes-twice"
    COMES_LATE = "comes-late"


MODES: Final = {
    Seam.CLOUD: (Mode.FAILS, Mode.LOSES_ANSWER, Mode.LOSES_ANSWER, Mode.CRASHES, Mode.REFUSES, Mode.IS_SLOW),
    Seam.ACTIVITY: (Mode.CRASHES, Mode.LOSES_ANSWER, Mode.LOSES_ANSWER, Mode.DIES_BEFORE, Mode.DIES_AFTER),
    Seam.RPC: (Mode.FAILS, Mode.LOSES_ANSWER, Mode.COMES_TWICE, Mode.COMES_LATE),
}
CALLS: Final = {Seam.CLOUD: 9, Seam.ACTIVITY: 24, Seam.RPC: 7}  # about as many as a short schedule makes

Plan = dict[tuple[Seam, int], Mode]


def make_plan(random: Random) -> Plan:
    """The faults of one owner."""
    seams = random.choices(list(Seam), [3, 3, 2], k=random.randint(2, 6))
    return {(seam, random.randrange(CALLS[seam])): random.choice(MODES[seam]) for seam in seams}


@dataclass
class Seams(temporal_client.Interceptor, temporal_worker.Interceptor):
    """Injects the faults of the plans; an interceptor of the Temporal client of every API and worker."""

    plans: dict[str, Plan] = field(default_factory=dict)
    counts: dict[str, Counter[Seam]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    delayed: set[asyncio.Task[None]] = field(default_factory=set)

    def draw(self, owner_name: str, seam: Seam) -> Mode | None:
        """Count the owner's next call; returns its fault, if the plan has one."""
        if owner_name not in self.plans:
            return None
        counts = self.counts.setdefault(owner_name, Counter())
        mode = self.plans[owner_name].get((seam, counts[seam]))
        counts[seam] += 1
        if mode:
            self.faults[f"{seam} {mode}"] += 1
        return mode

    def delay(self, call: Awaitable[None]) -> None:
        """Make a call two seconds later; its caller believes that it was made."""

        async def wait_and_call() -> None:
            await asyncio.sleep(2)
            with contextlib.suppress(RPCError):  # the workflow has closed meanwhile
                await call

        task = asyncio.create_task(wait_and_call())
        self.delayed.add(task)
        task.add_done_callback(self.delayed.discard)

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        """Put this between a client and Temporal."""
        return _Outbound(next, self)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Put this around every activity, its heartbeats included."""
        return _Activity(next, self)

    def around(self, backend: ComputeBackend) -> ComputeBackend:
        """Put this between the activities and the cloud."""
        return cast("ComputeBackend", _Backend(backend, self))


class _Backend:
    def __init__(self, backend: ComputeBackend, seams: Seams) -> None:
        self._backend = backend
        self._seams = seams

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._backend, name)
        if name not in VERBS:
            return call

        async def faulty(*arguments: Any, **options: Any) -> Any:
            return await self._call(lambda: call(*arguments, **options))

        return faulty

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        mode = self._seams.draw(owner.get(), Seam.CLOUD)
        match mode:
            case Mode.FAILS:
                raise BackendError("seam_failed", "The call failed.", retryable=True)
            case Mode.REFUSES:
                raise BackendError("seam_refused", "The call was refused.", retryable=False)
            case Mode.CRASHES:
                raise ConnectionResetError
            case Mode.IS_SLOW:
                await asyncio.sleep(2)
        answer = await call()
        if mode is Mode.LOSES_ANSWER:
            raise BackendError("seam_lost", "The answer was lost.", retryable=True)
        return answer


class _Activity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, seams: Seams) -> None:
        super().__init__(next)
        self._seams = seams

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        owner.set(_actor(input.args))
        mode = self._seams.draw(owner.get(), Seam.ACTIVITY)
        if mode is Mode.CRASHES:
            raise RuntimeError("the worker crashed before the activity")
        if mode is Mode.DIES_BEFORE:
            await _be_silent()
        result = await super().execute_activity(input)
        if mode is Mode.DIES_AFTER:
            await _be_silent()
        if mode in {Mode.LOSES_ANSWER, Mode.DIES_AFTER}:
            raise RuntimeError("the worker crashed after the activity")
        return result


class _Outbound(OutboundInterceptor):
    def __init__(self, next: OutboundInterceptor, seams: Seams) -> None:
        super().__init__(next)
        self._seams = seams

    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
        mode = self._seams.draw(_actor(input.args), Seam.RPC)
        await _before(mode)
        handle = await super().start_workflow(input)
        if mode is Mode.COMES_TWICE:
            try:
                await super().start_workflow(input)
            except WorkflowAlreadyStartedError:
                return handle
            raise AssertionError(f"{input.id} was started twice")
        _after(mode)
        return handle

    async def signal_workflow(self, input: SignalWorkflowInput) -> None:
        mode = self._seams.draw(_actor(input.args), Seam.RPC)
        if mode is Mode.COMES_LATE:
            self._seams.delay(super().signal_workflow(input))
            return
        await _before(mode)
        await super().signal_workflow(input)
        if mode is Mode.COMES_TWICE:
            await super().signal_workflow(input)
        _after(mode)


async def _before(mode: Mode | None) -> None:
    if mode is Mode.FAILS:
        raise RPCError("dropped", RPCStatusCode.UNAVAILABLE, b"")
    if mode is Mode.COMES_LATE:
        await asyncio.sleep(2)


def _after(mode: Mode | None) -> None:
    if mode is Mode.LOSES_ANSWER:
        raise RPCError("no answer", RPCStatusCode.DEADLINE_EXCEEDED, b"")


async def _be_silent() -> None:
    timeout = activity.info().heartbeat_timeout
    assert timeout
    await asyncio.sleep(SILENCE * timeout.total_seconds())


def _actor(args: Any) -> str:
    message = args[0] if args else None
    return str(getattr(getattr(message, "operation", message), "actor", ""))
