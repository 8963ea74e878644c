"""Workers and APIs crash at every gap in the path of every operation, which ends as it should all the same, once.

A short slice runs with the tests; FAILPOINTS=all crashes at all of them; FAILPOINTS=record writes down which there are.
"""

import ast
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from domain.rules.messages import Activity
from domain.rules.table import TABLE
from tests.faults import matrix
from tests.faults.crashes import ROOT, Report, Theatre, complain, playing, traced
from tests.faults.failpoints import EFFECTS
from tests.faults.matrix import SCENARIOS, Cell, cells
from tests.faults.scenes import delete_while_stuck

WHICH = os.environ.get("FAILPOINTS", "some")
SOME = 12
AT_ONCE = 60
TRIES = 4
pytestmark = pytest.mark.timeout(600 if WHICH == "some" else 3600)


@pytest.fixture(scope="module")
async def theatre(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Theatre]:
    """One stack for all crashes."""
    async with playing(tmp_path_factory.mktemp("failpoints")) as theatre:
        yield theatre


def test_every_operation_has_failpoints() -> None:
    assert {scenario.action for scenario in SCENARIOS if not scenario.refuses} == set(TABLE)
    assert {scenario.action for scenario in SCENARIOS if scenario.refuses} == set(TABLE)
    assert set(matrix.recorded()) == set(matrix.BY_NAME)


def test_every_activity_has_failpoints() -> None:
    words = {point.removeprefix("+ ").split()[0] for points in matrix.recorded().values() for point in points}
    assert set(Activity) - words == set()


def test_every_effect_has_failpoints() -> None:
    words = {word for points in matrix.recorded().values() for point in points for word in point.split()[1:]}
    assert EFFECTS - words == set()


def workflow_classes() -> Iterator[ast.ClassDef]:
    """Every class that tells a story."""
    for path in sorted((ROOT / "workflows").glob("*.py")):
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))


def test_every_activity_of_every_workflow_has_failpoints() -> None:
    recorded, workflows = matrix.recorded(), {rule.workflow for rule in TABLE.values()}
    for told in workflow_classes():
        named = {node.attr for node in ast.walk(told) if isinstance(node, ast.Attribute) and _is_activity(node)}
        of = [one for one in SCENARIOS if TABLE[one.action].workflow == told.name or told.name not in workflows]
        passed = {point.removeprefix("+ ").split()[0] for one in of for point in recorded[one.name]}
        assert {Activity[name] for name in named} - passed == set(), told.name


def _is_activity(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == Activity.__name__ and node.attr in Activity.__members__


def batches(wanted: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Those that crash one process at about the same time together; what is slow, or has faults for all, is apart."""
    for name in sorted({_kept_apart(cell) for cell in wanted}):
        mine = [cell for cell in wanted if _kept_apart(cell) == name]
        mine.sort(key=lambda cell: (not cell.in_api, cell.at))
        yield from (mine[start : start + AT_ONCE] for start in range(0, len(mine), AT_ONCE))


def _kept_apart(cell: Cell) -> str:
    """What the cell may only be together with; a delivery that was heeded but not noted is not noted later, either."""
    scenario = cell.scenario
    if cell.point.startswith("note_delivered") and not scenario.is_alone:
        return cell.point
    is_slow = scenario.unasked or scenario.prepare is delete_while_stuck
    return scenario.name if scenario.is_alone or is_slow else ""


async def test_crashes_at_some_points(theatre: Theatre) -> None:
    if WHICH != "some":
        return
    quick = [one for one in cells(matrix.recorded()) if not _kept_apart(one)]
    await crash(theatre, quick[:: len(quick) // SOME])


async def test_crashes_at_every_point(theatre: Theatre) -> None:
    if WHICH == "some":
        return
    together = [one for one in SCENARIOS if not one.is_alone]
    seen: matrix.Matrix = {}
    for scenarios in [together, *([one] for one in SCENARIOS if one.is_alone)]:
        runs = await theatre.play(scenarios)
        assert await complain(theatre, runs) == []
        seen |= traced(runs)
    if WHICH == "record":
        matrix.write(seen)
    recorded = matrix.recorded()
    assert {name: sorted(set(seen[name]) ^ set(recorded[name])) for name in seen} == {name: [] for name in recorded}
    if WHICH == "all":
        await crash(theatre, cells(matrix.recorded()))


async def crash(theatre: Theatre, wanted: Sequence[Cell]) -> None:
    """Crash at all points that are wanted, if need be at the second try, as other crashes may come in between."""
    report, wrong = Report(), []
    left = list(wanted)
    for _ in range(TRIES):
        missed: list[Cell] = []
        for batch in batches(left):
            began = time.monotonic()
            runs = await theatre.play(batch)
            wrong += await complain(theatre, runs)
            report.runs += runs
            missed += [cell for cell, run in zip(batch, runs, strict=True) if run.crashed_at is None]
            print(f"{len(batch)} at once: {time.monotonic() - began:.1f} s, {len(missed)} missed")  # noqa: T201
        left = missed
        report.again += len(missed)
    report.deaths = theatre.deaths
    print("\n".join(report.lines()))  # noqa: T201 - the figures
    assert wrong == [], "\n".join(wrong)
    assert left == []
