"""A tour of all requests that succeed, on a real worker and the mock cloud."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import BackendError, ComputeBackend
from activities.backends.resources import Console, Ref
from domain.settings import Settings
from tests.api.conftest import client_of
from tests.examples.recorder import Recording
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS, NETWORK_IDS
from tests.support.ssh_keys import ED25519
from tests.support.waiting import poll
from worker import make_workers

ACCOUNT = {"username": "ada", "email": "ada@example.com", "password": "Correct-Horse-1"}
NEW_PASSWORD = "Correct-Horse-2"
WEB = {
    "name": "web-1",
    "flavor_id": str(FLAVOR_IDS["m1.small"]),
    "image_id": str(IMAGE_IDS["debian-12"]),
    "network_ids": [str(NETWORK_IDS["private"])],
    "labels": {"env": "prod", "tier": "web"},
}
_OPEN = {"QUEUED", "RUNNING"}


@dataclass
class Guest:
    """A user on tour: what `http` is answered is recorded, what `quiet` is answered is not."""

    http: httpx.AsyncClient
    quiet: httpx.AsyncClient

    @classmethod
    def of(cls, app: FastAPI, recording: Recording, token: str | None = None) -> "Guest":
        """A user with this token."""
        http = client_of(app, token)
        http.event_hooks = {"response": [recording.note]}
        return cls(http, client_of(app, token))

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request that succeeds, and wait for the end of its operation; returns the body of the answer."""
        answer = await self.http.request(method, path, json=body)
        assert answer.is_success, answer.text
        if location := answer.headers.get("Operation-Location"):
            await poll(lambda: self.quiet.get(f"http://api{location}"), _has_ended, interval=0.02)
        return answer.json() if answer.content else None


def _has_ended(answer: httpx.Response) -> bool:
    return answer.json()["status"] not in _OPEN


class CloudWithConsoles(MockBackend):
    """The mock cloud with a console for the second that asks for one; its log cannot be read the first time."""

    is_read = is_asked = False

    async def get_server_console_output(self, vm: Ref, lines: int) -> str:
        """The log."""
        self.is_read, was_read = True, self.is_read
        if not was_read:
            raise BackendError("bad_request", "The cloud's compute service has failed.", retryable=False)
        return await super().get_server_console_output(vm, lines)

    async def create_console(self, vm: Ref) -> Console:
        """The address."""
        self.is_asked, was_asked = True, self.is_asked
        return (
            Console("novnc", "https://cloud.example/vnc?token=5c1e7d")
            if was_asked
            else await super().create_console(vm)
        )


@contextlib.asynccontextmanager
async def working(settings: Settings, client: Client, engine: AsyncEngine) -> AsyncIterator[None]:
    """Workers of all kinds, with the mock cloud."""
    cloud: ComputeBackend = CloudWithConsoles(settings)
    await cloud.prepare()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(cloud.close)
        for worker in make_workers(settings, client, engine, cloud):
            await stack.enter_async_context(worker)
        yield


async def take(app: FastAPI, recording: Recording) -> str:
    """Ask for everything that a user can ask for; returns the user's token."""
    anyone = Guest.of(app, recording)
    for path in ("/health", "/health/live", "/health/ready"):
        await anyone.ask("GET", path)
    token = await _accounts(app, recording, anyone)
    ada = Guest.of(app, recording, token)
    await _catalogue(ada)
    await ada.ask("POST", "/ssh-keys", {"name": "laptop", "public_key": f"{ED25519} ada@laptop"})
    await ada.ask("GET", "/ssh-keys")
    await ada.ask("GET", "/ssh-keys/laptop")
    vm = await ada.ask("POST", "/vms", WEB)
    path = f"/vms/{vm['id']}"
    await _projects(ada, anyone)
    await _machine(ada, path)
    await _volumes(ada, path)
    await _interfaces(ada, path)
    await _snapshots(ada, path)
    await _resize(ada, path)
    await ada.ask("DELETE", path)
    await ada.ask("DELETE", "/ssh-keys/laptop")
    # Last, because VMs that are made together have no order of their own in lists.
    await ada.ask("POST", "/vms/batch", {"vms": [WEB | {"name": "web-3"}, WEB | {"name": "web-4"}]})
    return token


async def _accounts(app: FastAPI, recording: Recording, anyone: Guest) -> str:
    await anyone.ask("POST", "/auth/register", ACCOUNT)
    credentials = {name: ACCOUNT[name] for name in ("username", "password")}
    login = await anyone.ask("POST", "/auth/login", credentials)
    await anyone.ask("POST", "/auth/refresh", {"refresh_token": login["refresh_token"]})
    await Guest.of(app, recording, login["access_token"]).ask("POST", "/auth/logout")
    login = await anyone.ask("POST", "/auth/login", credentials)
    await Guest.of(app, recording, login["access_token"]).ask("POST", "/auth/logout-all")
    login = await anyone.ask("POST", "/auth/login", credentials)
    change = {"current_password": ACCOUNT["password"], "new_password": NEW_PASSWORD}
    await Guest.of(app, recording, login["access_token"]).ask("POST", "/auth/password", change)
    token: str = (await anyone.ask("POST", "/auth/login", credentials | {"password": NEW_PASSWORD}))["access_token"]
    ada = Guest.of(app, recording, token)
    await ada.ask("GET", "/auth/me")
    robot = await ada.ask("POST", "/tokens", {"name": "deploy", "scopes": ["read"], "expires_in_days": 90})
    await ada.ask("GET", "/tokens")
    await ada.ask("GET", f"/tokens/{robot['id']}")
    await ada.ask("DELETE", f"/tokens/{robot['id']}")
    return token


async def _projects(ada: Guest, anyone: Guest) -> None:
    grace = {"username": "grace", "email": "grace@example.com", "password": ACCOUNT["password"]}
    await anyone.quiet.post("/auth/register", json=grace)
    path = f"/projects/{(await ada.ask('POST', '/projects', {'name': 'web-shop'}))['id']}"
    await ada.ask("GET", "/projects")
    await ada.ask("GET", path)
    await ada.ask("PUT", f"{path}/members/grace", {"role": "operator"})
    await ada.ask("GET", f"{path}/members")
    await ada.ask("GET", f"{path}/members/grace")
    await ada.ask("DELETE", f"{path}/members/grace")
    await ada.ask("DELETE", path)
    await ada.ask("GET", "/quotas")


async def _catalogue(ada: Guest) -> None:
    for path in ("/flavors", "/images", "/networks", "/security-groups"):
        first, *_ = (await ada.ask("GET", path))["items"]
        await ada.ask("GET", f"{path}/{first['id']}")
    await ada.ask("GET", "/availability-zones")


async def _machine(ada: Guest, path: str) -> None:
    await ada.ask("GET", path)
    await ada.ask("GET", "/vms")
    operation = (await ada.ask("GET", f"{path}/operations"))["items"][0]
    await ada.ask("GET", "/operations")
    await ada.ask("GET", f"/operations/{operation['id']}")
    await ada.ask("PATCH", path, {"name": "web-2", "labels": {"env": "test"}})
    await ada.ask("POST", f"{path}/actions/stop")
    await ada.ask("POST", f"{path}/actions/start")
    await ada.ask("POST", f"{path}/actions/reboot", {"type": "HARD"})
    for number in range(2):  # the cloud fails the first time
        await asyncio.sleep(0.05)
        answers = [await ada.http.get(f"{path}/console-log"), await ada.http.post(f"{path}/console")]
        assert [answer.is_success for answer in answers] == [number == 1] * 2, answers


async def _volumes(ada: Guest, path: str) -> None:
    volume = await ada.ask("POST", "/volumes", {"name": "data", "size_gb": 10})
    id = volume["id"]
    await ada.ask("GET", "/volumes")
    await ada.ask("GET", f"/volumes/{id}")
    await ada.ask("PATCH", f"/volumes/{id}", {"name": "data-1", "labels": {"env": "prod"}})
    await ada.ask("POST", f"/volumes/{id}/actions/extend", {"size_gb": 20})
    await ada.ask("POST", f"{path}/volumes", {"volume_id": id, "delete_on_termination": False})
    await ada.ask("GET", f"{path}/volumes")
    await ada.ask("GET", f"{path}/volumes/{id}")
    await ada.ask("DELETE", f"{path}/volumes/{id}")
    await ada.ask("DELETE", f"/volumes/{id}")


async def _interfaces(ada: Guest, path: str) -> None:
    wanted = {"network_id": str(NETWORK_IDS["backend"]), "ip_address": "10.1.0.17"}
    interface = await ada.ask("POST", f"{path}/interfaces", wanted)
    await ada.ask("GET", f"{path}/interfaces")
    await ada.ask("GET", f"{path}/interfaces/{interface['id']}")
    await ada.ask("DELETE", f"{path}/interfaces/{interface['id']}")


async def _snapshots(ada: Guest, path: str) -> None:
    snapshot = await ada.ask("POST", f"{path}/snapshots", {"name": "before-upgrade"})
    own = f"{path}/snapshots/{snapshot['id']}"
    await ada.ask("GET", f"{path}/snapshots")
    await ada.ask("GET", own)
    await ada.ask("GET", "/snapshots")
    await ada.ask("GET", f"/snapshots/{snapshot['id']}")
    await ada.ask("PATCH", f"/snapshots/{snapshot['id']}", {"labels": {"kept": "true"}})
    await ada.ask("POST", f"{own}/restore")
    await ada.ask("DELETE", own)
    another = await ada.ask("POST", f"{path}/snapshots", {"name": "before-upgrade"})
    await ada.ask("DELETE", f"/snapshots/{another['id']}")


async def _resize(ada: Guest, path: str) -> None:
    for flavor, decision in (("m1.medium", "confirm-resize"), ("m1.large", "revert-resize")):
        await ada.ask("POST", f"{path}/actions/resize", {"flavor_id": str(FLAVOR_IDS[flavor])})
        await ada.ask("POST", f"{path}/actions/{decision}")
