"""A stack of real processes under the supervisor of `make up`, on ports and in a folder of its own."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import asyncpg
import httpx
from temporalio.client import Client

import local
from tests.support import logs

PATIENCE = 60.0  # seconds until a test gives up on the stack
PORTS, SHARES = range(10_000, 32_768), 8  # Linux gives out those from 32768 up
DELAYS = {
    "MOCK_BUILD_DELAY": "2",
    "MOCK_START_DELAY": "0.5",
    "MOCK_STOP_DELAY": "0.5",
    "MOCK_DELETE_DELAY": "0.3",
    "MOCK_RESIZE_DELAY": "1",
    "MOCK_REBOOT_DELAY": "0.5",
    "MOCK_SNAPSHOT_DELAY": "0.5",
}


@dataclass
class Stack:
    """The running stack; `pids` finds its parts by their command lines, as an operator would.

    `settings` are read when it starts; `root` is the checkout whose code it runs.
    """

    data_dir: Path
    api_port: int
    temporal_port: int
    ui_port: int
    settings: dict[str, str] = field(default_factory=dict)
    supervisor: subprocess.Popen[str] | None = None
    root: Path = local.ROOT

    @classmethod
    def at(cls, data_dir: Path, **settings: str) -> Self:
        """A stack that keeps everything in a folder, on free ports, not yet started."""
        api, temporal, web_ui = free_ports(3)
        return cls(data_dir, api, temporal, web_ui, settings)

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.api_port}/api/v1"

    def start(self) -> None:
        """Run the supervisor until it says that all is ready."""
        ports = {
            "API_PORT": self.api_port,
            "TEMPORAL_PORT": self.temporal_port,
            "TEMPORAL_UI_PORT": self.ui_port,
        }
        environment = os.environ | DELAYS | self.settings | {name: str(port) for name, port in ports.items()}
        self.supervisor = subprocess.Popen(
            [sys.executable, str(self.root / "local.py")],
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
        """End it as Ctrl-C does."""
        assert self.supervisor
        self.supervisor.send_signal(signal.SIGINT)
        assert self.supervisor.wait(30) == 0
        self._forget()

    async def temporal(self) -> Client:
        """A client of its Temporal server."""
        return await Client.connect(f"127.0.0.1:{self.temporal_port}")

    def kill_everything(self) -> None:
        """Send SIGKILL to every process of the stack at once."""
        assert self.supervisor
        for pid in [self.supervisor.pid, *self.pids("")]:
            _kill(pid, signal.SIGKILL)
        self.supervisor.wait()
        self._forget()

    def _forget(self) -> None:
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
    def unattended(self) -> Iterator[None]:
        """Keep the supervisor from restarting what dies."""
        assert self.supervisor
        self.supervisor.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.supervisor.send_signal(signal.SIGCONT)

    def pids(self, part: str) -> list[int]:
        """The supervisor's children whose command line tells that they are this part; all for ''."""
        words = {"api": "-m api", "worker": "-m worker", "temporal": "start-dev", "postgres": "postgres -D", "": ""}
        assert self.supervisor
        children = Path(f"/proc/{self.supervisor.pid}/task/{self.supervisor.pid}/children").read_text().split()
        return [int(pid) for pid in children if words[part] in _command_line(int(pid))]

    async def sql(self, query: str, *arguments: object) -> list[Any]:
        """Ask the stack's database."""
        socket_dir = local.postgres_socket_dir(self.data_dir / "postgres")
        connection = await asyncpg.connect(host=str(socket_dir), user="postgres", database="vmapi")
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
    """Ports that nothing has now, and that nobody else takes while what is to listen on them starts or is killed.

    Whoever connects, or asks for any port, gets one above these; each process of a test run has its own share of them.
    """
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
    candidates = random.sample(PORTS[share::SHARES], len(PORTS) // SHARES)
    return list(itertools.islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


class User:
    """A registered user's client, patient as a real one: it tries again while the stack is being killed."""

    patience = PATIENCE

    def __init__(self, http: httpx.AsyncClient, poll_every: float = 0.05) -> None:
        self.http = http
        self.poll_every = poll_every

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request until it is answered with something other than a 5xx."""
        give_up_at = time.monotonic() + self.patience
        while True:
            try:
                response = await self.http.request(method, path, **options)
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code < 500:
                return response
            assert time.monotonic() < give_up_at, f"{method} {path}: {response.text if response else 'no answer'}"
            await asyncio.sleep(0.1)

    async def read(self, path: str) -> Any:
        """What a GET answers."""
        return (await self.request("GET", path)).json()

    async def flavors(self) -> list[str]:
        """The ids of all flavors, smallest first."""
        return [flavor["id"] for flavor in (await self.read("/flavors"))["items"]]

    async def create(self, name: str, **headers: str) -> dict[str, Any]:
        """Create a VM of the smallest flavor."""
        body = {"name": name, "flavor_id": (await self.flavors())[0]}
        response = await self.request("POST", "/vms", json=body, headers=headers)
        assert response.status_code == 202, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def act(self, vm_id: str, word: str, **body: str) -> dict[str, Any]:
        """Ask for an action that is accepted; returns its operation."""
        response = await self.request("POST", f"/vms/{vm_id}/actions/{word}", json=body)
        assert response.status_code == 202, response.text
        return dict(await self.read(f"/operations/{response.json()['operation_id']}"))

    async def resized(self, name: str) -> dict[str, Any]:
        """A VM of the smallest flavor whose resize to the next one waits to be confirmed."""
        vm_id = (await self.create(name))["id"]
        await self.until(vm_id, "ACTIVE")
        await self.act(vm_id, "resize", flavor_id=(await self.flavors())[1])
        return await self.until(vm_id, "VERIFY_RESIZE")

    async def until(self, vm_id: str, *statuses: str, task_state: str | None = None) -> dict[str, Any]:
        """Poll the VM until it rests in one of the statuses (or is in the task state)."""
        give_up_at = time.monotonic() + self.patience
        while True:
            vm: dict[str, Any] = (await self.request("GET", f"/vms/{vm_id}")).json()
            if vm["task_state"] == task_state and (not statuses or vm["status"] in statuses):
                return vm
            assert time.monotonic() < give_up_at, f"still {vm}"
            await asyncio.sleep(self.poll_every)


@asynccontextmanager
async def log_in(stack: Stack, poll_every: float = 0.05) -> AsyncIterator[User]:
    """Register a new user and log in."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=5) as http:
        user = User(http, poll_every)
        name = f"user-{uuid4().hex[:12]}"
        login = {"username": name, "password": "Correct-Horse-1"}
        account = login | {"email": f"{name}@example.com"}
        assert (await user.request("POST", "/auth/register", json=account)).status_code == 201
        tokens = (await user.request("POST", "/auth/login", json=login)).json()
        http.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        yield user
