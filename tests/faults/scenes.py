"""What has to be there before an operation is asked for, and the request: a function for each, and for variants."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from temporalio.client import Client as TemporalClient

from activities.backends.mock.schema import FaultMode
from tests.faults.client import Client
from tests.support.truth import Database

PATIENCE: Final = 120.0  # seconds
LOST, REFUSE, HANG = FaultMode.FAIL_AFTER_EFFECT, FaultMode.REFUSE, FaultMode.NEVER_ANSWER


class Watch:
    """Sees operations end, all with one look at the database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._waiting: dict[UUID, asyncio.Future[str]] = {}

    async def run(self) -> None:
        """Look until canceled."""
        query = "SELECT id, status FROM operations WHERE id = ANY($1) AND status NOT IN ('QUEUED', 'RUNNING')"
        while True:
            for row in await self.database.sql(query, list(self._waiting)) if self._waiting else []:
                self._waiting.pop(row["id"]).set_result(row["status"])
            await asyncio.sleep(0.2)

    async def ended(self, operation_id: UUID) -> str:
        """How the operation has ended, once it has."""
        waiting = self._waiting.setdefault(operation_id, asyncio.get_running_loop().create_future())
        async with asyncio.timeout(PATIENCE):
            return await asyncio.shield(waiting)


@dataclass(frozen=True)
class Ask:
    """A request, and what the cloud's calls for it are told apart by, if that is known before."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    target: UUID | None = None


@dataclass
class Setting:
    """Where an operation comes about: a user's VM and what else it needs; `left` is a volume in ERROR that stays."""

    client: Client
    watch: Watch
    temporal: TemporalClient
    flavors: list[str]
    vm: str = ""
    left: str = ""

    async def send(self, ask: Ask, key: str) -> tuple[UUID, Any]:
        """Ask for an operation that is accepted, until that is answered; its id, and the answer's body."""
        headers = {"Idempotency-Key": key}
        answer = await self.client.request(ask.method, ask.path, json=ask.body, headers=headers)
        assert answer.status_code in {202, 204}, f"{ask}: {answer.text}"
        return UUID(answer.headers["Operation-Location"].rpartition("/")[2]), answer.json() if answer.content else {}

    async def have(self, method: str, path: str, **body: Any) -> Any:
        """What comes of an operation that ends well."""
        operation_id, answer = await self.send(Ask(method, path, body or None), f"before-{uuid4()}")
        assert await self.watch.ended(operation_id) == "SUCCEEDED"
        return answer

    async def build(self) -> str:
        """A VM that is ACTIVE."""
        self.vm = (await self.have("POST", "/vms", name="crashes", flavor_id=self.flavors[0]))["id"]
        return self.vm

    async def volume(self) -> str:
        """A volume that is free."""
        return str((await self.have("POST", "/volumes", name="v", size_gb=1))["id"])

    async def attached(self, **options: Any) -> str:
        """A volume that the VM has."""
        volume_id = await self.volume()
        await self.have("POST", f"/vms/{self.vm}/volumes", volume_id=volume_id, **options)
        return volume_id

    async def snapshot(self) -> str:
        """A snapshot of the VM."""
        return str((await self.have("POST", f"/vms/{self.vm}/snapshots", name="s"))["id"])

    async def fail(self, verb: str, mode: FaultMode, times: int | None, target: UUID | None) -> None:
        """Have the cloud fail calls about the target, or any."""
        insert = "INSERT INTO mock_cloud.faults (verb, mode, times, vm_id) VALUES ($1, $2, $3, $4)"
        await self.watch.database.sql(insert, verb, mode, times, target)

    def of_vm(self, method: str, path: str = "", **body: Any) -> Ask:
        """A request about the VM."""
        return Ask(method, f"/vms/{self.vm}{path}", body or None, UUID(self.vm))


Prepare = Callable[[Setting], Awaitable[Ask]]


async def create(at: Setting) -> Ask:
    return Ask("POST", "/vms", {"name": "crashes", "flavor_id": at.flavors[0]})


async def start(at: Setting) -> Ask:
    await at.build()
    await at.have("POST", f"/vms/{at.vm}/actions/stop")
    return at.of_vm("POST", "/actions/start")


async def stop(at: Setting) -> Ask:
    await at.build()
    return at.of_vm("POST", "/actions/stop")


async def reboot_soft(at: Setting) -> Ask:
    await at.build()
    return at.of_vm("POST", "/actions/reboot", type="SOFT")


async def reboot_hard(at: Setting) -> Ask:
    await at.build()
    return at.of_vm("POST", "/actions/reboot", type="HARD")


async def resize(at: Setting) -> Ask:
    await at.build()
    return at.of_vm("POST", "/actions/resize", flavor_id=at.flavors[1])


async def resized(at: Setting) -> str:
    """The id of the workflow that waits for the resize to be confirmed."""
    operation_id, _ = await at.send(await resize(at), f"before-{uuid4()}")
    assert await at.watch.ended(operation_id) == "SUCCEEDED"
    return f"resize-{at.vm}-{operation_id}"


async def confirm_resize(at: Setting) -> Ask:
    await resized(at)
    return at.of_vm("POST", "/actions/confirm-resize")


async def revert_resize(at: Setting) -> Ask:
    await resized(at)
    return at.of_vm("POST", "/actions/revert-resize")


async def snapshot(at: Setting) -> Ask:
    await at.build()
    return at.of_vm("POST", "/snapshots", name="s")


async def restore(at: Setting) -> Ask:
    await at.build()
    return at.of_vm("POST", f"/snapshots/{await at.snapshot()}/restore")


async def attach_volume(at: Setting) -> Ask:
    await at.build()
    return at.of_vm("POST", "/volumes", volume_id=await at.volume())


async def detach_volume(at: Setting) -> Ask:
    await at.build()
    return at.of_vm("DELETE", f"/volumes/{await at.attached()}")


async def attach_interface(at: Setting) -> Ask:
    await at.build()
    network_id = (await at.client.read("/networks"))["items"][0]["id"]
    return at.of_vm("POST", "/interfaces", network_id=network_id)


async def detach_interface(at: Setting) -> Ask:
    await at.build()
    (interface,) = (await at.client.read(f"/vms/{at.vm}/interfaces"))["items"]
    return at.of_vm("DELETE", f"/interfaces/{interface['id']}")


async def delete(at: Setting) -> Ask:
    await at.build()
    await at.attached(delete_on_termination=True)
    return at.of_vm("DELETE")


async def delete_snapshot(at: Setting) -> Ask:
    await at.build()
    snapshot_id = await at.snapshot()
    return Ask("DELETE", f"/vms/{at.vm}/snapshots/{snapshot_id}", None, UUID(snapshot_id))


async def create_volume(_: Setting) -> Ask:
    return Ask("POST", "/volumes", {"name": "v", "size_gb": 1})


async def delete_volume(at: Setting) -> Ask:
    volume_id = await at.volume()
    return Ask("DELETE", f"/volumes/{volume_id}", None, UUID(volume_id))


async def delete_while_saved(at: Setting) -> Ask:
    """There is half an image, and a workflow that has to end first."""
    ask = await delete(at)
    await at.fail("create_server_image", LOST, 1, ask.target)
    await at.fail("create_server_image", HANG, None, ask.target)
    saving = at.of_vm("POST", "/snapshots", name="s")
    await at.send(saving, f"before-{uuid4()}")
    hangs = "SELECT FROM operations WHERE vm_id = $1 AND action = 'snapshot' AND attempt = 2"
    while not await at.watch.database.sql(hangs, ask.target):  # noqa: ASYNC110 - a poll
        await asyncio.sleep(0.1)
    return ask


async def delete_while_stuck(at: Setting) -> Ask:
    """There is a workflow that nobody works on, so that it does not end when it is canceled."""
    workflow_id = await resized(at)
    await at.temporal.get_workflow_handle(workflow_id).terminate()
    await at.temporal.start_workflow("Stuck", id=workflow_id, task_queue="nobodys")
    return at.of_vm("DELETE")


async def delete_but_a_volume(at: Setting) -> Ask:
    """The cloud keeps the volume that was to go."""
    await at.build()
    at.left = await at.attached(delete_on_termination=True)
    await at.fail("delete_volume", REFUSE, None, UUID(at.left))
    return at.of_vm("DELETE")


async def confirm_alone(at: Setting) -> Ask:
    """The workflow of the resize is gone."""
    await at.temporal.get_workflow_handle(await resized(at)).terminate()
    return at.of_vm("POST", "/actions/confirm-resize")


async def revert_alone(at: Setting) -> Ask:
    """The workflow of the resize is gone."""
    await at.temporal.get_workflow_handle(await resized(at)).terminate()
    return at.of_vm("POST", "/actions/revert-resize")
