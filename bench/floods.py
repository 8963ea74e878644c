"""Floods of an API process by strangers: `python -m bench.floods [CHECKOUT [FLOOD...]]`, by default this one and all.

Starts `python -m api` of the checkout with 1,024 file descriptors and runs each flood against a fresh process: what the
process holds in memory before, at most and five seconds after, and how long GET /health takes meanwhile for a client
from another address, with a new connection for each request. Its database is a port that takes connections and says
nothing; /health asks no database.
"""

import asyncio
import itertools
import multiprocessing
import os
import re
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bench.usage import table
from tests.support.stack import free_ports

SECONDS = 10.0  # of a flood
REST = 5.0
TIMEOUT = 5.0  # of a health check
ATTACKERS, OTHER = [f"127.0.1.{number}" for number in range(64)], "127.0.0.2"
FILES = 1024
GET = b"GET /api/v1/health HTTP/1.1\r\nHost: api\r\n\r\n"
DOCUMENT = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: api\r\n\r\n"
POST = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
LOGIN = POST + b"Content-Length: 60000\r\n\r\n" + b'{"username": "a", "password": "' + b"x" * 59_967 + b'"}'
READY = b"GET /api/v1/health/ready HTTP/1.1\r\nHost: api\r\nX: " + b"y" * 30_000 + b"\r\n\r\n"
LARGE = POST + b"Content-Length: 255000\r\n\r\n" + b" " * 254_000


class Flood(NamedTuple):
    """What each of the clients sends first, and what again and again, with a pause in seconds; none reads anything.

    A client that `leaves` closes its connection at once and makes another one.
    """

    title: str
    clients: int
    first: bytes
    again: bytes
    pause: float = 0.0
    leaves: bool = False


FLOODS: dict[str, Flood] = {
    "pipelined": Flood("pipelined requests, answers unread", 20, b"", GET * 500),
    "documents": Flood("requests for a large answer, unread", 100, b"", DOCUMENT * 20),
    "headers": Flood("endless header lines", 100, GET[:-2], b"X: y\r\n" * 5000),
    "header": Flood("an endless header", 100, GET[:-2] + b"X: ", b"y" * 30_000),
    "url": Flood("an endless URL", 100, b"GET /", b"a" * 30_000),
    "lines": Flood("empty lines", 100, b"", b"\r\n" * 15_000),
    "bodies": Flood("endless bodies", 100, POST + b"Content-Length: 10000000000\r\n\r\n", b" " * 60_000),
    "chunks": Flood("chunks of one byte", 100, POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 5000),
    "extensions": Flood(
        "an endless chunk extension", 100, POST + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 30_000
    ),
    "trailers": Flood("endless trailers", 100, POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 5000),
    "connections": Flood("half-open connections", 2000, b"", b""),
    "heads": Flood("heads without an end", 2000, GET[:-2] + b"X: " + b"y" * 30_000, b""),
    "bytes": Flood("heads whose end comes byte by byte", 1000, GET[:-2] + b"X: " + b"y" * 30_000, b"y", 0.1),
    "unfinished": Flood("bodies without an end", 2000, POST + b"Content-Length: 60000\r\n\r\n" + b" " * 59_000, b""),
    "left": Flood("logins whose clients do not wait for the answer", 16, LOGIN, b"", leaves=True),
    "ready": Flood("questions about a hanging database, whose clients do not wait", 64, READY, b"", leaves=True),
    "large": Flood("large bodies that are never complete, from 64 addresses", 2000, LARGE, b""),
    "idle": Flood("idle connections after a request", 2000, GET, b""),
}


async def client(port: int, address: str, flood: Flood, ends_at: float) -> None:
    """Flood from an address until the end; connect again when the server closes the connection."""
    loop = asyncio.get_running_loop()
    while time.monotonic() < ends_at:
        with socket.socket() as connection, suppress(OSError, TimeoutError):
            connection.settimeout(0)
            connection.bind((address, 0))
            async with asyncio.timeout_at(loop.time() + ends_at - time.monotonic()):
                await loop.sock_connect(connection, ("127.0.0.1", port))
                await loop.sock_sendall(connection, flood.first)
                if flood.leaves:
                    await asyncio.sleep(0.02)
                    continue
                while flood.again:
                    await loop.sock_sendall(connection, flood.again)
                    await asyncio.sleep(flood.pause)
                # A client that sends nothing more connects again when it is closed, but reads at most one answer.
                await loop.sock_recv(connection, 65_536)
                await loop.sock_recv(connection, 65_536)
        await asyncio.sleep(0.5)


def flood(port: int, name: str) -> None:
    """Run all clients of a flood; the main function of a process."""
    kind = FLOODS[name]
    addresses = itertools.cycle(ATTACKERS if name == "large" else ATTACKERS[:1])
    ends_at = time.monotonic() + SECONDS

    async def run() -> None:
        await asyncio.gather(*(client(port, next(addresses), kind, ends_at) for _ in range(kind.clients)))

    asyncio.run(run())


@contextmanager
def api(checkout: Path) -> Iterator[tuple[int, int]]:
    """An API process of a checkout; its process id and port."""
    [port] = free_ports(1)
    silent = socket.create_server(("127.0.0.1", 0), backlog=4096)
    database = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
    environment = {"SECRET_KEY": secrets.token_urlsafe(48), "API_PORT": str(port), "LOG_LEVEL": "ERROR"}
    environment |= {"DATABASE_URL": database, "TEMPORAL_ADDRESS": "127.0.0.1:1"}
    command = f'ulimit -n {FILES} && exec "{sys.executable}" -m api'
    with silent, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(["sh", "-c", command], cwd=checkout, env=os.environ | environment, stderr=log)
        try:
            while health(port) is None:
                time.sleep(0.1)
            yield process.pid, port
        finally:
            process.kill()
            process.wait()


def health(port: int) -> float | None:
    """The seconds that a health check takes over a connection of its own; None if it fails."""
    started_at = time.monotonic()
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), TIMEOUT, (OTHER, 0)) as connection:
        connection.sendall(GET)
        if connection.recv(65_536).startswith(b"HTTP/1.1 200"):
            return time.monotonic() - started_at
    return None


def memory(pid: int) -> float:
    """The resident memory of a process, in MB."""
    [kilobytes] = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) / 1024


def measure(checkout: Path, name: str) -> list[object]:
    """Run one flood; returns the cells of its row."""
    with api(checkout) as (pid, port):
        for _ in range(100):
            health(port)
        before = peak = memory(pid)
        attack = multiprocessing.Process(target=flood, args=(port, name))
        attack.start()
        taken: list[float | None] = []
        for number in itertools.count():
            if not attack.is_alive():
                break
            peak = max(peak, memory(pid))
            if number % 4 == 0:
                taken.append(health(port))
            time.sleep(0.05)
        time.sleep(REST)
        answered = [seconds * 1000 for seconds in taken if seconds is not None]
        times = (statistics.median(answered), max(answered)) if answered else ("-", "-")
        return [FLOODS[name].title, before, peak, memory(pid), *times, f"{len(taken) - len(answered)} of {len(taken)}"]


def main() -> None:
    """Run the floods and print a table."""
    checkout, *names = sys.argv[1:] or ["."]
    rows = [measure(Path(checkout).resolve(), name) for name in names or FLOODS]
    table("flood", "before, MB", "peak", "after", "/health, median ms", "worst", "failed", rows=rows)


if __name__ == "__main__":
    main()
