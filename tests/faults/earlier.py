"""For the test of an upgrade: a checkout of an earlier commit, processes of either commit, and operations for both."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

import local
from tests.support.stack import Stack, free_ports
from tests.support.users import User, operation_path
from tests.support.waiting import poll

EARLIER_COMMIT = "62213dbc60627ef7bd9069cb312837c9532c6a53"


def checkout(folder: Path) -> Path:
    """Write the files of the earlier commit into a new folder; skip the test if the history does not have it."""
    git = ["git", "-C", str(local.ROOT)]
    if not (local.ROOT / ".git").exists():
        pytest.skip("an export without .git has no earlier commit to upgrade from")
    if subprocess.run([*git, "cat-file", "-e", EARLIER_COMMIT], capture_output=True, check=False).returncode:
        pytest.skip(f"this clone's history does not reach back to {EARLIER_COMMIT}")
    root = folder / "earlier"
    root.mkdir()
    files = subprocess.run([*git, "archive", EARLIER_COMMIT], stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(root)], input=files, check=True)
    return root


def environment(stack: Stack, **settings: str) -> dict[str, str]:
    """The environment of a process that uses the stack's servers."""
    servers = {
        "DATABASE_URL": stack.database_url,
        "TEMPORAL_ADDRESS": f"127.0.0.1:{stack.temporal_port}",
        "TEMPORAL_UI_URL": f"http://127.0.0.1:{stack.ui_port}",
        "SECRET_KEY": (stack.data_dir / "secret_key").read_text(),
    }
    return os.environ | stack.settings | servers | settings


@contextlib.contextmanager
def running(root: Path, module: str, stack: Stack, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of a checkout on the stack's servers; it is killed at the end."""
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
    """Run one more API on the stack's servers; yields its process id and the user with its address when it is ready."""
    (port,) = free_ports(1)
    with running(root, "api", stack, API_PORT=str(port), **settings) as process:
        url = f"http://127.0.0.1:{port}/api/v1"
        async with httpx.AsyncClient(base_url=url, timeout=20, headers=user.http.headers) as http:
            user_of_api = User(http)
            user_of_api.wait = 0
            await user_of_api.request("GET", "/health/ready")
            yield process.pid, user_of_api


@dataclass
class Work:
    """Operations of every kind in rounds; every second round undoes the one before it."""

    stopped: str  # VMs, each with operations of its own
    attached: str
    snapshotted: str
    resized: str
    rebooted: str
    short_lived: str  # deleted in the next round
    flavors: list[str]
    network: str
    volume: str
    spare: str = ""
    snapshot: str = ""
    interface: str = ""
    rounds: int = 0

    @classmethod
    async def prepare(cls, user: User) -> "Work":
        """Create its VMs and its volume."""
        creating = (user.create_active(f"work-{number}") for number in range(6))
        stopped, attached, snapshotted, resized, rebooted, short_lived = await asyncio.gather(*creating)
        volume = await accepted(user, "POST", "/volumes", name="work", size_gb=1)
        await succeed(user, [operation_path(volume)])
        network = (await user.read("/networks"))["items"][0]["id"]
        vms = (stopped, attached, snapshotted, resized, rebooted, short_lived)
        return cls(*vms, await user.flavors(), network, created_id(volume))

    async def begin(self, *users: User) -> list[str]:
        """Send the requests of the next round, alternating between the users; returns the paths of the operations."""
        self.rounds += 1
        senders = cycle(users)
        created, *answers = [await accepted(next(senders), *request[:2], **request[2]) for request in self._requests()]
        self.short_lived = created_id(created)
        if self.rounds % 2:
            self.snapshot, self.interface, self.spare = (created_id(answer) for answer in answers[-3:])
        return [operation_path(answer) for answer in (created, *answers)]

    def _requests(self) -> list[tuple[str, str, dict[str, Any]]]:
        create = {"name": f"short-lived-{self.rounds}", "flavor_id": self.flavors[0]}
        interfaces, snapshots = f"/vms/{self.attached}/interfaces", f"/vms/{self.snapshotted}/snapshots"
        always: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "/vms", create),
            ("DELETE", f"/vms/{self.short_lived}", {}),
            ("POST", f"/vms/{self.rebooted}/actions/reboot", {"type": "SOFT" if self.rounds % 2 else "HARD"}),
        ]
        if self.rounds % 2:
            return [
                *always,
                *([("DELETE", f"{snapshots}/{self.snapshot}", {})] if self.snapshot else []),
                ("POST", f"/vms/{self.stopped}/actions/stop", {}),
                ("POST", f"/vms/{self.resized}/actions/resize", {"flavor_id": self.flavors[1]}),
                ("POST", f"/vms/{self.attached}/volumes", {"volume_id": self.volume}),
                ("POST", snapshots, {"name": "work"}),
                ("POST", interfaces, {"network_id": self.network}),
                ("POST", "/volumes", {"name": "spare", "size_gb": 1}),
            ]
        return [
            *always,
            ("POST", f"/vms/{self.stopped}/actions/start", {}),
            ("POST", f"/vms/{self.resized}/actions/revert-resize", {}),
            ("DELETE", f"/vms/{self.attached}/volumes/{self.volume}", {}),
            ("POST", f"{snapshots}/{self.snapshot}/restore", {}),
            ("DELETE", f"{interfaces}/{self.interface}", {}),
            ("DELETE", f"/volumes/{self.spare}", {}),
        ]


async def accepted(user: User, method: str, path: str, **body: Any) -> httpx.Response:
    """Send a request once; returns its answer, which must accept it."""
    answer = await user.http.request(method, path, json=body or None)
    assert answer.status_code in {202, 204}, f"{method} {path}: {answer.text}"
    return answer


def created_id(answer: httpx.Response) -> str:
    """The id of the resource that a request creates."""
    return answer.headers["Location"].rpartition("/")[2]


async def succeed(user: User, paths: Sequence[str]) -> None:
    """Wait until all these operations have succeeded."""

    async def unfinished() -> list[dict[str, Any]]:
        operations = [await user.read(path) for path in paths]
        remaining = [operation for operation in operations if operation["status"] != "SUCCEEDED"]
        assert {operation["status"] for operation in remaining} <= {"QUEUED", "RUNNING"}, remaining
        return remaining

    await poll(unfinished, lambda remaining: not remaining, interval=0.2)
