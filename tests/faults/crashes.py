"""Crashes of a stack's processes at failpoints: done in batches, and looked at when all is over."""

import asyncio
import time
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
from tests.faults.client import Client, log_in
from tests.faults.failpoints import EFFECTS, EXECUTED, UNASKED, Files
from tests.faults.matrix import Cell, Matrix, Scenario
from tests.faults.scenes import PATIENCE, Ask, Setting, Watch
from tests.support.stack import Stack
from tests.support.truth import differences

ROOT: Final = Path(__file__).parents[2]
USERS: Final = 4
WINDOW: Final = 45  # seconds until a resize confirms itself; what is to confirm or revert one is asked long before
VERBS: Final = ("BUILD", "START", "STOP", "REBOOT", "RESIZE", "DELETE", "SNAPSHOT")
QUICK: Final = {f"MOCK_{verb}_DELAY": "0.05" for verb in VERBS}
BY_CHANCE: Final = ("lease_checks", "deliver_again", "restart")  # what the watcher does, of what takes long
NO_TOKEN: Final = {"revoke", "purge"}


@dataclass
class Run:
    """A scenario that was run once, with the crash it was to have, if one."""

    scenario: Scenario
    point: str = ""
    key: str = field(default_factory=lambda: f"crash-{uuid4().hex}")
    operations: dict[str, UUID] = field(default_factory=dict)  # by the prefix of their points
    accepted: list[UUID] = field(default_factory=list)  # whatever transactions made of its request, also undone ones
    ends: list[str] = field(default_factory=list)
    seen: list[tuple[float, str]] = field(default_factory=list)
    crashed_at: float | None = None
    wrong: list[str] = field(default_factory=list)

    @property
    def points(self) -> list[str]:
        """The points it has passed."""
        names = [what for _, what in self.seen if EXECUTED not in what.split()]
        return list(dict.fromkeys(name for name in names if not any(chance in name for chance in BY_CHANCE)))

    @property
    def held_up(self) -> float | None:
        """Seconds from the crash to the next thing that was done for it; None where all was done before.

        None, too, where what is next waits for the end of the resize's window.
        """
        if self.crashed_at is None or self.scenario.unasked:
            return None
        after = [at for at, _ in self.seen if at > self.crashed_at]
        return min(after) - self.crashed_at if after else None


@dataclass
class Theatre:
    """A stack whose processes have failpoints, and users of it."""

    stack: Stack
    files: Files
    clients: list[Client]
    watch: Watch
    temporal: TemporalClient
    flavors: list[str]

    async def play(self, cells: Sequence[Cell | Scenario]) -> list[Run]:
        """Run a scenario each, all at once; its process dies at the cell's point, and comes back."""
        runs = [Run(one.scenario, one.point) if isinstance(one, Cell) else Run(one) for one in cells]
        at = [
            Setting(self.clients[number % USERS], self.watch, self.temporal, self.flavors)
            for number in range(len(runs))
        ]
        asks = await asyncio.gather(*(run.scenario.prepare(one) for run, one in zip(runs, at, strict=True)))
        for run, ask, one in zip(runs, asks, at, strict=True):
            await self._refuse(run.scenario, ask.target, one, sum(other.scenario == run.scenario for other in runs))
            if run.point:
                name, point = (run.key, run.point) if run.point[0] != UNASKED else (run.key + UNASKED, run.point[2:])
                (self.files.armed / name).write_text(point)
        await asyncio.gather(*(self._act(*one) for one in zip(runs, at, asks, strict=True)))
        await self._until_quiet(runs)
        await self.stack.sql("DELETE FROM mock_cloud.faults")
        await asyncio.gather(*(one.have("DELETE", f"/volumes/{one.left}") for one in at if one.left))
        self._read(runs)
        for run in runs:
            run.wrong += await self._complaints(run)
        return runs

    async def _refuse(self, scenario: Scenario, target: UUID | None, at: Setting, alike: int) -> None:
        if scenario.is_alone and await self.stack.sql("SELECT FROM mock_cloud.faults"):
            return
        about = None if scenario.is_alone else target
        for verb, modes in scenario.refuses:
            for mode in modes:
                await at.fail(verb, mode, None if mode is modes[-1] else alike if scenario.is_alone else 1, about)

    async def _act(self, run: Run, at: Setting, ask: Ask) -> None:
        try:
            await self._carry_out(run, at, ask)
        except (AssertionError, TimeoutError) as error:  # the others are to be seen to their ends all the same
            run.wrong.append(f"{type(error).__name__} {error}")

    async def _carry_out(self, run: Run, at: Setting, ask: Ask) -> None:
        operation_id, _ = await at.send(ask, run.key)
        run.operations[""] = operation_id
        run.ends.append(await self.watch.ended(operation_id))
        if run.scenario.canceled:
            await self.temporal.get_workflow_handle(f"resize-{at.vm}-{operation_id}").cancel()
        if run.scenario.unasked:
            confirm_id = uuid5(resize_decisions._CONFIRM_NAMESPACE, str(operation_id))
            run.operations[UNASKED] = confirm_id
            run.ends.append(await self.watch.ended(confirm_id))

    async def _until_quiet(self, runs: Sequence[Run]) -> None:
        """Wait until no workflow is open, and what was to crash has, if it will."""
        give_up_at = time.monotonic() + PATIENCE
        while (open := (await self.temporal.count_workflows("ExecutionStatus = 'Running'")).count) or (
            time.monotonic() < give_up_at - PATIENCE + 2 and not all(self._crashed_at(run) for run in runs if run.point)
        ):
            assert time.monotonic() < give_up_at, f"{open} workflows are still open"
            await asyncio.sleep(0.2)

    def _crashed_at(self, run: Run) -> float | None:
        """When the process died that had stood at the run's point, in seconds since the epoch."""
        fired = next(
            (path for name in (run.key, run.key + UNASKED) if (path := self.files.fired / name).exists()), None
        )
        if fired is None:
            return None
        pid, since = fired.read_text(), fired.stat().st_mtime
        return next((float(at) for at, died in self._deaths() if died == pid and float(at) > since - 0.1), None)

    def _read(self, runs: Sequence[Run]) -> None:
        """What the processes have noted."""
        seen: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for line in self.files.trace.read_text().splitlines():
            at, key, what = line.split(" ", 2)
            prefix = f"{UNASKED} " if key.endswith(UNASKED) else ""
            seen[key.removesuffix(UNASKED)].append((float(at), prefix + what))
        accepted: dict[str, list[UUID]] = defaultdict(list)
        for path in self.files.keys.iterdir():
            accepted[path.read_text().removesuffix(UNASKED)].append(UUID(path.name))
        for run in runs:
            run.seen, run.accepted = seen[run.key], accepted[run.key]
            run.crashed_at = self._crashed_at(run)

    def _deaths(self) -> list[list[str]]:
        return (
            [line.split() for line in self.files.deaths.read_text().splitlines()] if self.files.deaths.exists() else []
        )

    @property
    def deaths(self) -> int:
        """How many processes have died."""
        return len(self._deaths())

    async def _complaints(self, run: Run) -> list[str]:
        """What did not come out as it should."""
        executed = Counter(what for _, what in run.seen if EXECUTED in what.split())
        # What was refused and cannot be undone has ended well, unless another crash came before its effect.
        expected = run.scenario.ends if executed or not run.scenario.refuses else "FAILED"
        found = [] if set(run.ends) == {expected} else [f"ended {run.ends}"]
        found += [f"{what} {times} times" for what, times in executed.items() if times > 1]
        rows = await self.stack.sql("SELECT id FROM operations WHERE id = ANY($1)", run.accepted)
        if {row["id"] for row in rows} != set(run.operations.values()):
            found.append(f"operations {rows}, not {run.operations}")
        for prefix, id in run.operations.items():
            found += await self._complaints_of_operation(run, prefix, id)
        return found

    async def _complaints_of_operation(self, run: Run, prefix: str, id: UUID) -> list[str]:
        (row,) = await self.stack.sql(
            "SELECT operations.*, vms.status AS vm_status, vms.task_state FROM operations"
            " LEFT JOIN vms ON vms.id = operations.vm_id WHERE operations.id = $1",
            id,
        )
        if row["status"] != "SUCCEEDED":
            return []
        found = []
        target = TABLE[run.scenario.action].target
        expected = row["previous_status"] if isinstance(target, Previous) else target
        if (
            row["previous_status"]
            and not run.scenario.unasked
            and (row["vm_status"], row["task_state"]) != (expected, None)
        ):
            found.append(f"the VM is {row['vm_status']}, {row['task_state']}")
        calls = [call["step"] for call in await self.stack.sql(CALLS, id)]
        if len(calls) != (wanted := _effects(run.points, prefix)):
            found.append(f"{wanted} effects, but {calls}")
        return found


CALLS: Final = "SELECT step FROM mock_cloud.calls WHERE operation_id = $1"


def _effects(points: list[str], prefix: str) -> int:
    """How many effects with a token there are in what was passed."""
    mine = [point.removeprefix(f"{prefix} ") for point in points if point.startswith(f"{UNASKED} ") is bool(prefix)]
    return sum(len(words := one.split()) == 3 and words[1] in EFFECTS - NO_TOKEN and words[2] == "+" for one in mine)


@asynccontextmanager
async def playing(folder: Path) -> AsyncIterator[Theatre]:
    """A stack with failpoints, from its start to its end."""
    site = Path(__file__).with_name("site")
    points = folder / "failpoints"
    files = Files(points)
    environment = {
        "PYTHONPATH": f"{site}:{ROOT}",
        "FAILPOINTS_FOLDER": str(points),
        "RESIZE_CONFIRM_WINDOW": str(WINDOW),
    }
    stack = Stack.at(folder / "stack", **QUICK, **environment)
    stack.start()
    try:
        async with AsyncExitStack() as users:
            names = [f"crash-{number}" for number in range(USERS)]  # one by one, as passwords take long to hash
            clients = [await users.enter_async_context(log_in(stack.url, name)) for name in names]
            watch = Watch(stack)
            watching = asyncio.create_task(watch.run())
            flavors = await clients[0].flavors()
            yield Theatre(stack, files, clients, watch, await stack.temporal(), flavors)
            watching.cancel()
    finally:
        stack.stop()


@dataclass
class Report:
    """What came of all batches."""

    runs: list[Run] = field(default_factory=list)
    again: int = 0
    deaths: int = 0

    def lines(self) -> list[str]:
        """The figures."""
        crashed = [run for run in self.runs if run.crashed_at]
        waited = sorted((run for run in crashed if run.held_up), key=lambda run: run.held_up or 0)
        held_up, worst = [run.held_up or 0 for run in waited], waited[-1]
        points, actions = {run.point for run in crashed}, {run.scenario.action for run in crashed}
        return [
            f"{len(points)} failpoints x {len(actions)} operations: {len(crashed)} crashes of operations at them",
            f"{self.deaths} processes died; {self.again} runs did not come to their point and were repeated",
            f"from the crash to the operation going on: median {median(held_up):.1f} s, worst {held_up[-1]:.1f} s",
            f"the worst was {worst.scenario.name} at {worst.point}; {len(crashed) - len(waited)} were done already",
        ]


def traced(runs: Sequence[Run]) -> Matrix:
    """The points that each scenario passes when nothing crashes."""
    return {run.scenario.name: run.points for run in runs}


async def complain(theatre: Theatre, runs: Sequence[Run]) -> list[str]:
    """Everything that is wrong when a batch is over."""
    found = [f"{run.scenario.name} @ {run.point}: {wrong}" for run in runs for wrong in run.wrong]
    found += [what for client in theatre.clients for what in client.attempts.unexpected]
    return found + await differences(theatre.stack)
