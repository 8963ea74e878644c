"""Workers and APIs crash at every gap in the path of every operation, which ends as it should all the same, once.

A short slice runs with the tests; FAILPOINTS=all crashes at all of them; FAILPOINTS=record writes down which there are.
"""

import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from domain.lifecycle import TABLE
from domain.messages import Activity
from tests.faults import matrix
from tests.faults.crashes import Report, Theatre, complain, playing, traced
from tests.faults.failpoints import EFFECTS
from tests.faults.matrix import SCENARIOS, Cell, cells

WHICH = os.environ.get("FAILPOINTS", "some")
SOME = 24
AT_ONCE = 40
TRIES = 4


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


def batches(wanted: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Those that crash one process at about the same time together; whose faults meet others are by themselves."""
    alone = {cell.scenario.name if cell.scenario.is_alone else "" for cell in wanted}
    for name in sorted(alone):
        mine = [cell for cell in wanted if (cell.scenario.name if cell.scenario.is_alone else "") == name]
        mine.sort(key=lambda cell: (not cell.in_api, cell.at))
        yield from (mine[start : start + AT_ONCE] for start in range(0, len(mine), AT_ONCE))


async def test_crashes_at_some_points(theatre: Theatre) -> None:
    if WHICH != "some":
        return
    every = [cell for cell in cells(matrix.recorded()) if not cell.scenario.is_alone]
    await crash(theatre, every[:: len(every) // SOME])


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
    assert {name: set(points) for name, points in seen.items()} == {
        name: set(points) for name, points in matrix.recorded().items()
    }
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
