"""Anything that users may ask, in any order, several at once; and a model of what must have become of it.

The model is independent of the code under test: answers are judged by the specification's table, and what is left in
the end by a fold over the operations that succeeded.
"""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Self
from uuid import UUID

import httpx
from hypothesis import strategies as st

from tests.domain.specified import SPECIFIED, STATUSES, specified_to_allow
from tests.support.stack import PATIENCE, User
from tests.support.truth import Database

ACTIONS = (
    *("create", "delete", "start", "stop", "reboot-soft", "reboot-hard", "resize", "confirm-resize", "revert-resize"),
    *("snapshot", "restore", "delete-snapshot", "create-volume", "delete-volume", "attach-volume", "detach-volume"),
    *("attach-interface", "detach-interface"),
)
RARE = {"create", "delete", "delete-volume", "delete-snapshot"}
NOT_BESIDE_ATTACHMENTS = {"resize", "snapshot", "restore"}
RESOURCES_ALLOW = {
    "restore": {"AVAILABLE"},
    "delete-snapshot": {"AVAILABLE", "ERROR"},
    "delete-volume": {"AVAILABLE", "ERROR"},
    "attach-volume": {"AVAILABLE"},
    "detach-volume": {"IN_USE", "ATTACHED"},
    "detach-interface": {"ATTACHED"},
}
ENDED = {"SUCCEEDED", "SUPERSEDED"}  # nothing fails where the cloud fails nothing


@dataclass(frozen=True)
class Step:
    """One request: what, of which of the things there are, and how long to wait before it.

    With `sensible` something else that the VM allows is asked instead of what it does not.
    """

    action: str
    which: int
    other: int
    pause: float
    sensible: bool = False


steps = st.builds(
    Step,
    st.sampled_from([action for action in ACTIONS for _ in range(1 if action in RARE else 3)]),
    st.integers(0, 7),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.1, 0.3, 0.6]),
    st.booleans(),
)
lanes = st.lists(st.lists(steps, min_size=12, max_size=30), min_size=4, max_size=4)


@dataclass
class World:
    """What one user has, as far as the answers told; deleted things stay in it, and are asked for again."""

    database: Database
    user: User
    flavors: list[str]
    networks: list[str]
    vms: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    volumes: list[str] = field(default_factory=list)
    snapshots: list[tuple[str, str]] = field(default_factory=list)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)

    @classmethod
    async def begin(cls, database: Database, user: User, number: int = 2) -> Self:
        """So many VMs and volumes, at rest."""
        networks = [network["id"] for network in (await user.read("/networks"))["items"]]
        world = cls(database, user, (await user.flavors())[:3], networks)
        for which in range(number):
            await world.do(Step("create", which, which, 0))
            await world.do(Step("create-volume", which, which, 0))
        for vm_id in world.vms:
            await user.until(vm_id, "ACTIVE", "ERROR")
        return world

    async def walk(self, lane: list[Step]) -> None:
        """Make one request after the other."""
        for step in lane:
            await asyncio.sleep(step.pause)
            await self.do(step)

    async def do(self, step: Step) -> None:
        """Make one request and judge its answer."""
        if step.sensible:
            step = await self._sensible(step)
        request = {
            "create": self._create_vm,
            "delete": self._delete_vm,
            "snapshot": self._create_snapshot,
            "restore": self._restore,
            "delete-snapshot": self._delete_snapshot,
            "create-volume": self._create_volume,
            "delete-volume": self._delete_volume,
            "attach-volume": self._attach_volume,
            "detach-volume": self._detach_volume,
            "attach-interface": self._attach_interface,
            "detach-interface": self._detach_interface,
        }.get(step.action, self._act)
        answer = await request(step)
        if answer is not None:
            self.answers[step.action, answer.status_code] += 1
            self.judge(step, answer)

    def judge(self, step: Step, answer: httpx.Response) -> None:
        """Whether this answer is right."""
        judge(step, answer)

    async def _sensible(self, step: Step) -> Step:
        """What the VM allows instead, unless it is allowed or of no VM."""
        allowed = (await self.user.read(f"/vms/{self._vm(step)}"))["allowed_actions"]
        words = {"reboot": "reboot-hard" if step.other % 2 else "reboot-soft"}
        actions = [words.get(word, word) for word in allowed if word != "delete"]
        if not actions or step.action in actions or step.action in RARE:
            return step
        return replace(step, action=actions[step.other % len(actions)])

    def _vm(self, step: Step) -> str:
        """One that is not deleted yet, most of the time."""
        there = [vm for vm in self.vms if vm not in self.gone] if step.which else []
        return (there or self.vms)[step.which % len(there or self.vms)]

    def _volume(self, step: Step) -> str:
        return self.volumes[step.other % len(self.volumes)]

    async def _send(self, method: str, path: str, **body: Any) -> httpx.Response:
        return await self.user.http.request(method, path, json=body or None)

    async def _create_vm(self, step: Step) -> httpx.Response | None:
        if len(self.vms) > 5:
            return None
        networks = self.networks[: step.other % (len(self.networks) + 1)]
        flavor = self.flavors[step.which % len(self.flavors)]
        answer = await self._send("POST", "/vms", name="any", flavor_id=flavor, network_ids=networks)
        if answer.status_code == 202:
            self.vms.append(answer.json()["id"])
        return answer

    async def _delete_vm(self, step: Step) -> httpx.Response:
        vm_id = self._vm(step)
        self.gone.add(vm_id)
        return await self._send("DELETE", f"/vms/{vm_id}")

    async def _act(self, step: Step) -> httpx.Response:
        word, _, kind = step.action.partition("-") if step.action.startswith("reboot") else (step.action, "", "")
        body = {"type": kind.upper()} if kind else {}
        if word == "resize":
            body = {"flavor_id": self.flavors[step.other % len(self.flavors)]}
        return await self._send("POST", f"/vms/{self._vm(step)}/actions/{word}", **body)

    async def _create_snapshot(self, step: Step) -> httpx.Response:
        vm_id = self._vm(step)
        answer = await self._send("POST", f"/vms/{vm_id}/snapshots", name="any")
        if answer.status_code == 202:
            self.snapshots.append((vm_id, answer.json()["id"]))
        return answer

    async def _of_snapshot(self, step: Step, method: str, tail: str = "") -> httpx.Response | None:
        if not self.snapshots:
            return None
        vm_id, snapshot_id = self.snapshots[step.other % len(self.snapshots)]
        return await self._send(method, f"/vms/{vm_id}/snapshots/{snapshot_id}{tail}")

    async def _restore(self, step: Step) -> httpx.Response | None:
        return await self._of_snapshot(step, "POST", "/restore")

    async def _delete_snapshot(self, step: Step) -> httpx.Response | None:
        return await self._of_snapshot(step, "DELETE")

    async def _create_volume(self, step: Step) -> httpx.Response | None:
        if len(self.volumes) > 7:
            return None
        answer = await self._send("POST", "/volumes", name="any", size_gb=1 + step.which)
        self.volumes.append(answer.json()["id"])
        return answer

    async def _delete_volume(self, step: Step) -> httpx.Response:
        return await self._send("DELETE", f"/volumes/{self._volume(step)}")

    async def _attach_volume(self, step: Step) -> httpx.Response:
        body = {"volume_id": self._volume(step), "delete_on_termination": step.which % 3 == 0}
        return await self._send("POST", f"/vms/{self._vm(step)}/volumes", **body)

    async def _detach_volume(self, step: Step) -> httpx.Response | None:
        attached = (await self.user.read(f"/vms/{self._vm(step)}/volumes"))["items"]
        if not attached:
            return None
        volume_id = attached[step.other % len(attached)]["volume_id"]
        return await self._send("DELETE", f"/vms/{self._vm(step)}/volumes/{volume_id}")

    async def _attach_interface(self, step: Step) -> httpx.Response:
        network_id = self.networks[step.other % len(self.networks)]
        return await self._send("POST", f"/vms/{self._vm(step)}/interfaces", network_id=network_id)

    async def _detach_interface(self, step: Step) -> httpx.Response | None:
        attached = (await self.user.read(f"/vms/{self._vm(step)}/interfaces"))["items"]
        if not attached:
            return None
        interface_id = attached[step.other % len(attached)]["id"]
        return await self._send("DELETE", f"/vms/{self._vm(step)}/interfaces/{interface_id}")


def judge(step: Step, answer: httpx.Response) -> None:
    """Whether the specification has this answer: of a refusal, that the state it names does not allow the action."""
    if answer.status_code in {202, 204}:
        assert answer.headers["Operation-Location"], step
        return
    problem = answer.json()
    if answer.status_code == 404:
        assert step.action.startswith("detach-"), (step, problem)  # somebody else was faster
        return
    if answer.status_code == 422:
        assert problem["code"] == "same_flavor", (step, problem)
        return
    assert answer.status_code == 409, (step, problem)
    status, task_state = problem.get("current_status"), problem.get("task_state")
    match problem["code"]:
        case "invalid_transition":
            assert _is_refused(step.action, status, task_state), (step, problem)
            assert step.action not in problem["allowed_actions"], (step, problem)
        case "attachment_in_progress":
            assert step.action in NOT_BESIDE_ATTACHMENTS, (step, problem)
            assert not NOT_BESIDE_ATTACHMENTS & set(problem["allowed_actions"]), (step, problem)
        case code:
            assert code == "no_free_address", (step, problem)


def _is_refused(action: str, status: str, task_state: str | None) -> bool:
    """Whether a VM in this state, or the other resource that the action is about, does not allow it."""
    by_vm = status in STATUSES and not specified_to_allow(action, status, task_state, launched=status != "BUILDING")
    return by_vm or (action in RESOURCES_ALLOW and status not in RESOURCES_ALLOW[action])


@dataclass
class Expected:
    """What must be left of one VM."""

    status: str
    flavor: str
    before: tuple[str, str] = ("", "")
    interfaces: int = 0


class Model:
    """Folds the operations, in the order in which they were accepted, to what must be left."""

    def __init__(self) -> None:
        self.vms: dict[UUID, Expected] = {}
        self.volumes: dict[UUID, str] = {}
        self.snapshots: dict[UUID, str] = {}
        self.attached: dict[UUID, tuple[UUID, str, bool]] = {}

    def apply(self, row: Any) -> None:
        """One operation."""
        input, action, vm_id, id = json.loads(row["input"]), row["action"], row["vm_id"], row["resource_id"]
        vm = self.vms.get(vm_id)
        if action == "create":
            self.vms[vm_id] = Expected("ACTIVE", input["flavor_id"], interfaces=len(input["network_ids"]))
        elif action in {"create-volume", "delete-volume"}:
            self.volumes[id] = "AVAILABLE" if action == "create-volume" else "DELETED"
        elif action in {"snapshot", "delete-snapshot"}:
            self.snapshots[id] = "AVAILABLE" if action == "snapshot" else "DELETED"
        elif vm is not None:
            self._of_vm(vm, vm_id, id, action, input)

    def _of_vm(self, vm: Expected, vm_id: UUID, id: UUID, action: str, input: dict[str, Any]) -> None:
        match action:
            case "delete":
                self._delete(vm, vm_id)
            case "resize":
                vm.before = (vm.status, vm.flavor)
                vm.status, vm.flavor = "VERIFY_RESIZE", input["flavor_id"]
            case "confirm-resize":
                vm.status = vm.before[0]
            case "revert-resize":
                vm.status, vm.flavor = vm.before
            case "restore":
                vm.flavor = input["flavor_id"]
            case "attach-volume":
                self.attached[id] = (vm_id, input["device"], input["delete_on_termination"])
            case "detach-volume":
                del self.attached[id]
            case "attach-interface" | "detach-interface":
                vm.interfaces += 1 if action == "attach-interface" else -1
            case _:
                vm.status = SPECIFIED[action].ends

    def _delete(self, vm: Expected, vm_id: UUID) -> None:
        vm.status, vm.interfaces = "DELETED", 0
        for volume_id, (of_vm, _, delete_on_termination) in list(self.attached.items()):
            if of_vm == vm_id:
                del self.attached[volume_id]
                if delete_on_termination:
                    self.volumes[volume_id] = "DELETED"


async def until_all_has_ended(world: World) -> None:
    """Wait until nothing of the user's is queued or under way."""
    give_up_at = time.monotonic() + PATIENCE
    while (rest := await world.user.read("/operations?status=QUEUED,RUNNING"))["total"]:
        assert time.monotonic() < give_up_at, rest["items"]
        await asyncio.sleep(0.1)


async def check_end(world: World) -> None:
    """All that is left is what the model expects."""
    (user,) = await world.database.sql("SELECT owner_id FROM vms WHERE id = $1", UUID(world.vms[0]))
    mine = user["owner_id"]
    rows = await world.database.sql("SELECT * FROM operations WHERE owner_id = $1 ORDER BY created_at", mine)
    assert {row["status"] for row in rows} <= ENDED, [dict(row) for row in rows if row["status"] not in ENDED]
    model = Model()
    for row in rows:
        # Whether a volume goes with its VM is decided by what was accepted before, though the delete superseded it.
        if row["status"] == "SUCCEEDED" or row["action"] in {"attach-volume", "detach-volume"}:
            model.apply(row)
    vms = await world.database.sql(
        """SELECT id, status, flavor_id, task_state, attaching,
                   (SELECT count(*) FROM interfaces WHERE vm_id = vms.id) AS interfaces
            FROM vms WHERE owner_id = $1""",
        mine,
    )
    for vm in vms:
        expected = model.vms.get(vm["id"], Expected("DELETED", str(vm["flavor_id"])))
        expected.status = "DELETED" if vm["id"] not in model.vms else expected.status
        actual = (vm["status"], str(vm["flavor_id"]), vm["interfaces"], vm["task_state"], vm["attaching"])
        assert actual == (expected.status, expected.flavor, expected.interfaces, None, 0), dict(vm)
    volumes = await world.database.sql(
        """SELECT volumes.id, volumes.status, attachments.vm_id, attachments.device FROM volumes
            LEFT JOIN attachments ON attachments.volume_id = volumes.id WHERE owner_id = $1""",
        mine,
    )
    for volume in volumes:
        place = model.attached.get(volume["id"])
        wanted = ("IN_USE", *place[:2]) if place else (model.volumes[volume["id"]], None, None)
        assert (volume["status"], volume["vm_id"], volume["device"]) == wanted, dict(volume)
    for snapshot in await world.database.sql("SELECT id, status FROM snapshots WHERE owner_id = $1", mine):
        assert snapshot["status"] == model.snapshots.get(snapshot["id"], "DELETED"), dict(snapshot)
