"""Measures the resources that a stack uses, from Linux, Temporal and the logs, and prints them as tables.

A `part` is one of PARTS.
"""

import asyncio
import os
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import httpx

from tests.support.stack import Stack

Figures = Mapping[str, float]

PARTS = ("api", "worker", "temporal", "postgres")
MB = 1024 * 1024
TICKS = os.sysconf("SC_CLK_TCK")
CALLS = re.compile(r'^service_requests\{namespace="default",operation="(\w+)",service_name="frontend"\} (\S+)$')
TIMEOUTS = re.compile(r"^((?:heartbeat|start_to_close|schedule_to_start)_timeout)\{.*\} (\S+)$", re.MULTILINE)
# The tables in which an open workflow has rows, except those of the search.
TABLES = ("executions", "history_node", "activity_info_maps", "timer_info_maps", "timer_tasks", "visibility_tasks")
COLOUR, NUMBER = re.compile(r"\x1b\[[0-9;]*m"), re.compile(r"\b[0-9a-f-]*[0-9][0-9a-f-]*\b")
COMPLAINT = re.compile(r"\b(?:WARN|ERROR|Traceback).*")


def cpu(stack: Stack, part: str) -> float:
    """Seconds of processor time of a part and its children, including those that have ended."""
    return sum(map(cpu_of, stack.pids(part)))


def cpu_of(pid: int) -> float:
    """Seconds of processor time of a process and its children, including those that have ended."""
    return (_ticks(pid, slice(11, 15)) + sum(_ticks(child, slice(11, 13)) for child in _children(pid))) / TICKS


def memory(stack: Stack, part: str, field: str = "Pss") -> float:
    """MB of memory of a part and its children; Pss counts shared memory once, VmHWM is the maximum of each process."""
    file = "smaps_rollup" if field == "Pss" else "status"
    found = [
        number
        for pid in stack.pids(part)
        for process in [pid, *_children(pid)]
        for number in re.findall(rf"^{field}:\s+(\d+)", _read(process, file), re.MULTILINE)
    ]
    return sum(map(int, found)) / 1024


def temporal_calls(stack: Stack) -> dict[str, float]:
    """The number of calls to the Temporal server, by method, in our namespace."""
    lines = httpx.get(_metrics_url(stack.pids("temporal")[0])).text.splitlines()
    return {found[1]: float(found[2]) for line in lines if (found := CALLS.match(line))}


def temporal_timeouts(stack: Stack) -> dict[str, float]:
    """The number of timeouts of activities in Temporal, by kind, for example heartbeat_timeout."""
    timeouts: Counter[str] = Counter()
    for name, times in TIMEOUTS.findall(httpx.get(_metrics_url(stack.pids("temporal")[0])).text):
        timeouts[name] += int(float(times))
    return dict(timeouts)


def temporal_file(stack: Stack) -> dict[str, float]:
    """The size of Temporal's database and of all histories, and the rows of open workflows."""
    files = [stack.data_dir / name for name in ("temporal.db", "temporal.db-wal")]
    figures = {f"{file.name}, MB": file.stat().st_size / MB for file in files}
    with closing(sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True)) as connection:
        for table in TABLES:
            [rows] = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
            figures[f"rows of temporal.db {table}"] = rows
        [size] = connection.execute("SELECT sum(length(data)) FROM history_node").fetchone()
    return figures | {"histories in temporal.db, MB": size / MB}


def log_complaints(stack: Stack) -> Sequence[tuple[str, int]]:
    """The most frequent warnings and errors in the logs with their counts, without colours, ids and numbers."""
    logs = {
        log.stem: COLOUR.sub("", log.read_text(errors="replace")) for log in (stack.data_dir / "logs").glob("*.log")
    }
    found = [f"{name}: {NUMBER.sub('#', line)[:200]}" for name, log in logs.items() for line in COMPLAINT.findall(log)]
    return Counter(found).most_common(10)


def difference(before: Figures, after: Figures) -> Figures:
    """The growth of each figure."""
    return {name: value - before.get(name, 0) for name, value in after.items()}


def table(*columns: str, rows: Iterable[Sequence[object]]) -> None:
    """Print a table with numbers of three significant digits."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(_readable(cell) for cell in row)} |", flush=True)


def _readable(cell: object) -> str:
    if not isinstance(cell, float) or cell.is_integer():
        return f"{cell:,.0f}" if isinstance(cell, int | float) else str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"  # noqa: PLR2004


def compare(title: str, count: int, before: Figures, after: Figures, state: str = "waiting") -> None:
    """Print two sets of figures and the difference for each resize; rows that are 0 or do not change are left out."""
    both = {name: (before.get(name, 0), after.get(name, 0)) for name in {**before, **after}}
    shown = {name: pair for name, pair in both.items() if any(pair) and not (len(set(pair)) == 1 and "rows of" in name)}
    rows = [(name, old, new, (new - old) / count) for name, (old, new) in shown.items()]
    table(title, "0 waiting", f"{count} {state}", "each", rows=rows)


def run_on_a_stack(settings: Mapping[str, str], measure: Callable[[Stack], Coroutine[Any, Any, list[str]]]) -> NoReturn:
    """Start a stack in a temporary folder, measure it, and exit; `measure` returns errors."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack.at(Path(folder), **settings)
        stack.start()
        try:
            errors = asyncio.run(measure(stack))
            table("in the logs", "times", rows=log_complaints(stack))
        finally:
            stack.stop()
    exit_with(errors)


def exit_with(errors: Sequence[str]) -> NoReturn:
    """Print the errors and exit, with code 1 if there are any."""
    print("\n" + "\n".join(errors or ["No errors."]), flush=True)
    os._exit(bool(errors))  # the Temporal client may crash an interpreter that shuts down normally


@cache
def _metrics_url(pid: int) -> str:
    """The address of the server's metrics: it chooses the port itself, so each port on which it listens is tried."""
    inodes = {str(file.readlink()).strip("socket:[]") for file in Path(f"/proc/{pid}/fd").iterdir()}
    sockets = [line.split() for line in _read(pid, "net/tcp").splitlines()[1:]]
    # The columns of /proc/net/tcp: 1 is address:port, 3 the state (0A: listening), 9 the inode.
    for port in [int(row[1].split(":")[1], 16) for row in sockets if row[3] == "0A" and row[9] in inodes]:
        url = f"http://127.0.0.1:{port}/metrics"
        try:
            if "service_requests{" in httpx.get(url, timeout=2).text:
                return url
        except httpx.TransportError:
            continue
    raise LookupError("the Temporal server serves no metrics")


def _ticks(pid: int, fields: slice) -> int:
    return sum(map(int, _read(pid, "stat").rpartition(")")[2].split()[fields]))


def _children(pid: int) -> list[int]:
    return [int(child) for child in _read(pid, f"task/{pid}/children").split()]


def _read(pid: int, file: str) -> str:
    """A file of a process in /proc; empty if the process has just ended."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
