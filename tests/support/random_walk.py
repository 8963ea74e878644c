"""A user who sends random requests, and checks each answer against the specification.

The checks are independent of the code under test: they use the specification's own table, not the product's.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Self

import httpx
from hypothesis import strategies as st

from tests.domain.specified import STATUSES, specified_to_allow
from tests.support.truth import Database
from tests.support.users import User

ACTIONS = (
    *("create", "delete", "start", "stop", "reboot-soft", "reboot-hard", "resize", "confirm-resize", "revert-resize"),
    *("snapshot", "restore", "delete-snapshot", "create-volume", "delete-volume", "attach-volume", "detach-volume"),
    "extend-volume",
    *("attach-interface", "detach-interface"),
)
RARE = {"create", "delete", "delete-volume", "delete-snapshot"}
MAX_VMS, MAX_VOLUMES = 6, 8
REFUSED_WHILE_ATTACHING = {"resize", "snapshot", "restore"}
# The statuses of the action's other resource, which is not the VM, in which the action is allowed.
RESOURCE_STATUSES = {
    "restore": {"AVAILABLE"},
    "delete-snapshot": {"AVAILABLE", "ERROR"},
    "delete-volume": {"AVAILABLE", "ERROR"},
    "extend-volume": {"AVAILABLE", "IN_USE"},
    "attach-volume": {"AVAILABLE"},
    "detach-volume": {"IN_USE", "ATTACHED"},
    "detach-interface": {"ATTACHED"},
}


@dataclass(frozen=True)
class Step:
    """One request: an action, two numbers that select the resources, and a pause before it.

    If `sensible`, an action that the VM does not allow is replaced by one that it allows.
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
"""Lists of steps that run concurrently."""


@dataclass
class Walker:
    """A user and the resources that the answers have named; deleted ones stay listed and get requests, too."""

    database: Database
    user: User
    flavors: list[str]
    networks: list[str]
    vms: list[str] = field(default_factory=list)
    deleted_vms: set[str] = field(default_factory=set)
    volumes: list[str] = field(default_factory=list)
    snapshots: list[tuple[str, str]] = field(default_factory=list)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)

    @classmethod
    async def begin(cls, database: Database, user: User, number: int = 2) -> Self:
        """Create this number of VMs and volumes, and wait until the VMs are built."""
        networks = [network["id"] for network in (await user.read("/networks"))["items"]]
        walker = cls(database, user, (await user.flavors())[:3], networks)
        for which in range(number):
            await walker.take(Step("create", which, which, 0))
            await walker.take(Step("create-volume", which, which, 0))
        for vm_id in walker.vms:
            await user.until(vm_id, "ACTIVE", "ERROR")
        return walker

    async def walk(self, lane: list[Step]) -> None:
        """Take one step after the other."""
        for step in lane:
            await asyncio.sleep(step.pause)
            await self.take(step)

    async def take(self, step: Step) -> None:
        """Send one request and check its answer."""
        if step.sensible:
            step = await self._sensible(step)
        send = {
            "create": self._create_vm,
            "delete": self._delete_vm,
            "snapshot": self._create_snapshot,
            "restore": self._restore,
            "delete-snapshot": self._delete_snapshot,
            "create-volume": self._create_volume,
            "delete-volume": self._delete_volume,
            "extend-volume": self._extend_volume,
            "attach-volume": self._attach_volume,
            "detach-volume": self._detach_volume,
            "attach-interface": self._attach_interface,
            "detach-interface": self._detach_interface,
        }.get(step.action, self._act)
        answer = await send(step)
        if answer is not None:
            self.answers[step.action, answer.status_code] += 1
            self.check(step, answer)

    def check(self, step: Step, answer: httpx.Response) -> None:
        """Check one answer."""
        check_answer(step, answer)

    async def _sensible(self, step: Step) -> Step:
        """The step itself if it is allowed or rare, else one with an action that its VM allows."""
        allowed = (await self.user.read(f"/vms/{self._vm(step)}"))["allowed_actions"]
        # In `allowed_actions` there is one word for both kinds of reboot.
        reboot = "reboot-hard" if step.other % 2 else "reboot-soft"
        actions = [reboot if action == "reboot" else action for action in allowed if action != "delete"]
        if not actions or step.action in actions or step.action in RARE:
            return step
        return replace(step, action=actions[step.other % len(actions)])

    def _vm(self, step: Step) -> str:
        """The id of a VM; mostly of one that is not deleted."""
        existing = [vm for vm in self.vms if vm not in self.deleted_vms] if step.which else []
        candidates = existing or self.vms
        return candidates[step.which % len(candidates)]

    def _volume(self, step: Step) -> str:
        return self.volumes[step.other % len(self.volumes)]

    async def _send(self, method: str, path: str, **body: Any) -> httpx.Response:
        return await self.user.http.request(method, path, json=body or None)

    async def _create_vm(self, step: Step) -> httpx.Response | None:
        if len(self.vms) >= MAX_VMS:
            return None
        networks = self.networks[: step.other % (len(self.networks) + 1)]
        flavor = self.flavors[step.which % len(self.flavors)]
        answer = await self._send("POST", "/vms", name="random", flavor_id=flavor, network_ids=networks)
        if answer.status_code == 202:
            self.vms.append(answer.json()["id"])
        return answer

    async def _delete_vm(self, step: Step) -> httpx.Response:
        vm_id = self._vm(step)
        self.deleted_vms.add(vm_id)
        return await self._send("DELETE", f"/vms/{vm_id}")

    async def _act(self, step: Step) -> httpx.Response:
        word, _, kind = step.action.partition("-") if step.action.startswith("reboot") else (step.action, "", "")
        body = {"type": kind.upper()} if kind else {}
        if word == "resize":
            body = {"flavor_id": self.flavors[step.other % len(self.flavors)]}
        return await self._send("POST", f"/vms/{self._vm(step)}/actions/{word}", **body)

    async def _create_snapshot(self, step: Step) -> httpx.Response:
        vm_id = self._vm(step)
        answer = await self._send("POST", f"/vms/{vm_id}/snapshots", name="random")
        if answer.status_code == 202:
            self.snapshots.append((vm_id, answer.json()["id"]))
        return answer

    async def _send_to_snapshot(self, step: Step, method: str, tail: str = "") -> httpx.Response | None:
        if not self.snapshots:
            return None
        vm_id, snapshot_id = self.snapshots[step.other % len(self.snapshots)]
        return await self._send(method, f"/vms/{vm_id}/snapshots/{snapshot_id}{tail}")

    async def _restore(self, step: Step) -> httpx.Response | None:
        return await self._send_to_snapshot(step, "POST", "/restore")

    async def _delete_snapshot(self, step: Step) -> httpx.Response | None:
        return await self._send_to_snapshot(step, "DELETE")

    async def _create_volume(self, step: Step) -> httpx.Response | None:
        if len(self.volumes) >= MAX_VOLUMES:
            return None
        answer = await self._send("POST", "/volumes", name="random", size_gb=1 + step.which)
        self.volumes.append(answer.json()["id"])
        return answer

    async def _delete_volume(self, step: Step) -> httpx.Response:
        return await self._send("DELETE", f"/volumes/{self._volume(step)}")

    async def _extend_volume(self, step: Step) -> httpx.Response:
        size_gb = 1 + step.which + len(self.answers)
        return await self._send("POST", f"/volumes/{self._volume(step)}/actions/extend", size_gb=size_gb)

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


def check_answer(step: Step, answer: httpx.Response) -> None:
    """Check that the specification allows this answer; a 409 must name a state that does not allow the action."""
    if answer.status_code in {202, 204}:
        assert answer.headers["Operation-Location"], step
        return
    problem = answer.json()
    if answer.status_code == 404:
        assert step.action.startswith("detach-"), (step, problem)  # another lane has detached it first
        return
    if answer.status_code == 422:
        expected = "volume_too_small" if step.action == "extend-volume" else "same_flavor"
        assert problem["code"] == expected, (step, problem)
        return
    assert answer.status_code == 409, (step, problem)
    status, task_state = problem.get("current_status"), problem.get("task_state")
    match problem["code"]:
        case "invalid_transition":
            assert _is_refused(step.action, status, task_state), (step, problem)
            assert step.action not in problem["allowed_actions"], (step, problem)
        case "attachment_in_progress":
            assert step.action in REFUSED_WHILE_ATTACHING, (step, problem)
            assert not REFUSED_WHILE_ATTACHING & set(problem["allowed_actions"]), (step, problem)
        case code:
            assert code == "no_free_address", (step, problem)


def _is_refused(action: str, status: str, task_state: str | None) -> bool:
    """Whether the specification refuses the action in this state, of the VM or of the action's other resource."""
    by_vm = status in STATUSES and not specified_to_allow(action, status, task_state, launched=status != "BUILDING")
    return by_vm or (action in RESOURCE_STATUSES and status not in RESOURCE_STATUSES[action])
