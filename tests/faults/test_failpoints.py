"""Workers and APIs crash at every failpoint of every operation; each operation still has its specified end, once.

`make slices` runs a slice. FAILPOINTS=all crashes at every point; FAILPOINTS=record writes the list of points.
"""

import ast
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from domain.rules.messages import Activity
from domain.rules.table import TABLE
from tests.faults import crashes, matrix
from tests.faults.crashes import ROOT, CrashStack, Report
from tests.faults.failpoints import AUTO_CONFIRM, EFFECTS
from tests.faults.matrix import SCENARIOS, Cell, cells
from tests.faults.setups import delete_with_stuck_workflow

MODE = os.environ.get("FAILPOINTS", "some")
SLICE = 12  # crashes of the short slice
CONCURRENT = 60
TRIES = 4
# These steps share the activity of another one, whose name their failpoints have. They have one of their own only in an
# operation that began with an older worker, and if a cloud has a build repeated, which the mock cloud never does.
NOT_ALONE = {Activity.CREATE_PORTS, Activity.SPAWN_SERVER, Activity.RESIZE_SERVER, Activity.FINISH_RESIZE}
pytestmark = pytest.mark.timeout(600 if MODE == "some" else 3600)


@pytest.fixture(scope="module")
async def crash_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CrashStack]:
    """One stack for all crashes."""
    async with crashes.running(tmp_path_factory.mktemp("failpoints")) as crash_stack:
        yield crash_stack


def test_every_action_has_a_scenario_with_and_one_without_refusal() -> None:
    assert {scenario.action for scenario in SCENARIOS if not scenario.refuses} == set(TABLE)
    assert {scenario.action for scenario in SCENARIOS if scenario.refuses} == set(TABLE)
    assert set(matrix.recorded()) == set(matrix.BY_NAME)


def test_every_activity_has_failpoints() -> None:
    names = {first_word(point) for points in matrix.recorded().values() for point in points}
    assert set(Activity) - names == NOT_ALONE


def test_every_effect_has_failpoints() -> None:
    words = {word for points in matrix.recorded().values() for point in points for word in point.split()[1:]}
    assert EFFECTS - words == set()


def first_word(point: str) -> str:
    return point.removeprefix(f"{AUTO_CONFIRM} ").split()[0]


def workflow_classes() -> Iterator[ast.ClassDef]:
    for path in sorted((ROOT / "workflows").glob("*.py")):
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))


def test_every_activity_of_every_workflow_has_failpoints() -> None:
    recorded, workflows = matrix.recorded(), {rule.workflow for rule in TABLE.values()}
    for definition in workflow_classes():
        named = {node.attr for node in ast.walk(definition) if isinstance(node, ast.Attribute) and is_activity(node)}
        # A class that is no workflow of the table is a part of several: any scenario may pass its activities.
        is_shared = definition.name not in workflows
        own = [scenario for scenario in SCENARIOS if is_shared or TABLE[scenario.action].workflow == definition.name]
        passed = {first_word(point) for scenario in own for point in recorded[scenario.name]}
        assert {Activity[name] for name in named} - passed <= NOT_ALONE, definition.name


def is_activity(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == Activity.__name__ and node.attr in Activity.__members__


def batches(wanted: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Crashes that run at once: those whose processes die at about the same time are next to each other."""
    for group in sorted({group_of(cell) for cell in wanted}):
        members = [cell for cell in wanted if group_of(cell) == group]
        members.sort(key=lambda cell: (not cell.in_api, cell.position))
        yield from (members[start : start + CONCURRENT] for start in range(0, len(members), CONCURRENT))


def group_of(cell: Cell) -> str:
    """The group within which a crash may be batched; most crashes are in the group ''."""
    scenario = cell.scenario
    # If another crash comes between a delivery and its note, the delivery is not noted later, and the cell misses its
    # point. So it is batched only with crashes at the same point.
    if cell.point.startswith("note_delivered") and not scenario.must_run_alone:
        return cell.point
    is_slow = scenario.auto_confirm or scenario.prepare is delete_with_stuck_workflow
    return scenario.name if scenario.must_run_alone or is_slow else ""


async def test_crashes_at_some_points(crash_stack: CrashStack) -> None:
    if MODE != "some":
        return
    quick = [cell for cell in cells(matrix.recorded()) if not group_of(cell)]
    await crash(crash_stack, quick[:: len(quick) // SLICE])


async def test_crashes_at_every_point(crash_stack: CrashStack) -> None:
    if MODE == "some":
        return
    together = [scenario for scenario in SCENARIOS if not scenario.must_run_alone]
    alone = [[scenario] for scenario in SCENARIOS if scenario.must_run_alone]
    passed: matrix.Matrix = {}
    for scenarios in [together, *alone]:
        runs = await crash_stack.run(scenarios)
        assert await crashes.errors_of(crash_stack, runs) == []
        passed |= crashes.matrix_of(runs)
    if MODE == "record":
        matrix.write(passed)
    recorded = matrix.recorded()
    differing = {name: sorted(set(passed[name]) ^ set(recorded[name])) for name in passed}
    assert differing == {name: [] for name in recorded}
    if MODE == "all":
        await crash(crash_stack, cells(matrix.recorded()))


async def crash(crash_stack: CrashStack, wanted: Sequence[Cell]) -> None:
    """Crash at all wanted points; a run that did not reach its point, because of other crashes, is repeated."""
    report, errors = Report(), []
    remaining = list(wanted)
    for _ in range(TRIES):
        missed: list[Cell] = []
        for batch in batches(remaining):
            started_at = time.monotonic()
            runs = await crash_stack.run(batch)
            errors += await crashes.errors_of(crash_stack, runs)
            report.runs += runs
            missed += [cell for cell, run in zip(batch, runs, strict=True) if run.crashed_at is None]
            print(f"{len(batch)} at once: {time.monotonic() - started_at:.1f} s, {len(missed)} missed")  # noqa: T201
        remaining = missed
        report.repeated += len(missed)
    report.deaths = crash_stack.deaths
    print("\n".join(report.lines()))  # noqa: T201 - the figures
    assert errors == [], "\n".join(errors)
    assert remaining == []
