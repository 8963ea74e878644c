"""Where faults are done in one process: before, in and after calls of the cloud, activities and RPCs to Temporal.

Each owner has a plan: which of their calls, counted from 0, goes wrong, and how.
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
DEAD: Final = 1.5  # times its heartbeat timeout for which an activity is silent that has died


class Seam(StrEnum):
    """What is counted."""

    CLOUD = "cloud"
    ACTIVITY = "activity"
    RPC = "rpc"


class Mode(StrEnum):
    """What goes wrong with a call."""

    FAILS = "fails"  # before it has done anything
    LOSES_ANSWER = "loses-answer"  # after all was done
    CRASHES = "crashes"  # before, with an error of no kind that anybody expects
    REFUSES = "refuses"  # for good
    IS_SLOW = "is-slow"
    DIES_BEFORE = "dies-before"  # and does its work, as a zombie, after somebody else has
    DIES_AFTER = "dies-after"
    COMES_TWICE = "comes-twice"
    COMES_LATE = "comes-late"


MODES: Final = {
    Seam.CLOUD: (Mode.FAILS, Mode.LOSES_ANSWER, Mode.LOSES_ANSWER, Mode.CRASHES, Mode.REFUSES, Mode.IS_SLOW),
    Seam.ACTIVITY: (Mode.CRASHES, Mode.LOSES_ANSWER, Mode.LOSES_ANSWER, Mode.DIES_BEFORE, Mode.DIES_AFTER),
    Seam.RPC: (Mode.FAILS, Mode.LOSES_ANSWER, Mode.COMES_TWICE, Mode.COMES_LATE),
}
CALLS: Final = {Seam.CLOUD: 9, Seam.ACTIVITY: 24, Seam.RPC: 7}  # that a short schedule makes, about

Plan = dict[tuple[Seam, int], Mode]


def make_plan(random: Random) -> Plan:
    """What goes wrong for one owner."""
    seams = random.choices(list(Seam), [3, 3, 2], k=random.randint(2, 6))
    return {(seam, random.randrange(CALLS[seam])): random.choice(MODES[seam]) for seam in seams}


@dataclass
class Seams(temporal_client.Interceptor, temporal_worker.Interceptor):
    """Does what the owners' plans say; goes with the client of every API and worker."""

    plans: dict[str, Plan] = field(default_factory=dict)
    counts: dict[str, Counter[Seam]] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    late: set[asyncio.Task[None]] = field(default_factory=set)

    def draw(self, whose: str, seam: Seam) -> Mode | None:
        """What goes wrong with the owner's next call, if anything does."""
        if whose not in self.plans:
            return None
        counts = self.counts.setdefault(whose, Counter())
        mode = self.plans[whose].get((seam, counts[seam]))
        counts[seam] += 1
        if mode:
            self.done[f"{seam} {mode}"] += 1
        return mode

    def later(self, call: Awaitable[None]) -> None:
        """Make a call some time after its caller takes it for made."""

        async def wait_and_call() -> None:
            await asyncio.sleep(2)
            with contextlib.suppress(RPCError):  # there is no such workflow any more
                await call

        task = asyncio.create_task(wait_and_call())
        self.late.add(task)
        task.add_done_callback(self.late.discard)

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

        async def faulty(*arguments: Any, **options: Any) -> None:
            await self._call(lambda: call(*arguments, **options))

        return faulty

    async def _call(self, call: Callable[[], Awaitable[None]]) -> None:
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
        await call()
        if mode is Mode.LOSES_ANSWER:
            raise BackendError("seam_lost", "The answer was lost.", retryable=True)


class _Activity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, seams: Seams) -> None:
        super().__init__(next)
        self._seams = seams

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        whose = _actor(input.args)
        owner.set(whose)
        mode = self._seams.draw(whose, Seam.ACTIVITY)
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
            self._seams.later(super().signal_workflow(input))
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
    await asyncio.sleep(DEAD * timeout.total_seconds())


def _actor(args: Any) -> str:
    message = args[0] if args else None
    return str(getattr(getattr(message, "operation", message), "actor", ""))
