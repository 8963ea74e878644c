"""Sets up what an operation needs and returns its request: one function for each operation and variant."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from temporalio.client import Client as TemporalClient

from activities.backends.mock.schema import FaultMode
from tests.support.truth import Database
from tests.support.users import DEADLINE_WITH_FAULTS, RetryingUser
from tests.support.waiting import poll

LOST, REFUSE, HANG = FaultMode.FAIL_AFTER_EFFECT, FaultMode.REFUSE, FaultMode.NEVER_ANSWER


class EndWatcher:
    """Waits for the ends of many operations with one query."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._waiting: dict[UUID, asyncio.Future[str]] = {}

    async def run(self) -> None:
        """Poll the database until canceled."""
        query = "SELECT id, status FROM operations WHERE id = ANY($1) AND status NOT IN ('QUEUED', 'RUNNING')"
        while True:
            for row in await self.database.sql(query, list(self._waiting)) if self._waiting else []:
                self._waiting.pop(row["id"]).set_result(row["status"])
            await asyncio.sleep(0.2)

    async def end_of(self, operation_id: UUID) -> str:
        """Wait for the end of an operation; returns its status."""
        end = self._waiting.setdefault(operation_id, asyncio.get_running_loop().create_future())
        async with asyncio.timeout(DEADLINE_WITH_FAULTS):
            return await asyncio.shield(end)


@dataclass(frozen=True)
class Request:
    """A request; `target` is the id by which faults select the cloud's calls for it, if that is known before."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    target: UUID | None = None


@dataclass
class Setup:
    """A user's VM and what else an operation needs; `undeletable` is a volume whose delete the cloud refuses."""

    user: RetryingUser
    watcher: EndWatcher
    temporal: TemporalClient
    flavors: list[str]
    vm: str = ""
    undeletable: str = ""

    async def send(self, request: Request, key: str) -> tuple[UUID, Any]:
        """Send a request that is accepted, until it is answered; returns the operation's id and the answer's body."""
        headers = {"Idempotency-Key": key}
        answer = await self.user.request(request.method, request.path, json=request.body, headers=headers)
        assert answer.status_code in {202, 204}, f"{request}: {answer.text}"
        operation_id = UUID(answer.headers["Operation-Location"].rpartition("/")[2])
        return operation_id, answer.json() if answer.content else {}

    async def complete(self, request: Request) -> tuple[UUID, Any]:
        """Send a request and wait until its operation has succeeded; returns its id and the answer's body."""
        operation_id, body = await self.send(request, f"setup-{uuid4()}")
        assert await self.watcher.end_of(operation_id) == "SUCCEEDED"
        return operation_id, body

    async def do(self, method: str, path: str, **body: Any) -> Any:
        """Like `complete`; returns the answer's body."""
        return (await self.complete(Request(method, path, body or None)))[1]

    async def build(self) -> str:
        """Create the VM; returns its id when it is ACTIVE."""
        self.vm = (await self.do("POST", "/vms", name="crashes", flavor_id=self.flavors[0]))["id"]
        return self.vm

    async def create_volume(self) -> str:
        """Create a volume; returns its id when it is AVAILABLE."""
        return str((await self.do("POST", "/volumes", name="v", size_gb=1))["id"])

    async def attach_new_volume(self, **options: Any) -> str:
        """Create a volume and attach it to the VM; returns its id."""
        volume_id = await self.create_volume()
        await self.do("POST", f"/vms/{self.vm}/volumes", volume_id=volume_id, **options)
        return volume_id

    async def create_snapshot(self) -> str:
        """Create a snapshot of the VM; returns its id when it is AVAILABLE."""
        return str((await self.do("POST", f"/vms/{self.vm}/snapshots", name="s"))["id"])

    async def create_resized(self) -> str:
        """Create the VM and resize it; returns the id of the workflow that waits for confirmation."""
        operation_id, _ = await self.complete(await resize(self))
        return f"resize-{self.vm}-{operation_id}"

    async def add_fault(self, verb: str, mode: FaultMode, times: int | None, target: UUID | None) -> None:
        """Make the cloud fail calls for the target, or for any target if it is None."""
        insert = "INSERT INTO mock_cloud.faults (verb, mode, times, vm_id) VALUES ($1, $2, $3, $4)"
        await self.watcher.database.sql(insert, verb, mode, times, target)

    def vm_request(self, method: str, path: str = "", **body: Any) -> Request:
        """A request for the VM."""
        return Request(method, f"/vms/{self.vm}{path}", body or None, UUID(self.vm))


Prepare = Callable[[Setup], Awaitable[Request]]


async def create(setup: Setup) -> Request:
    return Request("POST", "/vms", {"name": "crashes", "flavor_id": setup.flavors[0]})


async def start(setup: Setup) -> Request:
    await setup.build()
    await setup.do("POST", f"/vms/{setup.vm}/actions/stop")
    return setup.vm_request("POST", "/actions/start")


async def stop(setup: Setup) -> Request:
    await setup.build()
    return setup.vm_request("POST", "/actions/stop")


async def reboot_soft(setup: Setup) -> Request:
    await setup.build()
    return setup.vm_request("POST", "/actions/reboot", type="SOFT")


async def reboot_hard(setup: Setup) -> Request:
    await setup.build()
    return setup.vm_request("POST", "/actions/reboot", type="HARD")


async def resize(setup: Setup) -> Request:
    await setup.build()
    return setup.vm_request("POST", "/actions/resize", flavor_id=setup.flavors[1])


async def confirm_resize(setup: Setup) -> Request:
    await setup.create_resized()
    return setup.vm_request("POST", "/actions/confirm-resize")


async def revert_resize(setup: Setup) -> Request:
    await setup.create_resized()
    return setup.vm_request("POST", "/actions/revert-resize")


async def snapshot(setup: Setup) -> Request:
    await setup.build()
    return setup.vm_request("POST", "/snapshots", name="s")


async def restore(setup: Setup) -> Request:
    await setup.build()
    return setup.vm_request("POST", f"/snapshots/{await setup.create_snapshot()}/restore")


async def attach_volume(setup: Setup) -> Request:
    await setup.build()
    return setup.vm_request("POST", "/volumes", volume_id=await setup.create_volume())


async def detach_volume(setup: Setup) -> Request:
    await setup.build()
    return setup.vm_request("DELETE", f"/volumes/{await setup.attach_new_volume()}")


async def attach_interface(setup: Setup) -> Request:
    await setup.build()
    network_id = (await setup.user.read("/networks"))["items"][0]["id"]
    return setup.vm_request("POST", "/interfaces", network_id=network_id)


async def detach_interface(setup: Setup) -> Request:
    await setup.build()
    (interface,) = (await setup.user.read(f"/vms/{setup.vm}/interfaces"))["items"]
    return setup.vm_request("DELETE", f"/interfaces/{interface['id']}")


async def delete(setup: Setup) -> Request:
    await setup.build()
    await setup.attach_new_volume(delete_on_termination=True)
    return setup.vm_request("DELETE")


async def delete_snapshot(setup: Setup) -> Request:
    await setup.build()
    snapshot_id = await setup.create_snapshot()
    return Request("DELETE", f"/vms/{setup.vm}/snapshots/{snapshot_id}", None, UUID(snapshot_id))


async def create_volume(_: Setup) -> Request:
    return Request("POST", "/volumes", {"name": "v", "size_gb": 1})


async def delete_volume(setup: Setup) -> Request:
    volume_id = await setup.create_volume()
    return Request("DELETE", f"/volumes/{volume_id}", None, UUID(volume_id))


async def extend_volume(setup: Setup) -> Request:
    await setup.build()
    volume_id = await setup.attach_new_volume()
    return Request("POST", f"/volumes/{volume_id}/actions/extend", {"size_gb": 2}, UUID(volume_id))


async def create_on_volume(setup: Setup) -> Request:
    image_id = (await setup.user.read("/images"))["items"][0]["id"]
    root = await setup.do("POST", "/volumes", name="root", size_gb=100, image_id=image_id)
    disks = {"boot_volume": {"volume_id": root["id"]}, "volumes": [{"volume_id": await setup.create_volume()}]}
    return Request("POST", "/vms", {"name": "crashes", "flavor_id": setup.flavors[0]} | disks)


async def delete_during_snapshot(setup: Setup) -> Request:
    """A snapshot has created its image and hangs in the next attempt: its workflow must end first."""
    request = await delete(setup)
    await setup.add_fault("create_server_image", LOST, 1, request.target)
    await setup.add_fault("create_server_image", HANG, None, request.target)
    await setup.send(setup.vm_request("POST", "/snapshots", name="s"), f"setup-{uuid4()}")
    hangs = "SELECT FROM operations WHERE vm_id = $1 AND action = 'snapshot' AND attempt = 2"
    await poll(lambda: setup.watcher.database.sql(hangs, request.target), bool, deadline=DEADLINE_WITH_FAULTS)
    return request


async def delete_with_stuck_workflow(setup: Setup) -> Request:
    """The resize's workflow does not end when it is canceled, because no worker polls its queue."""
    workflow_id = await setup.create_resized()
    await setup.temporal.get_workflow_handle(workflow_id).terminate()
    await setup.temporal.start_workflow("Stuck", id=workflow_id, task_queue="no-worker")
    return setup.vm_request("DELETE")


async def delete_with_undeletable_volume(setup: Setup) -> Request:
    """The cloud refuses to delete a volume that should be deleted with the VM."""
    await setup.build()
    setup.undeletable = await setup.attach_new_volume(delete_on_termination=True)
    await setup.add_fault("delete_volume", REFUSE, None, UUID(setup.undeletable))
    return setup.vm_request("DELETE")


async def confirm_without_workflow(setup: Setup) -> Request:
    """The workflow of the resize was terminated."""
    await setup.temporal.get_workflow_handle(await setup.create_resized()).terminate()
    return setup.vm_request("POST", "/actions/confirm-resize")


async def revert_without_workflow(setup: Setup) -> Request:
    """The workflow of the resize was terminated."""
    await setup.temporal.get_workflow_handle(await setup.create_resized()).terminate()
    return setup.vm_request("POST", "/actions/revert-resize")
