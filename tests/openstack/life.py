"""A user with a VM on a real cloud, who waits for every operation."""

from typing import Any

from tests.support.users import User, operation_path
from tests.support.waiting import poll

FINAL = {"SUCCEEDED", "FAILED", "CANCELED", "SUPERSEDED"}


class Life:
    """A user with a VM on a real cloud."""

    def __init__(self, user: User, vm_id: str) -> None:
        self.user, self.vm_id = user, vm_id

    @classmethod
    async def of_new_vm(cls, user: User, name: str) -> "Life":
        """The life of a new VM that is ACTIVE."""
        return cls(user, await user.create_active(name))

    async def vm(self) -> Any:
        """The VM as it is now."""
        return await self.user.read(f"/vms/{self.vm_id}")

    async def ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Send a request that is accepted, and return its operation when that has succeeded."""
        answer = await self.user.request(method, path, json=body or None)
        assert answer.status_code in {202, 204}, answer.text
        return await finished(self.user, operation_path(answer))

    async def act(self, action: str, status: str, **body: Any) -> None:
        """Carry out an action, after which the VM has the status."""
        await self.ask("POST", f"/vms/{self.vm_id}/actions/{action}", **body)
        vm = await self.vm()
        assert (vm["status"], vm["task_state"], vm["fault"]) == (status, None, None)


async def finished(user: User, path: str) -> dict[str, Any]:
    """Wait for an operation, which succeeds."""
    operation: dict[str, Any] = await poll(
        lambda: user.read(path), lambda body: body["status"] in FINAL, deadline=user.deadline, interval=0.5
    )
    assert operation["status"] == "SUCCEEDED", operation
    return operation
