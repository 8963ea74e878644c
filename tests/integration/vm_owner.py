"""A user with one ACTIVE VM, and what the tests of concurrent requests and of faults ask for."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.users import User, operation_path
from tests.support.waiting import poll

Request = Callable[[], Awaitable[httpx.Response]]


@dataclass
class VMOwner:
    """A user and the id of their VM."""

    user: User
    vm: str

    @classmethod
    async def with_new_vm(cls, user: User, name: str) -> "VMOwner":
        """The owner of a new VM that is ACTIVE."""
        return cls(user, await user.create_active(name))

    @property
    def path(self) -> str:
        """The path of the VM."""
        return f"/vms/{self.vm}"

    async def send(self, method: str, path: str, **body: Any) -> httpx.Response:
        """Send a request once."""
        answer = await self.user.http.request(method, path, json=body or None, timeout=30)
        assert answer.status_code < 500, answer.text
        return answer

    def request(self, method: str, path: str, **body: Any) -> Request:
        """A request that is sent when it is called."""
        return lambda: self.send(method, path, **body)

    async def create(self, path: str, status: str, **body: Any) -> dict[str, Any]:
        """Create a resource with a POST; returns it when it has the status."""
        answer = await self.send("POST", path, **body)
        assert answer.status_code == 202, answer.text
        await self.ends_of(answer)
        return await self.until(answer.headers["Location"].removeprefix("/api/v1"), status)

    async def create_volume(self) -> str:
        """Create a volume; returns its id when it is AVAILABLE."""
        return str((await self.create("/volumes", "AVAILABLE", name="v", size_gb=1))["id"])

    async def attach_new_volume(self, **options: Any) -> str:
        """Create a volume and attach it to the VM; returns its id."""
        volume_id = await self.create_volume()
        await self.create(f"{self.path}/volumes", "ATTACHED", volume_id=volume_id, **options)
        return volume_id

    async def create_snapshot(self) -> str:
        """Create a snapshot of the VM; returns its id when it is AVAILABLE."""
        return str((await self.create(f"{self.path}/snapshots", "AVAILABLE", name="s"))["id"])

    async def until(self, path: str, *statuses: str) -> dict[str, Any]:
        """Poll a resource until it has one of the statuses."""
        resource: dict[str, Any] = await poll(lambda: self.user.read(path), lambda body: body.get("status") in statuses)
        return resource

    async def ends_of(self, *answers: httpx.Response) -> list[str]:
        """Wait for the operations of the accepted requests; returns the statuses with which they end."""
        paths = [operation_path(answer) for answer in answers if answer.status_code in {202, 204}]
        return [(await self.user.end_of(path))["status"] for path in paths]
