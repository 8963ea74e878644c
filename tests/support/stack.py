"""A stack of real processes under the supervisor of `make up`, with its own ports and its own folder."""

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import asyncpg
from temporalio.client import Client

import local
from migrations import embedded_postgres
from tests.support import logs

# Linux gives clients that connect a port from 32768 up. A port below that cannot be taken by a client while a server
# that should listen on it starts, or is down because a test has killed it.
PORTS = range(10_000, 32_768)
SHARES = 8  # parallel test processes draw from disjoint shares of the ports
DELAYS = {
    "MOCK_BUILD_DELAY": "2",
    "MOCK_START_DELAY": "0.5",
    "MOCK_STOP_DELAY": "0.5",
    "MOCK_DELETE_DELAY": "0.3",
    "MOCK_RESIZE_DELAY": "1",
    "MOCK_REBOOT_DELAY": "0.5",
    "MOCK_SNAPSHOT_DELAY": "0.5",
}
QUICK_CLOUD = dict.fromkeys(DELAYS, "0.05")


@dataclass
class Stack:
    """A running stack.

    `settings` are the environment variables of its next start; `root` is the checkout whose code it runs. `passed_on`
    names variables that the API and the workers get, although the supervisor does not give them to its children.
    """

    data_dir: Path
    api_port: int
    temporal_port: int
    ui_port: int
    settings: dict[str, str] = field(default_factory=dict)
    supervisor: subprocess.Popen[str] | None = None
    root: Path = local.ROOT
    passed_on: frozenset[str] = frozenset()

    @classmethod
    def at(cls, data_dir: Path, **settings: str) -> Self:
        """A stack in a folder, on free ports, not yet started."""
        api, temporal, web_ui = free_ports(3)
        return cls(data_dir, api, temporal, web_ui, settings)

    @property
    def url(self) -> str:
        """The address of the API."""
        return f"http://127.0.0.1:{self.api_port}/api/v1"

    @property
    def socket_dir(self) -> Path:
        """The directory of the database's socket."""
        return embedded_postgres.socket_dir_of(self.data_dir / "postgres")

    @property
    def database_url(self) -> str:
        """DATABASE_URL of the stack's database."""
        return embedded_postgres.database_url(self.socket_dir)

    def start(self) -> None:
        """Start the supervisor and wait until it prints Ready."""
        ports = {
            "API_PORT": self.api_port,
            "TEMPORAL_PORT": self.temporal_port,
            "TEMPORAL_UI_PORT": self.ui_port,
        }
        environment = os.environ | DELAYS | self.settings | {name: str(port) for name, port in ports.items()}
        program = [str(self.root / "local.py")]
        if self.passed_on:
            program = ["-c", f"import local; local.INHERITED |= {set(self.passed_on)}; local.main()"]
        self.supervisor = subprocess.Popen(
            [sys.executable, "-E", *program],
            cwd=self.root,
            env=environment | {"DATA_DIR": str(self.data_dir)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        logs.FOLDERS.add(self.data_dir / "logs")
        assert self.supervisor.stdout
        for line in self.supervisor.stdout:
            sys.stdout.write(line)
            if line.startswith("Ready"):
                return
        raise AssertionError(f"the stack did not start: exit code {self.supervisor.wait()}")

    def stop(self) -> None:
        """Stop the stack as Ctrl-C does."""
        assert self.supervisor
        self.supervisor.send_signal(signal.SIGINT)
        assert self.supervisor.wait(30) == 0
        self.forget_supervisor()

    def grant(self, username: str) -> None:
        """Make a user an admin, with the command for that."""
        command = [sys.executable, "-m", "api.admin", "grant", username]
        environment = os.environ | self.settings | {"DATA_DIR": str(self.data_dir)}
        subprocess.run(command, cwd=self.root, env=environment, check=True)

    async def temporal(self) -> Client:
        """A client of the stack's Temporal server."""
        return await Client.connect(f"127.0.0.1:{self.temporal_port}")

    def kill_everything(self) -> None:
        """Send SIGKILL to every process of the stack at once."""
        assert self.supervisor
        for pid in [self.supervisor.pid, *self.pids("")]:
            _kill(pid, signal.SIGKILL)
        self.supervisor.wait()
        self.forget_supervisor()

    def forget_supervisor(self) -> None:
        """Release what belongs to a supervisor that has ended."""
        assert self.supervisor
        assert self.supervisor.stdout
        self.supervisor.stdout.close()
        self.supervisor = None
        logs.FOLDERS.discard(self.data_dir / "logs")

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one part: api, worker, temporal or postgres."""
        for pid in self.pids(part):
            _kill(pid, number)

    @contextmanager
    def without_restarts(self) -> Iterator[None]:
        """Freeze the supervisor, so that a part that dies stays dead."""
        assert self.supervisor
        self.supervisor.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.supervisor.send_signal(signal.SIGCONT)

    def pids(self, part: str) -> list[int]:
        """The process ids of a part, found by the command lines of the supervisor's children; all children for ''."""
        words = {"api": "-m api", "worker": "-m worker", "temporal": "start-dev", "postgres": "postgres -D", "": ""}
        assert self.supervisor
        children = Path(f"/proc/{self.supervisor.pid}/task/{self.supervisor.pid}/children").read_text().split()
        return [int(pid) for pid in children if words[part] in _command_line(int(pid))]

    async def sql(self, query: str, *arguments: object) -> list[Any]:
        """The rows of a query to the stack's database."""
        connection = await asyncpg.connect(host=str(self.socket_dir), user="postgres", database="vmapi")
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def free_ports(count: int) -> list[int]:
    """Ports that are free now and that no other test process draws."""
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
    candidates = random.sample(PORTS[share::SHARES], len(PORTS) // SHARES)
    return list(itertools.islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False
