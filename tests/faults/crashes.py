"""Crashes of a stack's processes at failpoints: run in batches, and checked when the batch is over."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final
from uuid import UUID, uuid4, uuid5

from temporalio.client import Client as TemporalClient

from domain.commands import resize_decisions
from domain.rules.table import TABLE, Previous
from tests.faults.failpoints import AUTO_CONFIRM, EFFECTS, EXECUTED, Files
from tests.faults.matrix import Cell, Matrix, Scenario
from tests.faults.setups import EndWatcher, Request, Setup
from tests.support.stack import QUICK_CLOUD, Stack
from tests.support.truth import differences
from tests.support.users import DEADLINE_WITH_FAULTS, RetryingUser, log_in_retrying
from tests.support.waiting import poll

ROOT: Final = Path(__file__).parents[2]
USERS: Final = 4
# Seconds until a resize is confirmed automatically: the scenarios that confirm or revert it do so long before.
CONFIRM_WINDOW: Final = 45
# Points that the workflow recovery passes only if an operation takes long, which depends on chance.
BY_CHANCE: Final = ("lease_checks", "deliver_again", "is_signal_due", "note_signaled", "restart")
EFFECTS_WITHOUT_TOKEN: Final = {"revoke", "purge"}
GRACE: Final = 2.0  # seconds that a crash has to happen after all workflows have closed
CALLS: Final = "SELECT step FROM mock_cloud.calls WHERE operation_id = $1"


@dataclass
class Run:
    """One run of a scenario; it crashes at `point` unless that is empty."""

    scenario: Scenario
    point: str = ""
    key: str = field(default_factory=lambda: f"crash-{uuid4().hex}")
    operations: dict[str, UUID] = field(default_factory=dict)  # by the prefix of their points
    accepted: list[UUID] = field(default_factory=list)  # every operation of the request, also in undone transactions
    ends: list[str] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)  # from the trace: time and point
    crashed_at: float | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def points(self) -> list[str]:
        """The points that it has passed, without those that depend on chance."""
        names = [event for _, event in self.events if EXECUTED not in event.split()]
        return list(dict.fromkeys(name for name in names if not any(chance in name for chance in BY_CHANCE)))

    @property
    def standstill(self) -> float | None:
        """Seconds from the crash to the next event; None if all events were before it.

        Also None with an automatic confirm, where the next event waits for the end of the confirm window.
        """
        if self.crashed_at is None or self.scenario.auto_confirm:
            return None
        later = [time for time, _ in self.events if time > self.crashed_at]
        return min(later) - self.crashed_at if later else None


@dataclass
class CrashStack:
    """A stack whose processes have failpoints, and users of it."""

    stack: Stack
    files: Files
    users: list[RetryingUser]
    watcher: EndWatcher
    temporal: TemporalClient
    flavors: list[str]

    async def run(self, cells: Sequence[Cell | Scenario]) -> list[Run]:
        """Run scenarios at once; the process that comes to a cell's point dies, and the supervisor restarts it."""
        runs = [Run(cell.scenario, cell.point) if isinstance(cell, Cell) else Run(cell) for cell in cells]
        setups = [
            Setup(self.users[number % USERS], self.watcher, self.temporal, self.flavors) for number in range(len(runs))
        ]
        requests = await asyncio.gather(*(run.scenario.prepare(setup) for run, setup in zip(runs, setups, strict=True)))
        for run, request, setup in zip(runs, requests, setups, strict=True):
            repetitions = sum(other.scenario == run.scenario for other in runs)
            await self._add_faults(run.scenario, request.target, setup, repetitions)
            if run.point:
                self._arm(run)
        await asyncio.gather(*(self._execute(*work) for work in zip(runs, setups, requests, strict=True)))
        await self._until_quiet(runs)
        await self.stack.sql("DELETE FROM mock_cloud.faults")
        undeletable = [setup for setup in setups if setup.undeletable]
        await asyncio.gather(*(setup.do("DELETE", f"/volumes/{setup.undeletable}") for setup in undeletable))
        self._read_files(runs)
        for run in runs:
            run.errors += await self._errors_of(run)
        return runs

    def _arm(self, run: Run) -> None:
        """Arm the run's point; points of its automatic confirm begin with a prefix and belong to a key of their own."""
        is_of_confirm = run.point.startswith(AUTO_CONFIRM)
        key = run.key + AUTO_CONFIRM if is_of_confirm else run.key
        (self.files.armed / key).write_text(run.point.removeprefix(f"{AUTO_CONFIRM} "))

    async def _add_faults(self, scenario: Scenario, target: UUID | None, setup: Setup, repetitions: int) -> None:
        """Script the faults of a scenario; without a target they are shared by all its repetitions in the batch."""
        if scenario.must_run_alone:
            if await self.stack.sql("SELECT FROM mock_cloud.faults"):
                return
            target = None
        for verb, modes in scenario.refuses:
            for mode in modes[:-1]:
                await setup.add_fault(verb, mode, repetitions if scenario.must_run_alone else 1, target)
            await setup.add_fault(verb, modes[-1], None, target)

    async def _execute(self, run: Run, setup: Setup, request: Request) -> None:
        try:
            await self._send_and_wait(run, setup, request)
        except (AssertionError, TimeoutError) as error:  # the other runs of the batch go on
            run.errors.append(f"{type(error).__name__} {error}")

    async def _send_and_wait(self, run: Run, setup: Setup, request: Request) -> None:
        operation_id, _ = await setup.send(request, run.key)
        run.operations[""] = operation_id
        run.ends.append(await self.watcher.end_of(operation_id))
        if run.scenario.canceled:
            await self.temporal.get_workflow_handle(f"resize-{setup.vm}-{operation_id}").cancel()
        if run.scenario.auto_confirm:
            confirm_id = uuid5(resize_decisions._CONFIRM_NAMESPACE, str(operation_id))
            run.operations[AUTO_CONFIRM] = confirm_id
            run.ends.append(await self.watcher.end_of(confirm_id))

    async def _until_quiet(self, runs: Sequence[Run]) -> None:
        """Wait until no workflow is open; then give the crashes that have not happened a last moment."""

        async def open_workflows() -> int:
            return (await self.temporal.count_workflows("ExecutionStatus = 'Running'")).count

        async def missing_crashes() -> int:
            return sum(run.point != "" and self._crash_of(run) is None for run in runs)

        loop = asyncio.get_running_loop()
        grace_ends_at = loop.time() + GRACE
        await poll(open_workflows, lambda count: count == 0, deadline=DEADLINE_WITH_FAULTS, interval=0.2)
        await poll(missing_crashes, lambda count: count == 0 or loop.time() > grace_ends_at, interval=0.2)
        await poll(open_workflows, lambda count: count == 0, deadline=DEADLINE_WITH_FAULTS, interval=0.2)

    def _crash_of(self, run: Run) -> float | None:
        """The time at which the process died that had reached the run's point, in seconds since the epoch."""
        paths = [self.files.fired / run.key, self.files.fired / (run.key + AUTO_CONFIRM)]
        fired = next((path for path in paths if path.exists()), None)
        if fired is None:
            return None
        pid, fired_at = fired.read_text(), fired.stat().st_mtime
        # The trace has milliseconds, and a process id may be used again: the first death after firing is the right one.
        return next(
            (float(time) for time, died in self._deaths() if died == pid and float(time) > fired_at - 0.1), None
        )

    def _read_files(self, runs: Sequence[Run]) -> None:
        """Read what the processes have noted."""
        events: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for line in self.files.trace.read_text().splitlines():
            time, key, event = line.split(" ", 2)
            prefix = f"{AUTO_CONFIRM} " if key.endswith(AUTO_CONFIRM) else ""
            events[key.removesuffix(AUTO_CONFIRM)].append((float(time), prefix + event))
        accepted: dict[str, list[UUID]] = defaultdict(list)
        for path in self.files.keys.iterdir():
            accepted[path.read_text().removesuffix(AUTO_CONFIRM)].append(UUID(path.name))
        for run in runs:
            run.events, run.accepted = events[run.key], accepted[run.key]
            run.crashed_at = self._crash_of(run)

    def _deaths(self) -> list[list[str]]:
        if not self.files.deaths.exists():
            return []
        return [line.split() for line in self.files.deaths.read_text().splitlines()]

    @property
    def deaths(self) -> int:
        """The number of processes that have died."""
        return len(self._deaths())

    async def _errors_of(self, run: Run) -> list[str]:
        """How a run differs from what is expected."""
        executed = Counter(event for _, event in run.events if EXECUTED in event.split())
        # A refused operation whose undo is refused, too, counts as success, because its effect remains. If another
        # crash came before the effect, there is nothing to undo, and the operation fails.
        expected = run.scenario.ends if executed or not run.scenario.refuses else "FAILED"
        errors = [] if set(run.ends) == {expected} else [f"ended {run.ends}"]
        errors += [f"{event} {times} times" for event, times in executed.items() if times > 1]
        rows = await self.stack.sql("SELECT id FROM operations WHERE id = ANY($1)", run.accepted)
        if {row["id"] for row in rows} != set(run.operations.values()):
            errors.append(f"operations {rows}, not {run.operations}")
        for prefix, operation_id in run.operations.items():
            errors += await self._errors_of_operation(run, prefix, operation_id)
        return errors

    async def _errors_of_operation(self, run: Run, prefix: str, operation_id: UUID) -> list[str]:
        (row,) = await self.stack.sql(
            "SELECT operations.*, vms.status AS vm_status, vms.task_state FROM operations"
            " LEFT JOIN vms ON vms.id = operations.vm_id WHERE operations.id = $1",
            operation_id,
        )
        if row["status"] != "SUCCEEDED":
            return []
        errors = []
        target = TABLE[run.scenario.action].target
        expected = row["previous_status"] if isinstance(target, Previous) else target
        state = (row["vm_status"], row["task_state"])
        if row["previous_status"] and not run.scenario.auto_confirm and state != (expected, None):
            errors.append(f"the VM is {row['vm_status']}, {row['task_state']}")
        calls = [call["step"] for call in await self.stack.sql(CALLS, operation_id)]
        if len(calls) != (wanted := _count_effects(run.points, prefix)):
            errors.append(f"{wanted} effects, but {calls}")
        return errors


def _count_effects(points: list[str], prefix: str) -> int:
    """The number of effects with a token among the points of the operation with this prefix."""
    own = [point for point in points if point.startswith(f"{AUTO_CONFIRM} ") is bool(prefix)]
    words = [point.removeprefix(f"{prefix} ").split() for point in own]
    effects = EFFECTS - EFFECTS_WITHOUT_TOKEN
    return sum(len(parts) == 3 and parts[1] in effects and parts[2] == "+" for parts in words)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[CrashStack]:
    """Run a stack with failpoints."""
    site = Path(__file__).with_name("site")
    points = folder / "failpoints"
    files = Files(points)
    environment = {
        "PYTHONPATH": f"{site}:{ROOT}",
        "FAILPOINTS_FOLDER": str(points),
        "RESIZE_CONFIRM_WINDOW": str(CONFIRM_WINDOW),
    }
    stack = Stack.at(folder / "stack", **QUICK_CLOUD, **environment)
    stack.passed_on = frozenset({"PYTHONPATH", "FAILPOINTS_FOLDER"})
    stack.start()
    try:
        async with AsyncExitStack() as sessions:
            # One after the other: hashing a password takes the processor for a while.
            users = [
                await sessions.enter_async_context(log_in_retrying(stack.url, f"crash-{number}"))
                for number in range(USERS)
            ]
            watcher = EndWatcher(stack)
            watching = asyncio.create_task(watcher.run())
            flavors = await users[0].flavors()
            yield CrashStack(stack, files, users, watcher, await stack.temporal(), flavors)
            watching.cancel()
    finally:
        stack.stop()


def matrix_of(runs: Sequence[Run]) -> Matrix:
    """The points that each scenario passed."""
    return {run.scenario.name: run.points for run in runs}


@dataclass
class Report:
    """The figures of all batches."""

    runs: list[Run] = field(default_factory=list)
    repeated: int = 0
    deaths: int = 0

    def lines(self) -> list[str]:
        """The figures as text."""
        crashed = [run for run in self.runs if run.crashed_at]
        waited = sorted((run for run in crashed if run.standstill), key=lambda run: run.standstill or 0)
        standstills, worst = [run.standstill or 0 for run in waited], waited[-1]
        points, actions = {run.point for run in crashed}, {run.scenario.action for run in crashed}
        return [
            f"{len(points)} failpoints x {len(actions)} actions: {len(crashed)} operations crashed at one",
            f"{self.deaths} processes died; {self.repeated} runs did not reach their point and were repeated",
            f"seconds from the crash to the next step: median {median(standstills):.1f}, worst {standstills[-1]:.1f}",
            f"the worst was {worst.scenario.name} at {worst.point}; {len(crashed) - len(waited)} were already done",
        ]


async def errors_of(crash_stack: CrashStack, runs: Sequence[Run]) -> list[str]:
    """All errors of a batch that is over."""
    errors = [f"{run.scenario.name} @ {run.point}: {error}" for run in runs for error in run.errors]
    errors += [answer for user in crash_stack.users for answer in user.attempts.unexpected]
    return errors + await differences(crash_stack.stack)
