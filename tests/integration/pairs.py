"""What concerns several resources at once: a function for each pair of requests that meet.

The first line of a function's docstring is the pair's row in docs/architecture.md. A function answers with the word for
what has become of it this time, and asserts that nothing else can.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.stack import User

Request = Callable[[], Awaitable[httpx.Response]]


@dataclass
class Scene:
    """A user's VM that is ACTIVE, and what else a pair needs."""

    user: User
    vm: str

    async def ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        """Send one request, once."""
        answer = await self.user.http.request(method, path, json=body or None, timeout=30)
        assert answer.status_code < 500, answer.text
        return answer

    def will(self, method: str, path: str, **body: Any) -> Request:
        """A request that is yet to be sent."""
        return lambda: self.ask(method, path, **body)

    async def have(self, path: str, status: str, **body: Any) -> dict[str, Any]:
        """What a POST makes, once it is in the status."""
        made = await self.ask("POST", path, **body)
        assert made.status_code == 202, made.text
        return await self.until(made.headers["Location"].removeprefix("/api/v1"), status)

    async def volume(self) -> str:
        """A volume that is free."""
        return str((await self.have("/volumes", "AVAILABLE", name="v", size_gb=1))["id"])

    async def attached(self, **options: Any) -> str:
        """A volume that the VM has."""
        volume_id = await self.volume()
        await self.have(f"/vms/{self.vm}/volumes", "ATTACHED", volume_id=volume_id, **options)
        return volume_id

    async def snapshot(self) -> str:
        """A snapshot of the VM."""
        return str((await self.have(f"/vms/{self.vm}/snapshots", "AVAILABLE", name="s"))["id"])

    async def second_vm(self) -> str:
        """Another VM that is ACTIVE."""
        vm = await self.user.create("second")
        await self.user.until(vm["id"], "ACTIVE")
        return str(vm["id"])

    async def until(self, path: str, *statuses: str) -> dict[str, Any]:
        """What is at a path once it is in one of the statuses."""
        async with asyncio.timeout(60):
            while (found := await self.user.read(path)).get("status") not in statuses:  # noqa: ASYNC110 - a poll
                await asyncio.sleep(0.1)
        return dict(found)

    async def ended(self, *answers: httpx.Response) -> list[str]:
        """How the operations of those requests that were accepted have ended."""
        paths = [answer.headers["Operation-Location"] for answer in answers if answer.status_code in {202, 204}]
        all_ends = ("SUCCEEDED", "FAILED", "CANCELED", "SUPERSEDED")
        return [(await self.until(path.removeprefix("/api/v1"), *all_ends))["status"] for path in paths]


async def meet(first: Request, second: Request) -> tuple[httpx.Response, httpx.Response]:
    """Both requests, in either order, at once or the later while the other is carried out."""

    async def later(request: Request, pause: float) -> httpx.Response:
        await asyncio.sleep(pause)
        return await request()

    pauses = random.sample([0.0, random.choice([0.0, 0.02, 0.1, 0.3, 0.6])], 2)
    answers = await asyncio.gather(later(first, pauses[0]), later(second, pauses[1]))
    return answers[0], answers[1]


async def delete_vm_and_snapshot(at: Scene) -> str:
    """The snapshot is refused, or superseded and its image removed, or finished and kept."""
    deleting, taking = await meet(at.will("DELETE", _vm(at)), at.will("POST", f"{_vm(at)}/snapshots", name="s"))
    await _gone(at, deleting)
    if taking.status_code == 409:
        return "refused"
    (end,) = await at.ended(taking)
    (left,) = (await at.user.read(f"{_vm(at)}/snapshots?status=AVAILABLE,DELETED,CREATING,DELETING,ERROR"))["items"]
    assert (end, left["status"]) in {("SUPERSEDED", "DELETED"), ("SUCCEEDED", "AVAILABLE")}
    return f"{left['status']}"


async def delete_vm_and_restore(at: Scene) -> str:
    """The restore is refused, or superseded, or done; the snapshot is kept."""
    path = f"{_vm(at)}/snapshots/{await at.snapshot()}"
    deleting, restoring = await meet(at.will("DELETE", _vm(at)), at.will("POST", f"{path}/restore"))
    await _gone(at, deleting)
    assert (await at.user.read(path))["status"] == "AVAILABLE"
    return await _became(at, restoring)


async def delete_vm_and_delete_snapshot(at: Scene) -> str:
    """Both are done: a snapshot's delete does not end with its VM."""
    path = f"{_vm(at)}/snapshots/{await at.snapshot()}"
    deleting, forgetting = await meet(at.will("DELETE", _vm(at)), at.will("DELETE", path))
    await _gone(at, deleting)
    assert await at.ended(forgetting) == ["SUCCEEDED"]
    assert (await at.user.read(path))["status"] == "DELETED"
    return "both"


async def delete_vm_and_attach_volume(at: Scene) -> str:
    """The attach is refused, or superseded, or done; the volume is free, or deleted where that was asked for."""
    volume_id, with_vm = await at.volume(), random.random() < 0.5
    body = {"volume_id": volume_id, "delete_on_termination": with_vm}
    deleting, attaching = await meet(at.will("DELETE", _vm(at)), at.will("POST", f"{_vm(at)}/volumes", **body))
    await _gone(at, deleting)
    became = await _became(at, attaching)
    goes = with_vm and became != "refused"
    assert (await at.user.read(f"/volumes/{volume_id}"))["status"] == ("DELETED" if goes else "AVAILABLE")
    return became


async def delete_vm_and_detach_volume(at: Scene) -> str:
    """The detach is refused, or done, or superseded; a volume that goes with its VM stays if the detach came first."""
    volume_id = await at.attached(delete_on_termination=True)
    deleting, detaching = await meet(at.will("DELETE", _vm(at)), at.will("DELETE", f"{_vm(at)}/volumes/{volume_id}"))
    await _gone(at, deleting)
    operations = [answer.headers.get("Operation-Location") for answer in (detaching, deleting)]
    was_first = detaching.status_code == 204 and operations[0] != operations[1]
    assert (await at.user.read(f"/volumes/{volume_id}"))["status"] == ("AVAILABLE" if was_first else "DELETED")
    return await _became(at, detaching) if was_first else "refused"


async def delete_vm_with_ten_volumes(at: Scene) -> str:
    """Attached at once they get ten devices; with the VM those go that were to, and the others are free."""
    ids = await asyncio.gather(*(at.volume() for _ in range(10)))
    bodies = [{"volume_id": id, "delete_on_termination": number % 2 == 0} for number, id in enumerate(ids)]
    attaching = await asyncio.gather(*(at.ask("POST", f"{_vm(at)}/volumes", **body) for body in bodies))
    assert {answer.status_code for answer in attaching} == {202}
    assert len({answer.json()["device"] for answer in attaching}) == len(ids)
    await asyncio.sleep(random.choice([0.0, 0.1, 0.5]))
    await _gone(at, await at.ask("DELETE", _vm(at)))
    left = [(await at.user.read(f"/volumes/{id}"))["status"] for id in ids]
    assert left == ["DELETED", "AVAILABLE"] * 5
    return ", ".join(sorted(set(await at.ended(*attaching))))


async def delete_vm_and_attach_interface(at: Scene) -> str:
    """The attach is refused, or superseded, or done; every address is given back."""
    network_id = (await at.user.read("/networks"))["items"][0]["id"]
    attach = at.will("POST", f"{_vm(at)}/interfaces", network_id=network_id)
    deleting, attaching = await meet(at.will("DELETE", _vm(at)), attach)
    await _gone(at, deleting)
    assert (await at.user.read(f"{_vm(at)}/interfaces"))["total"] == 0
    return await _became(at, attaching)


async def two_vms_and_one_volume(at: Scene) -> str:
    """One gets it, the other is refused."""
    other, volume_id = await at.second_vm(), await at.volume()
    answers = await meet(*(at.will("POST", f"/vms/{vm}/volumes", volume_id=volume_id) for vm in (at.vm, other)))
    assert sorted(answer.status_code for answer in answers) == [202, 409]
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert refused["current_status"] in {"ATTACHING", "IN_USE"}
    assert await at.ended(*answers) == ["SUCCEEDED"]
    return "first" if answers[0].status_code == 202 else "second"


async def attach_and_delete_volume(at: Scene) -> str:
    """Whichever is first; the other is refused."""
    volume_id = await at.volume()
    attach = at.will("POST", f"{_vm(at)}/volumes", volume_id=volume_id)
    attaching, deleting = await meet(attach, at.will("DELETE", f"/volumes/{volume_id}"))
    assert {attaching.status_code, deleting.status_code} in ({202, 409}, {409, 204})
    assert await at.ended(attaching, deleting) == ["SUCCEEDED"]
    return "attached" if attaching.status_code == 202 else "deleted"


async def detach_twice(at: Scene) -> str:
    """Once; the second gets the first one's operation, or 404 when it is over."""
    volume_id = await at.attached()
    answers = await meet(*(at.will("DELETE", f"{_vm(at)}/volumes/{volume_id}") for _ in range(2)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes in ([204, 204], [204, 404])
    assert len({answer.headers["Operation-Location"] for answer in answers if answer.status_code == 204}) == 1
    assert set(await at.ended(*answers)) == {"SUCCEEDED"}
    return "again" if codes == [204, 204] else "404"


async def detach_and_delete_volume(at: Scene) -> str:
    """The volume is deleted when it is free, and refused before."""
    volume_id = await at.attached()
    detach = at.will("DELETE", f"{_vm(at)}/volumes/{volume_id}")
    detaching, deleting = await meet(detach, at.will("DELETE", f"/volumes/{volume_id}"))
    assert (detaching.status_code, deleting.status_code) in {(204, 204), (204, 409)}
    assert set(await at.ended(detaching, deleting)) == {"SUCCEEDED"}
    return "both" if deleting.status_code == 204 else "refused"


async def restore_and_resize(at: Scene) -> str:
    """Whichever is first; the other is refused while it lasts."""
    snapshot_id, flavors = await at.snapshot(), await at.user.flavors()
    restore = at.will("POST", f"{_vm(at)}/snapshots/{snapshot_id}/restore")
    return await _first(at, restore, at.will("POST", f"{_vm(at)}/actions/resize", flavor_id=flavors[1]))


async def attach_and_resize(at: Scene) -> str:
    """Whichever is first; a resize is refused as `attachment_in_progress`, an attach for the VM's state."""
    volume_id, flavors = await at.volume(), await at.user.flavors()
    attach = at.will("POST", f"{_vm(at)}/volumes", volume_id=volume_id)
    return await _first(at, attach, at.will("POST", f"{_vm(at)}/actions/resize", flavor_id=flavors[1]))


async def attach_and_snapshot(at: Scene) -> str:
    """Whichever is first, as with a resize."""
    volume_id = await at.volume()
    attach = at.will("POST", f"{_vm(at)}/volumes", volume_id=volume_id)
    return await _first(at, attach, at.will("POST", f"{_vm(at)}/snapshots", name="s"))


async def attach_and_stop(at: Scene) -> str:
    """Both, or the attach is refused while the VM is being stopped."""
    volume_id = await at.volume()
    attach = at.will("POST", f"{_vm(at)}/volumes", volume_id=volume_id)
    attaching, stopping = await meet(attach, at.will("POST", f"{_vm(at)}/actions/stop"))
    assert stopping.status_code == 202
    assert set(await at.ended(attaching, stopping)) == {"SUCCEEDED"}
    return "both" if attaching.status_code == 202 else "refused"


async def restore_and_delete_snapshot(at: Scene) -> str:
    """Whichever is first: a snapshot that is restored is not deleted, and one that is being deleted not restored."""
    path = f"{_vm(at)}/snapshots/{await at.snapshot()}"
    return await _first(at, at.will("POST", f"{path}/restore"), at.will("DELETE", path))


def _vm(at: Scene) -> str:
    return f"/vms/{at.vm}"


async def _gone(at: Scene, deleting: httpx.Response) -> None:
    """The delete was accepted and has ended well."""
    assert deleting.status_code == 204
    assert await at.ended(deleting) == ["SUCCEEDED"]
    assert (await at.user.read(_vm(at)))["status"] == "DELETED"


async def _became(at: Scene, answer: httpx.Response) -> str:
    """What became of a request beside a delete of its VM."""
    if answer.status_code in {404, 409}:
        return "refused"
    (end,) = await at.ended(answer)
    assert end in {"SUCCEEDED", "SUPERSEDED"}
    return end


async def _first(at: Scene, one: Request, other: Request) -> str:
    """One is accepted and ends well, and the other too if it came later than that, or is refused."""
    answers = await meet(one, other)
    accepted = [answer.status_code in {202, 204} for answer in answers]
    assert any(accepted)
    for answer in answers:
        assert answer.status_code in {202, 204} or answer.json()["code"] in REFUSALS, answer.text
    assert set(await at.ended(*answers)) == {"SUCCEEDED"}
    return "both" if all(accepted) else "first" if accepted[0] else "second"


REFUSALS = {"invalid_transition", "attachment_in_progress"}
PAIRS: dict[str, Callable[[Scene], Awaitable[str]]] = {
    "delete of the VM, snapshot": delete_vm_and_snapshot,
    "delete of the VM, restore": delete_vm_and_restore,
    "delete of the VM, delete of a snapshot": delete_vm_and_delete_snapshot,
    "delete of the VM, attach of a volume": delete_vm_and_attach_volume,
    "delete of the VM, detach of a volume": delete_vm_and_detach_volume,
    "delete of the VM, ten volumes": delete_vm_with_ten_volumes,
    "delete of the VM, attach of an interface": delete_vm_and_attach_interface,
    "two VMs, one volume": two_vms_and_one_volume,
    "attach, delete of the volume": attach_and_delete_volume,
    "detach, detach": detach_twice,
    "detach, delete of the volume": detach_and_delete_volume,
    "restore, resize": restore_and_resize,
    "attach, resize": attach_and_resize,
    "attach, snapshot": attach_and_snapshot,
    "attach, stop": attach_and_stop,
    "restore, delete of the snapshot": restore_and_delete_snapshot,
}
