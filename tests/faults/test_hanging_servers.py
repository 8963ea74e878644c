"""Processes that are told to stop while PostgreSQL or Temporal hangs; and what they log about servers that go away."""

import asyncio
import operator
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.stack import Stack
from tests.support.users import User, log_in
from tests.support.waiting import poll

# `make up` kills the API 5 s after it told it to stop, and a worker 8 s after that. Slow machines get some more here.
LONGEST_STOP = {"api": 8.0, "worker": 11.0}
LINE = re.compile(r"[\d-]{10}T[\d:]{8}\.\d{3}Z [A-Z]+ \S+ .* request_id=\S+ operation_id=\S+ user=\S+")


@contextmanager
def frozen(stack: Stack, parts: tuple[str, ...]) -> Iterator[None]:
    """Freeze servers: they keep their connections, accept new ones and answer nothing."""
    servers = [pid for part in parts for pid in stack.pids(part)]
    # PostgreSQL has a process for each connection. Frozen first, the main process starts no more of them.
    _signal(servers, signal.SIGSTOP)
    backends = [int(child) for pid in servers for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    _signal(backends, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal([*backends, *servers], signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def has_ended(pid: int) -> bool:
    """Whether the process has ended; the frozen supervisor has not collected it yet."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


async def stop(stack: Stack, part: str) -> float:
    """Tell a part to stop; returns the seconds that it took."""
    [pid] = stack.pids(part)
    started_at = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    while not has_ended(pid):
        await asyncio.sleep(0.05)
        assert time.monotonic() < started_at + 60
    return time.monotonic() - started_at


class NewLines:
    """What a part of the stack has logged since now."""

    def __init__(self, stack: Stack, part: str) -> None:
        self._file = stack.data_dir / "logs" / f"{part}.log"
        self._before = self._file.stat().st_size

    async def read(self) -> str:
        """The text of the lines."""
        return (await asyncio.to_thread(self._file.read_bytes))[self._before :].decode()


async def in_flight(user: User) -> httpx.Response:
    """The answer to a request that is in flight while the API stops."""
    return await user.http.get("/vms", timeout=60)


@pytest.mark.parametrize("parts", [("postgres",), ("temporal",), ("postgres", "temporal")], ids="+".join)
async def test_api_and_worker_stop_in_time_while_a_server_hangs(stack: Stack, parts: tuple[str, ...]) -> None:
    async with log_in(stack) as user:
        await asyncio.gather(*(user.http.get("/vms") for _ in range(20)))  # so that the pool has many connections
        vms = [(await user.create(f"web-{number}"))["id"] for number in range(5)]
        with stack.without_restarts():
            with frozen(stack, parts):
                await asyncio.sleep(0.5)
                waiting = asyncio.gather(*(in_flight(user) for _ in range(5)))
                await asyncio.sleep(0.5)
                took = await asyncio.gather(*(stop(stack, part) for part in LONGEST_STOP))
                answers = await waiting
            assert all(map(operator.lt, took, LONGEST_STOP.values())), took
        for answer in answers:
            if "postgres" in parts:
                assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert (answer.headers["Retry-After"], answer.headers["Connection"]) == ("1", "close")
            else:
                assert answer.status_code == 200
        for vm in vms:
            await user.until(vm, "ACTIVE")


async def test_an_outage_is_one_line_in_the_log_of_the_worker(stack: Stack) -> None:
    worker_log, api_log = NewLines(stack, "worker"), NewLines(stack, "api")
    async with log_in(stack) as user:
        vms = [(await user.create(f"web-{number}"))["id"] for number in range(10)]
        await stack.sql("ALTER SYSTEM SET default_transaction_read_only = on")
        await stack.sql("SELECT pg_reload_conf()")
        await asyncio.sleep(8)
        await stack.sql("ALTER SYSTEM RESET default_transaction_read_only")
        await stack.sql("SELECT pg_reload_conf()")
        for vm in vms:
            await user.until(vm, "ACTIVE")
        await poll(worker_log.read, lambda text: "PostgreSQL is available again" in text)
        stack.kill("temporal")
        vm = await user.create("after", **{"X-Request-Id": "the-last"})
        await user.until(vm["id"], "ACTIVE")
    lines = (await worker_log.read()).splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert sum("PostgreSQL is unavailable" in line for line in lines) == 1
    api_lines = (await api_log.read()).splitlines()
    assert [line for line in api_lines if not LINE.fullmatch(line)] == []
    [created] = [line for line in api_lines if "POST /api/v1/vms 202" in line and "request_id=the-last" in line]
    assert re.search(r" operation_id=[0-9a-f-]{36} user=user-[0-9a-f]+$", created)
