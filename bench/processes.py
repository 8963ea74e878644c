"""What a benchmark starts: a PostgreSQL server, API processes and floors, each on a free port."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import asyncpg

from bench.usage import cpu_of
from migrations import embedded_postgres
from migrations.children import die_with_supervisor
from tests.support.stack import free_ports

ROOT = Path(__file__).parent.parent
SECRET = "a-key-that-only-this-benchmark-uses-0123456789"  # noqa: S105 - of a server in a temporary folder
# No server listens there. Operations are accepted and wait in the outbox, which is tried once a second.
NO_TEMPORAL = "127.0.0.1:1"
SETTINGS = {
    "SECRET_KEY": SECRET,
    "TEMPORAL_ADDRESS": NO_TEMPORAL,
    "LOG_LEVEL": "ERROR",
    "OPERATION_RETENTION_DAYS": "0",
    "ACCESS_TOKEN_EXPIRE_MINUTES": "1440",
}
# The requests of each user are counted as always, but nobody meets a limit.
UNLIMITED = SETTINGS | {
    f"RATE_LIMIT_{kind}_{what}": "1000000000" for kind in ("USER", "TOKEN", "ADDRESS") for what in ("READS", "WRITES")
}


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started; `url` is where it answers."""

    pid: int
    url: str

    @property
    def cpu(self) -> float:
        """Seconds of processor time that it and its children have taken."""
        return cpu_of(self.pid)


@contextmanager
def postgres(*arguments: str) -> Iterator[Process]:
    """Run an empty PostgreSQL server in a temporary folder; its `url` is a DATABASE_URL."""
    with tempfile.TemporaryDirectory(prefix="vmapi-bench-") as folder:
        socket_dir = embedded_postgres.init_cluster(Path(folder))
        command = [*embedded_postgres.server_command(Path(folder), socket_dir), *arguments]
        options = embedded_postgres.PROCESS_OPTIONS | {"stderr": subprocess.DEVNULL, "preexec_fn": _end_with_us()}
        server = subprocess.Popen(command, **options)
        try:
            while subprocess.run(embedded_postgres.ready_command(socket_dir), check=False).returncode:
                time.sleep(0.1)
            yield Process(server.pid, embedded_postgres.database_url(socket_dir, "postgres"))
        finally:
            server.send_signal(signal.SIGINT)  # at SIGTERM it would wait for clients that are still there
            server.wait()


def new_database(url: str, name: str, checkout: Path = ROOT) -> str:
    """Create a database on the server with the schema of a checkout; returns its DATABASE_URL."""
    asyncio.run(_execute(url, f"CREATE DATABASE {name}"))
    server, _, options = url.partition("?")
    own = f"{server.rpartition('/')[0]}/{name}?{options}"
    # It ends with an error, because Temporal is away, but only once the schema is ready.
    environment = os.environ | SETTINGS | {"DATABASE_URL": own}
    command = [sys.executable, "-m", "migrations"]
    subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=False)
    return own


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute(statement)
    await connection.close()


@contextmanager
def api(
    database_url: str, settings: Mapping[str, str] = UNLIMITED, *, checkout: Path = ROOT, program: str = "api"
) -> Iterator[Process]:
    """Run an API process on the database, or another `program` that answers as one; yields it once it is live."""
    [port] = free_ports(1)
    environment = os.environ | settings | {"DATABASE_URL": database_url, "API_PORT": str(port)}
    command = [sys.executable, "-m", program]
    options: dict[str, Any] = {"cwd": checkout, "env": environment, "preexec_fn": _end_with_us()}
    process = subprocess.Popen(command, **options)
    url = f"http://127.0.0.1:{port}/api/v1"
    try:
        while not _answers(f"{url}/health/live"):
            if process.poll() is not None:
                raise SystemExit(f"python -m {program} has ended with exit code {process.returncode}")
            time.sleep(0.1)
        yield Process(process.pid, url)
    finally:
        process.terminate()
        process.wait()


def _end_with_us() -> Callable[[], None]:
    """What a child process runs first, so that it does not outlive a benchmark that is killed."""
    return partial(die_with_supervisor, os.getpid())


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url).close()  # noqa: S310 - our own process
    except URLError:
        return False
    return True
