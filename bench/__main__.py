"""The whole report: `make bench`, or `python -m bench [ROUNDS]`. It takes a quarter of an hour and needs wrk.

Measures requests (`bench.http`, `bench.two_processes`), operations (`bench.operations`) and what a script sends for an
operation (`bench.fleet`), each beside its floor. Writes bench/report.json, two plots in docs/, and the tables between
the marks in docs/performance.md.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench import fleet, plots, two_processes
from bench.http import (
    API,
    COLUMNS,
    HAND_WRITTEN,
    NAMES,
    ROUNDS,
    ROWS,
    Ratio,
    Rounds,
    by_cpu,
    by_rate,
    lines,
    rounds,
    site,
)
from bench.load import need_wrk
from bench.processes import ROOT
from tests.support.stack import QUICK_CLOUD, Stack

REPORT, DOCUMENT = ROOT / "bench" / "report.json", ROOT / "docs" / "performance.md"
CPU_PLOT, RATIO_PLOT = ROOT / "docs" / "bench-cpu.svg", ROOT / "docs" / "bench-ratios.svg"
BEGIN, END = "<!-- make bench writes this -->\n", "<!-- make bench has written this -->"
TARGETS = {"get": 0.6, "list": 0.5, "post": 0.6, "post-one": 0.6}
OPERATION_TARGETS = {"build": 0.8, "stop": 0.85}
FROM_SECOND = 1.6
OPERATIONS, OPERATION_ROUNDS = "100", "3"
PARTS = ("server and framework", "token", "driver and handler", "ours", "PostgreSQL")


def operations() -> dict[str, Any]:
    """The figures of `bench.operations` by kind of operation."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "bench.operations", OPERATIONS, OPERATION_ROUNDS]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"BENCH_JSON": file.name}, check=True)
        found: dict[str, Any] = json.loads(Path(file.name).read_text())
    return found


def script() -> dict[str, int]:
    """How many requests the script of `bench.fleet` sends, and for how many operations."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack.at(Path(folder), **QUICK_CLOUD)
        stack.start()
        try:
            sent, _ = fleet.count(stack.url.removesuffix("/api/v1"))
            [[number]] = asyncio.run(stack.sql("SELECT count(*) FROM operations"))
        finally:
            stack.stop()
    return {"operations": number, **sent}


def targets(
    found: Mapping[str, Rounds], second: Mapping[str, Mapping[str, Ratio]], kinds: Mapping[str, Any]
) -> Iterator[tuple[str, Ratio, float]]:
    """What should be reached: its name, what was measured, and the target."""
    for name, each in found.items():
        yield f"{NAMES[name]}: rate", by_rate(each, HAND_WRITTEN), TARGETS[name]
        yield f"{NAMES[name]}: CPU", by_cpu(each, HAND_WRITTEN), TARGETS[name]
    for name, ratios in second.items():
        yield f"{NAMES[name]}: two processes", ratios[API], FROM_SECOND
    for name, target in OPERATION_TARGETS.items():
        pairs = zip(kinds[name]["ours"], kinds[name]["bare"], strict=True)
        yield f"{name}: rate", Ratio.of([ours["rate"] / bare["rate"] for ours, bare in pairs]), target


def costs(found: Mapping[str, Rounds]) -> Iterator[tuple[str, list[float]]]:
    """For each kind of request, by the floor and by the API: microseconds of processor time by what they are for."""
    for name, each in found.items():
        spent = {level: 1000 * median(one.service for one in measured) for level, measured in each.items()}
        framework, token = spent["constant"], max(0.0, spent["token"] - spent["constant"])
        handler = max(0.0, spent[HAND_WRITTEN] - spent["token"])
        for level in (HAND_WRITTEN, API):
            ours = max(0.0, spent[level] - spent[HAND_WRITTEN])
            postgres = 1000 * median(one.postgres for one in each[level])
            yield f"{NAMES[name]}: {level}", [framework, token, handler, ours, postgres]


def per_operation(kinds: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """The processor time of each process for an operation and for its floor, in milliseconds."""
    for name, kind in kinds.items():
        for who, label in (("ours", name), ("bare", f"its floor, {kind['activities']} activities")):
            samples = kind[who]
            parts = {part: median(one["cpu_ms"][part] for one in samples) for part in samples[0]["cpu_ms"]}
            cpu = ", ".join(f"{part} {value:.1f}" for part, value in parts.items())
            events = f"{sum(kind['events'].values()):.0f}" if who == "ours" else ""
            yield label, f"{median(one['rate'] for one in samples):.1f}", f"{sum(parts.values()):.0f}", cpu, events


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    return "\n".join([head, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""])


def write(
    found: Mapping[str, Rounds],
    second: Mapping[str, Mapping[str, Ratio]],
    kinds: Mapping[str, Any],
    sent: Mapping[str, int],
) -> None:
    """Write the report, the plots and the tables."""
    reached = list(targets(found, second, kinds))
    raw = {name: {level: [asdict(one) for one in each] for level, each in some.items()} for name, some in found.items()}
    two = {name: {who: asdict(ratio) for who, ratio in ratios.items()} for name, ratios in second.items()}
    number = len(found["get"][API])
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    report = {"date": when, "cores": os.cpu_count(), "requests": raw, "two processes": two, "operations": kinds}
    REPORT.write_text(json.dumps(report | {"script": sent}, indent=1) + "\n")
    plots.stacked(CPU_PLOT, "Processor time of a request, microseconds", PARTS, dict(costs(found)), "µs")
    bars = {name: (ratio.median, ratio.least, ratio.greatest, target) for name, ratio, target in reached}
    plots.against_targets(RATIO_PLOT, "The API by its floor", bars)
    verdicts = [(name, ratio, target, "yes" if ratio.median >= target else "no") for name, ratio, target in reached]
    asked = sum(sent.values()) - sent["operations"]
    per_script = f"The script of `bench.fleet` sends {asked} requests for {sent['operations']} operations.\n"
    parts = [
        f"`make bench`, {when}, rounds: {number}, cores: {os.cpu_count()}, load: {os.getloadavg()[0]:.0f}.\n",
        table(("compared with its floor", "median (least-greatest)", "target", "reached"), verdicts),
        table(COLUMNS, (line for name, each in found.items() for line in lines(name, each))),
        table(("operation", "each second", "CPU, ms", "of it", "events"), per_operation(kinds)),
        per_script,
        f"![Processor time of a request]({CPU_PLOT.name})\n\n![Ratios and targets]({RATIO_PLOT.name})\n",
    ]
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + "\n" + "\n".join(parts) + "\n" + END + rest.partition(END)[2])


def main() -> None:
    """Measure everything and write it down."""
    need_wrk()
    number = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with site() as running:
        found = {name: rounds(levels(running), running.postgres, number) for name, levels in ROWS.items()}
        second = two_processes.measure(running, number)
    write(found, second, operations(), script())


if __name__ == "__main__":
    main()
