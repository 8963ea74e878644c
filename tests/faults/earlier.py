"""An earlier commit's code beside the present one's: its checkout, single processes of either, and work for both."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

import local
from tests.support.stack import PATIENCE, Stack, User, free_ports

COMMIT = "62213dbc60627ef7bd9069cb312837c9532c6a53"


def checkout(folder: Path) -> Path:
    """The earlier commit's files, in a new folder; skips where there is no history to take them from."""
    git = ["git", "-C", str(local.ROOT)]
    if not (local.ROOT / ".git").exists():
        pytest.skip("an export without .git has no earlier commit to upgrade from")
    if subprocess.run([*git, "cat-file", "-e", COMMIT], capture_output=True, check=False).returncode:
        pytest.skip(f"this clone's history does not reach back to {COMMIT}")
    root = folder / "earlier"
    root.mkdir()
    files = subprocess.run([*git, "archive", COMMIT], stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(root)], input=files, check=True)
    return root


def environment(stack: Stack, **settings: str) -> dict[str, str]:
    """The environment of a process on the stack's servers, whatever code it runs."""
    servers = {
        "DATABASE_URL": local.postgres_url(local.postgres_socket_dir(stack.data_dir / "postgres")),
        "TEMPORAL_ADDRESS": f"127.0.0.1:{stack.temporal_port}",
        "TEMPORAL_UI_URL": f"http://127.0.0.1:{stack.ui_port}",
        "SECRET_KEY": (stack.data_dir / "secret_key").read_text(),
    }
    return os.environ | stack.settings | servers | settings


@contextlib.contextmanager
def running(root: Path, module: str, stack: Stack, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a checkout's code on the stack's servers, until the end or until it is killed."""
    with (stack.data_dir / "logs" / f"beside-{module}.log").open("ab") as log:
        command, values = [sys.executable, "-m", module], environment(stack, **settings)
        process = subprocess.Popen(command, cwd=root, env=values, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def api(root: Path, stack: Stack, user: User, **settings: str) -> AsyncIterator[tuple[int, User]]:
    """One more API on the stack's servers: its process id, and the same user's client of it once it is ready."""
    (port,) = free_ports(1)
    with running(root, "api", stack, API_PORT=str(port), **settings) as process:
        url = f"http://127.0.0.1:{port}/api/v1"
        async with httpx.AsyncClient(base_url=url, timeout=20, headers=user.http.headers) as http:
            beside = User(http)
            await beside.request("GET", "/health/ready")
            yield process.pid, beside


@dataclass
class Work:
    """Operations of every kind on things of its own, in rounds: each second one takes back what the first has done."""

    switched: str  # VMs, each for operations of its own
    host: str
    kept: str
    moved: str
    rebooted: str
    passing: str  # deleted in the next round
    flavors: list[str]
    network: str
    volume: str
    spare: str = ""
    snapshot: str = ""
    interface: str = ""
    rounds: int = 0

    @classmethod
    async def prepare(cls, user: User) -> "Work":
        """Its VMs and its volume, at rest."""
        making = (active(user, f"work-{of}") for of in range(6))
        switched, host, kept, moved, rebooted, passing = await asyncio.gather(*making)
        volume = await accepted(user, "POST", "/volumes", name="work", size_gb=1)
        await succeed(user, [operation_of(volume)])
        network = (await user.read("/networks"))["items"][0]["id"]
        vms = (switched, host, kept, moved, rebooted, passing)
        return cls(*vms, await user.flavors(), network, made_by(volume))

    async def begin(self, *users: User) -> list[str]:
        """Ask for the next round, through these in turn; returns the operations, which are on their way."""
        self.rounds += 1
        turns = cycle(users)
        created, *answers = [await accepted(next(turns), *request[:2], **request[2]) for request in self._requests()]
        self.passing = made_by(created)
        if self.rounds % 2:
            self.snapshot, self.interface, self.spare = (made_by(answer) for answer in answers[-3:])
        return [operation_of(answer) for answer in (created, *answers)]

    def _requests(self) -> list[tuple[str, str, dict[str, Any]]]:
        create = {"name": f"passing-{self.rounds}", "flavor_id": self.flavors[0]}
        interfaces, snapshots = f"/vms/{self.host}/interfaces", f"/vms/{self.kept}/snapshots"
        always: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "/vms", create),
            ("DELETE", f"/vms/{self.passing}", {}),
            ("POST", f"/vms/{self.rebooted}/actions/reboot", {"type": "SOFT" if self.rounds % 2 else "HARD"}),
        ]
        if self.rounds % 2:
            return [
                *always,
                *([("DELETE", f"{snapshots}/{self.snapshot}", {})] if self.snapshot else []),
                ("POST", f"/vms/{self.switched}/actions/stop", {}),
                ("POST", f"/vms/{self.moved}/actions/resize", {"flavor_id": self.flavors[1]}),
                ("POST", f"/vms/{self.host}/volumes", {"volume_id": self.volume}),
                ("POST", snapshots, {"name": "work"}),
                ("POST", interfaces, {"network_id": self.network}),
                ("POST", "/volumes", {"name": "spare", "size_gb": 1}),
            ]
        return [
            *always,
            ("POST", f"/vms/{self.switched}/actions/start", {}),
            ("POST", f"/vms/{self.moved}/actions/revert-resize", {}),
            ("DELETE", f"/vms/{self.host}/volumes/{self.volume}", {}),
            ("POST", f"{snapshots}/{self.snapshot}/restore", {}),
            ("DELETE", f"{interfaces}/{self.interface}", {}),
            ("DELETE", f"/volumes/{self.spare}", {}),
        ]


async def active(user: User, name: str) -> str:
    """A new VM that is ACTIVE."""
    vm = await user.create(name)
    return str((await user.until(vm["id"], "ACTIVE", "ERROR"))["id"])


async def accepted(user: User, method: str, path: str, **body: Any) -> httpx.Response:
    """The answer to a request that is sent once and accepted."""
    answer = await user.http.request(method, path, json=body or None)
    assert answer.status_code in {202, 204}, f"{method} {path}: {answer.text}"
    return answer


def operation_of(answer: httpx.Response) -> str:
    """The path of the operation that a request has begun."""
    return answer.headers["Operation-Location"].removeprefix("/api/v1")


def made_by(answer: httpx.Response) -> str:
    """The id of what a request makes."""
    return answer.headers["Location"].rpartition("/")[2]


async def succeed(user: User, paths: Sequence[str]) -> None:
    """Wait until the operations have ended, all of them well."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        operations = [await user.read(path) for path in paths]
        left = [operation for operation in operations if operation["status"] != "SUCCEEDED"]
        if not left:
            return
        assert {operation["status"] for operation in left} <= {"QUEUED", "RUNNING"}, left
        assert time.monotonic() < give_up_at, left
        await asyncio.sleep(0.2)
