"""What a stack uses and holds, as Linux, Temporal and the logs tell it, and tables of it; `part` is one of PARTS."""

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
# What an open workflow has in Temporal's database, besides what it is found by.
TABLES = ("executions", "history_node", "activity_info_maps", "timer_info_maps", "timer_tasks", "visibility_tasks")
COLOUR, NUMBER = re.compile(r"\x1b\[[0-9;]*m"), re.compile(r"\b[0-9a-f-]*[0-9][0-9a-f-]*\b")
COMPLAINT = re.compile(r"\b(?:WARN|ERROR|Traceback).*")


def cpu(stack: Stack, part: str) -> float:
    """Seconds of processor time of a part and its children, among them those that have ended."""
    ticks = 0
    for pid in stack.pids(part):
        ticks += _ticks(pid, slice(11, 15)) + sum(_ticks(child, slice(11, 13)) for child in _children(pid))
    return ticks / TICKS


def memory(stack: Stack, part: str, field: str = "Pss") -> float:
    """MB of a part and its children; Pss counts once what they share, VmHWM is the most that each has had."""
    file = "smaps_rollup" if field == "Pss" else "status"
    found = [
        number
        for pid in stack.pids(part)
        for process in [pid, *_children(pid)]
        for number in re.findall(rf"^{field}:\s+(\d+)", _read(process, file), re.MULTILINE)
    ]
    return sum(map(int, found)) / 1024


def temporal_calls(stack: Stack) -> dict[str, float]:
    """How often each call has been made to the Temporal server in our namespace."""
    lines = httpx.get(_metrics_url(stack.pids("temporal")[0])).text.splitlines()
    return {found[1]: float(found[2]) for line in lines if (found := CALLS.match(line))}


def temporal_timeouts(stack: Stack) -> dict[str, float]:
    """How often Temporal gave up waiting for a worker, by what it waited for, a heartbeat for one."""
    timeouts: Counter[str] = Counter()
    for name, times in TIMEOUTS.findall(httpx.get(_metrics_url(stack.pids("temporal")[0])).text):
        timeouts[name] += int(float(times))
    return dict(timeouts)


def temporal_file(stack: Stack) -> dict[str, float]:
    """Size of Temporal's database, the rows that an open workflow has there, and the size of all histories."""
    files = [stack.data_dir / name for name in ("temporal.db", "temporal.db-wal")]
    held = {f"{file.name}, MB": file.stat().st_size / MB for file in files}
    with closing(sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True)) as connection:
        for table in TABLES:
            [rows] = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
            held[f"rows of temporal.db {table}"] = rows
        [size] = connection.execute("SELECT sum(length(data)) FROM history_node").fetchone()
    return held | {"histories in temporal.db, MB": size / MB}


def complaints(stack: Stack) -> Sequence[tuple[str, int]]:
    """What the processes have warned of most, and how often; colours, ids and numbers are left out."""
    logs = {
        log.stem: COLOUR.sub("", log.read_text(errors="replace")) for log in (stack.data_dir / "logs").glob("*.log")
    }
    found = [f"{name}: {NUMBER.sub('#', line)[:200]}" for name, log in logs.items() for line in COMPLAINT.findall(log)]
    return Counter(found).most_common(10)


def difference(before: Figures, after: Figures) -> Figures:
    """By how much each figure has grown."""
    return {name: value - before.get(name, 0) for name, value in after.items()}


def table(*columns: str, rows: Iterable[Sequence[object]]) -> None:
    """Print a table; numbers with as many digits as tell something."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(_readable(cell) for cell in row)} |", flush=True)


def _readable(cell: object) -> str:
    if not isinstance(cell, float) or cell.is_integer():
        return f"{cell:,.0f}" if isinstance(cell, int | float) else str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"  # noqa: PLR2004


def compare(what: str, count: int, before: Figures, after: Figures, now: str = "waiting") -> None:
    """Print two sets of figures beside each other, and what each resize adds; no 0s, no rows that stay as they are."""
    both = {name: (before.get(name, 0), after.get(name, 0)) for name in {**before, **after}}
    told = {name: pair for name, pair in both.items() if any(pair) and not (len(set(pair)) == 1 and "rows of" in name)}
    rows = [(name, was, now, (now - was) / count) for name, (was, now) in told.items()]
    table(what, "0 waiting", f"{count} {now}", "each", rows=rows)


def on_a_stack(settings: Mapping[str, str], measure: Callable[[Stack], Coroutine[Any, Any, list[str]]]) -> NoReturn:
    """Measure a stack of its own in a temporary folder; `measure` returns what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack.at(Path(folder), **settings)
        stack.start()
        try:
            wrong = asyncio.run(measure(stack))
            table("in the logs", "times", rows=complaints(stack))
        finally:
            stack.stop()
    end(wrong)


def end(wrong: Sequence[str]) -> NoReturn:
    """Say what was wrong, last, and by the exit code."""
    print("\n" + "\n".join(wrong or ["Nothing was wrong."]), flush=True)
    os._exit(bool(wrong))  # the Temporal client may crash an interpreter that shuts down


@cache
def _metrics_url(pid: int) -> str:
    """One of the ports that the server listens on, chosen by itself, shows its metrics."""
    inodes = {str(file.readlink()).strip("socket:[]") for file in Path(f"/proc/{pid}/fd").iterdir()}
    sockets = [line.split() for line in _read(pid, "net/tcp").splitlines()[1:]]
    for port in [int(one[1].split(":")[1], 16) for one in sockets if one[3] == "0A" and one[9] in inodes]:
        url = f"http://127.0.0.1:{port}/metrics"
        try:
            if "service_requests{" in httpx.get(url, timeout=2).text:
                return url
        except httpx.TransportError:
            continue
    raise LookupError("the Temporal server shows no metrics")


def _ticks(pid: int, fields: slice) -> int:
    return sum(map(int, _read(pid, "stat").rpartition(")")[2].split()[fields]))


def _children(pid: int) -> list[int]:
    return [int(child) for child in _read(pid, f"task/{pid}/children").split()]


def _read(pid: int, file: str) -> str:
    """A file of a process; nothing of one that has just ended."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
