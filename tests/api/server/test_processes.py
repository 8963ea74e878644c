"""Several API processes on one port."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import local
from tests.api.server.conftest import HOST, Client
from tests.support.stack import free_ports
from tests.support.waiting import DEADLINE, block_until

LIVE = b"GET /api/v1/health/live HTTP/1.1\r\n" + HOST + b"\r\n"
SETTINGS = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "TEMPORAL_ADDRESS": "127.0.0.1:1"}
PROCESSES = 2
Process = asyncio.subprocess.Process


async def start(port: int, **environment: str) -> Process:
    """Start `python -m api` with several processes, from a process that ignores the ends of its children."""
    settings = SETTINGS | {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "API_PROCESSES": str(PROCESSES),
        "API_PORT": str(port),
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api"),
        cwd=local.ROOT,
        env=os.environ | settings | environment,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGCHLD, signal.SIG_IGN),
    )


@asynccontextmanager
async def api() -> AsyncIterator[tuple[Process, int]]:
    """Several API processes that serve, with their port; killed at the end if the first still runs."""
    [port] = free_ports(1)
    first = await start(port)
    try:
        assert first.stderr
        async with asyncio.timeout(DEADLINE):
            for _ in range(PROCESSES):
                while b"startup complete" not in (line := await first.stderr.readline()):
                    assert line
        yield first, port
    finally:
        if first.returncode is None:
            first.kill()
            await first.wait()


def children_of(process: Process) -> set[int]:
    """The processes that serve."""
    return set(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def are_gone(pids: set[int]) -> bool:
    """Whether none of the processes runs."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def open_sockets(pid: int) -> int:
    """The number of sockets that a process has open."""
    links = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(file.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile
    return sum(str(link).startswith("socket:") for link in links)


async def is_served(port: int) -> bool:
    """Whether a new connection is answered."""
    client = await asyncio.to_thread(Client, port)
    answer = await asyncio.to_thread(client.ask, LIVE)
    client.close()
    return answer.status == 200


async def test_each_process_gets_connections_a_killed_one_gets_a_successor_and_a_signal_ends_all() -> None:
    async with api() as (first, port):
        pids = children_of(first)
        assert len(pids) == PROCESSES
        before = {pid: open_sockets(pid) for pid in pids}
        clients = [await asyncio.to_thread(Client, port) for _ in range(40)]
        for client in clients:
            assert (await asyncio.to_thread(client.ask, LIVE)).status == 200
        assert all(open_sockets(pid) > before[pid] for pid in pids)
        for client in clients:
            client.close()

        victim, *others = pids
        os.kill(victim, signal.SIGKILL)
        assert all(await asyncio.gather(*(is_served(port) for _ in range(20)))), "nobody is refused meanwhile"
        await asyncio.to_thread(block_until, lambda: len(children_of(first)) == PROCESSES)
        assert set(others) < children_of(first)
        assert victim not in children_of(first)

        pids = children_of(first)
        first.terminate()
        assert await asyncio.wait_for(first.wait(), DEADLINE) == 0
        assert are_gone(pids)


async def test_no_process_outlives_the_first_one() -> None:
    async with api() as (first, port):
        pids = children_of(first)
        os.kill(min(pids), signal.SIGSTOP)  # it would keep the port for ever
        first.kill()
        await first.wait()
        await asyncio.to_thread(block_until, lambda: are_gone(pids))
        socket.create_server(("127.0.0.1", port)).close()


async def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        first = await start(port)
        _, log = await asyncio.wait_for(first.communicate(), DEADLINE)
    assert first.returncode == 1
    assert log.decode().splitlines() == [f"Port {port} on 127.0.0.1 cannot be used: Address already in use"]


async def test_processes_that_are_told_to_stop_while_they_start_end_together() -> None:
    [port] = free_ports(1)
    first = await start(port)
    await asyncio.to_thread(block_until, lambda: first.returncode is not None or len(children_of(first)) == PROCESSES)
    first.send_signal(signal.SIGINT)
    await asyncio.wait_for(first.communicate(), DEADLINE)
    assert first.returncode == 0
    socket.create_server(("127.0.0.1", port)).close()
