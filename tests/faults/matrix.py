"""Every operation, and how each comes about: what has to be there, what is asked, what the cloud refuses, how it ends.

Which points an operation passes, `matrix.txt` says; it was recorded (FAILPOINTS=record), and is compared with the code.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from activities.backends.mock_schema import FaultMode
from domain.lifecycle import Action
from tests.faults.client import Client
from tests.integration.truth import Database

RECORDED: Final = Path(__file__).with_name("matrix.txt")
PATIENCE: Final = 120.0  # seconds
LOST, REFUSE, HANG = FaultMode.FAIL_AFTER_EFFECT, FaultMode.REFUSE, FaultMode.NEVER_ANSWER
EFFECT_THEN_REFUSED: Final = (LOST, REFUSE)


class Watch:
    """Sees operations end, all with one look at the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[UUID, asyncio.Future[str]] = {}

    async def run(self) -> None:
        """Look until canceled."""
        query = "SELECT id, status FROM operations WHERE id = ANY($1) AND status NOT IN ('QUEUED', 'RUNNING')"
        while True:
            for row in await self._database.sql(query, list(self._waiting)) if self._waiting else []:
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
    """Where an operation comes about: a user's VM and what else it needs."""

    client: Client
    watch: Watch
    flavors: list[str]
    vm: str = ""

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


async def resized(at: Setting) -> None:
    ask = await resize(at)
    await at.have(ask.method, ask.path, **(ask.body or {}))


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


@dataclass(frozen=True)
class Scenario:
    """An operation that is carried out, or that the cloud refuses; `refuses` are verbs, and how each goes wrong.

    Of the last fault of a verb there is no end. `unasked` is whether its resize is confirmed by its window.
    """

    name: str
    action: Action
    prepare: Prepare
    refuses: tuple[tuple[str, tuple[FaultMode, ...]], ...] = ()
    ends: str = "SUCCEEDED"
    unasked: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether what it is about is not known before, so that its faults meet all that is done at the time."""
        return bool(self.refuses) and self.prepare in {create, create_volume}


def _refused(action: Action, prepare: Prepare, verb: str, *modes: FaultMode) -> Scenario:
    return Scenario(f"{action}, refused", action, prepare, ((verb, modes or (REFUSE,)),), "FAILED")


WELL: Final[dict[Action, Prepare]] = {
    Action.CREATE: create,
    Action.START: start,
    Action.STOP: stop,
    Action.REBOOT_SOFT: reboot_soft,
    Action.REBOOT_HARD: reboot_hard,
    Action.RESIZE: resize,
    Action.CONFIRM_RESIZE: confirm_resize,
    Action.REVERT_RESIZE: revert_resize,
    Action.SNAPSHOT: snapshot,
    Action.RESTORE: restore,
    Action.ATTACH_VOLUME: attach_volume,
    Action.DETACH_VOLUME: detach_volume,
    Action.ATTACH_INTERFACE: attach_interface,
    Action.DETACH_INTERFACE: detach_interface,
    Action.DELETE: delete,
    Action.DELETE_SNAPSHOT: delete_snapshot,
    Action.CREATE_VOLUME: create_volume,
    Action.DELETE_VOLUME: delete_volume,
}

SCENARIOS: Final = [
    *(Scenario(action, action, prepare, unasked=action is Action.RESIZE) for action, prepare in WELL.items()),
    _refused(Action.CREATE, create, "create_server", *EFFECT_THEN_REFUSED),
    _refused(Action.START, start, "start_server"),
    _refused(Action.STOP, stop, "stop_server"),
    _refused(Action.REBOOT_SOFT, reboot_soft, "reboot_server"),
    _refused(Action.REBOOT_HARD, reboot_hard, "reboot_server"),
    _refused(Action.RESIZE, resize, "resize_server", *EFFECT_THEN_REFUSED),
    _refused(Action.CONFIRM_RESIZE, confirm_resize, "confirm_server_resize"),
    _refused(Action.REVERT_RESIZE, revert_resize, "revert_server_resize"),
    _refused(Action.SNAPSHOT, snapshot, "create_server_image", *EFFECT_THEN_REFUSED),
    _refused(Action.RESTORE, restore, "rebuild_server"),
    _refused(Action.ATTACH_VOLUME, attach_volume, "attach_volume", *EFFECT_THEN_REFUSED),
    _refused(Action.DETACH_VOLUME, detach_volume, "detach_volume"),
    _refused(Action.ATTACH_INTERFACE, attach_interface, "create_server_interface", *EFFECT_THEN_REFUSED),
    _refused(Action.DETACH_INTERFACE, detach_interface, "delete_server_interface"),
    _refused(Action.DELETE, delete, "delete_server"),
    _refused(Action.DELETE_SNAPSHOT, delete_snapshot, "delete_image"),
    _refused(Action.CREATE_VOLUME, create_volume, "create_volume", *EFFECT_THEN_REFUSED),
    _refused(Action.DELETE_VOLUME, delete_volume, "delete_volume"),
]
BY_NAME: Final = {scenario.name: scenario for scenario in SCENARIOS}

Matrix = dict[str, list[str]]
"""The points that each scenario passes, in their order."""


def recorded() -> Matrix:
    """What was recorded."""
    matrix: Matrix = {}
    for line in RECORDED.read_text().splitlines():
        if line.startswith("    "):
            matrix[list(matrix)[-1]].append(line.strip())
        elif line:
            matrix[line] = []
    return matrix


def write(matrix: Matrix) -> None:
    """Record what was seen."""
    RECORDED.write_text("\n".join(f"{name}\n" + "".join(f"    {one}\n" for one in matrix[name]) for name in BY_NAME))


@dataclass(frozen=True)
class Cell:
    """One crash: of a scenario, at a point."""

    scenario: Scenario
    point: str
    at: int  # how many points come before it

    @property
    def in_api(self) -> bool:
        """Whether it is the API that crashes."""
        return len(self.point.split()) == 2 and self.point.split()[1] in "-+"


def cells(matrix: Matrix) -> list[Cell]:
    """All crashes there are; of a refused operation those that the same one has not had when it went well."""
    found = []
    for name, points in matrix.items():
        scenario = BY_NAME[name]
        had = set(matrix[scenario.action]) if scenario.refuses else set()
        found += [Cell(scenario, point, at) for at, point in enumerate(points) if point not in had]
    return found
