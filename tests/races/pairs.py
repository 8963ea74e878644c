"""Pairs of concurrent requests to the same resource: one function for each pair.

The first line of a function's docstring is the pair's row in docs/architecture.md. A function returns a word for the
outcome of this run, and asserts that no other outcome than the documented ones happens.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import httpx

from tests.integration.vm_owner import Request, VMOwner


async def send_both(first: Request, second: Request) -> tuple[httpx.Response, httpx.Response]:
    """Send both requests in a random order, with a random pause between them."""

    async def later(request: Request, pause: float) -> httpx.Response:
        await asyncio.sleep(pause)
        return await request()

    pauses = random.sample([0.0, random.choice([0.0, 0.02, 0.1, 0.3, 0.6])], 2)
    answers = await asyncio.gather(later(first, pauses[0]), later(second, pauses[1]))
    return answers[0], answers[1]


async def delete_vm_and_snapshot(owner: VMOwner) -> str:
    """The snapshot is refused; or it is superseded and its image deleted; or it succeeds and is kept."""
    deleting, taking = await send_both(
        owner.request("DELETE", owner.path), owner.request("POST", f"{owner.path}/snapshots", name="s")
    )
    await _check_deleted(owner, deleting)
    if taking.status_code == 409:
        return "refused"
    (end,) = await owner.ends_of(taking)
    (snapshot,) = (await owner.user.read(f"{owner.path}/snapshots?status=AVAILABLE,DELETED,CREATING,DELETING,ERROR"))[
        "items"
    ]
    assert (end, snapshot["status"]) in {("SUPERSEDED", "DELETED"), ("SUCCEEDED", "AVAILABLE")}
    return str(snapshot["status"])


async def delete_vm_and_restore(owner: VMOwner) -> str:
    """The restore is refused, is superseded or succeeds; the snapshot is kept."""
    path = f"{owner.path}/snapshots/{await owner.create_snapshot()}"
    deleting, restoring = await send_both(owner.request("DELETE", owner.path), owner.request("POST", f"{path}/restore"))
    await _check_deleted(owner, deleting)
    assert (await owner.user.read(path))["status"] == "AVAILABLE"
    return await _outcome(owner, restoring)


async def delete_vm_and_delete_snapshot(owner: VMOwner) -> str:
    """Both succeed: the delete of a snapshot continues without its VM."""
    path = f"{owner.path}/snapshots/{await owner.create_snapshot()}"
    deleting_vm, deleting_snapshot = await send_both(owner.request("DELETE", owner.path), owner.request("DELETE", path))
    await _check_deleted(owner, deleting_vm)
    assert await owner.ends_of(deleting_snapshot) == ["SUCCEEDED"]
    assert (await owner.user.read(path))["status"] == "DELETED"
    return "both"


async def delete_vm_and_attach_volume(owner: VMOwner) -> str:
    """The attach is refused, is superseded or succeeds; the volume is AVAILABLE, or DELETED if it was to go too."""
    volume_id, with_vm = await owner.create_volume(), random.random() < 0.5
    body = {"volume_id": volume_id, "delete_on_termination": with_vm}
    deleting, attaching = await send_both(
        owner.request("DELETE", owner.path), owner.request("POST", f"{owner.path}/volumes", **body)
    )
    await _check_deleted(owner, deleting)
    outcome = await _outcome(owner, attaching)
    deleted = with_vm and outcome != "refused"
    assert (await owner.user.read(f"/volumes/{volume_id}"))["status"] == ("DELETED" if deleted else "AVAILABLE")
    return outcome


async def delete_vm_and_detach_volume(owner: VMOwner) -> str:
    """The detach is refused, is superseded or succeeds; if it came first, `delete_on_termination` does not apply."""
    volume_id = await owner.attach_new_volume(delete_on_termination=True)
    deleting, detaching = await send_both(
        owner.request("DELETE", owner.path), owner.request("DELETE", f"{owner.path}/volumes/{volume_id}")
    )
    await _check_deleted(owner, deleting)
    operations = [answer.headers.get("Operation-Location") for answer in (detaching, deleting)]
    was_first = detaching.status_code == 204 and operations[0] != operations[1]
    assert (await owner.user.read(f"/volumes/{volume_id}"))["status"] == ("AVAILABLE" if was_first else "DELETED")
    return await _outcome(owner, detaching) if was_first else "refused"


async def delete_vm_with_ten_volumes(owner: VMOwner) -> str:
    """The volumes get ten different devices; those with `delete_on_termination` are DELETED, the others AVAILABLE."""
    ids = await asyncio.gather(*(owner.create_volume() for _ in range(10)))
    bodies = [{"volume_id": id, "delete_on_termination": number % 2 == 0} for number, id in enumerate(ids)]
    attaching = await asyncio.gather(*(owner.send("POST", f"{owner.path}/volumes", **body) for body in bodies))
    assert {answer.status_code for answer in attaching} == {202}
    assert len({answer.json()["device"] for answer in attaching}) == len(ids)
    await asyncio.sleep(random.choice([0.0, 0.1, 0.5]))
    await _check_deleted(owner, await owner.send("DELETE", owner.path))
    statuses = [(await owner.user.read(f"/volumes/{id}"))["status"] for id in ids]
    assert statuses == ["DELETED", "AVAILABLE"] * 5
    return ", ".join(sorted(set(await owner.ends_of(*attaching))))


async def delete_vm_and_attach_interface(owner: VMOwner) -> str:
    """The attach is refused, is superseded or succeeds; all addresses are released."""
    network_id = (await owner.user.read("/networks"))["items"][0]["id"]
    attach = owner.request("POST", f"{owner.path}/interfaces", network_id=network_id)
    deleting, attaching = await send_both(owner.request("DELETE", owner.path), attach)
    await _check_deleted(owner, deleting)
    assert (await owner.user.read(f"{owner.path}/interfaces"))["total"] == 0
    return await _outcome(owner, attaching)


async def two_vms_and_one_volume(owner: VMOwner) -> str:
    """One attach succeeds, the other is refused."""
    other, volume_id = await owner.user.create_active("second"), await owner.create_volume()
    answers = await send_both(
        *(owner.request("POST", f"/vms/{vm}/volumes", volume_id=volume_id) for vm in (owner.vm, other))
    )
    assert sorted(answer.status_code for answer in answers) == [202, 409]
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert refused["current_status"] in {"ATTACHING", "IN_USE"}
    assert await owner.ends_of(*answers) == ["SUCCEEDED"]
    return "first" if answers[0].status_code == 202 else "second"


async def attach_and_delete_volume(owner: VMOwner) -> str:
    """The first succeeds, the other is refused."""
    volume_id = await owner.create_volume()
    attach = owner.request("POST", f"{owner.path}/volumes", volume_id=volume_id)
    attaching, deleting = await send_both(attach, owner.request("DELETE", f"/volumes/{volume_id}"))
    assert {attaching.status_code, deleting.status_code} in ({202, 409}, {409, 204})
    assert await owner.ends_of(attaching, deleting) == ["SUCCEEDED"]
    return "attached" if attaching.status_code == 202 else "deleted"


async def detach_twice(owner: VMOwner) -> str:
    """One detach; the second request gets the same operation, or 404 if the detach has ended."""
    volume_id = await owner.attach_new_volume()
    answers = await send_both(*(owner.request("DELETE", f"{owner.path}/volumes/{volume_id}") for _ in range(2)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes in ([204, 204], [204, 404])
    assert len({answer.headers["Operation-Location"] for answer in answers if answer.status_code == 204}) == 1
    assert set(await owner.ends_of(*answers)) == {"SUCCEEDED"}
    return "again" if codes == [204, 204] else "404"


async def detach_and_delete_volume(owner: VMOwner) -> str:
    """The detach succeeds; the delete is refused until the volume is detached."""
    volume_id = await owner.attach_new_volume()
    detach = owner.request("DELETE", f"{owner.path}/volumes/{volume_id}")
    detaching, deleting = await send_both(detach, owner.request("DELETE", f"/volumes/{volume_id}"))
    assert (detaching.status_code, deleting.status_code) in {(204, 204), (204, 409)}
    assert set(await owner.ends_of(detaching, deleting)) == {"SUCCEEDED"}
    return "both" if deleting.status_code == 204 else "refused"


async def restore_and_resize(owner: VMOwner) -> str:
    """The first succeeds; the other is refused while the first is running."""
    snapshot_id, flavors = await owner.create_snapshot(), await owner.user.flavors()
    restore = owner.request("POST", f"{owner.path}/snapshots/{snapshot_id}/restore")
    return await _one_or_both(
        owner, restore, owner.request("POST", f"{owner.path}/actions/resize", flavor_id=flavors[1])
    )


async def attach_and_resize(owner: VMOwner) -> str:
    """The first succeeds; a resize is refused with `attachment_in_progress`, an attach with `invalid_transition`."""
    volume_id, flavors = await owner.create_volume(), await owner.user.flavors()
    attach = owner.request("POST", f"{owner.path}/volumes", volume_id=volume_id)
    return await _one_or_both(
        owner, attach, owner.request("POST", f"{owner.path}/actions/resize", flavor_id=flavors[1])
    )


async def attach_and_snapshot(owner: VMOwner) -> str:
    """The first succeeds; the codes of a refusal are the same as for attach and resize."""
    volume_id = await owner.create_volume()
    attach = owner.request("POST", f"{owner.path}/volumes", volume_id=volume_id)
    return await _one_or_both(owner, attach, owner.request("POST", f"{owner.path}/snapshots", name="s"))


async def attach_and_stop(owner: VMOwner) -> str:
    """Both succeed, or the attach is refused while the VM is being stopped."""
    volume_id = await owner.create_volume()
    attach = owner.request("POST", f"{owner.path}/volumes", volume_id=volume_id)
    attaching, stopping = await send_both(attach, owner.request("POST", f"{owner.path}/actions/stop"))
    assert stopping.status_code == 202
    assert set(await owner.ends_of(attaching, stopping)) == {"SUCCEEDED"}
    return "both" if attaching.status_code == 202 else "refused"


async def restore_and_delete_snapshot(owner: VMOwner) -> str:
    """The first succeeds: a snapshot cannot be deleted during a restore, nor restored during its delete."""
    path = f"{owner.path}/snapshots/{await owner.create_snapshot()}"
    return await _one_or_both(owner, owner.request("POST", f"{path}/restore"), owner.request("DELETE", path))


async def _check_deleted(owner: VMOwner, deleting: httpx.Response) -> None:
    """Check that the delete was accepted and succeeds."""
    assert deleting.status_code == 204
    assert await owner.ends_of(deleting) == ["SUCCEEDED"]
    assert (await owner.user.read(owner.path))["status"] == "DELETED"


async def _outcome(owner: VMOwner, answer: httpx.Response) -> str:
    """The outcome of a request that was sent together with a delete of its VM."""
    if answer.status_code in {404, 409}:
        return "refused"
    (end,) = await owner.ends_of(answer)
    assert end in {"SUCCEEDED", "SUPERSEDED"}
    return end


async def _one_or_both(owner: VMOwner, one: Request, other: Request) -> str:
    """Check that one succeeds, and that the other is refused or, if it came after the first had ended, succeeds."""
    answers = await send_both(one, other)
    accepted = [answer.status_code in {202, 204} for answer in answers]
    assert any(accepted)
    for answer in answers:
        assert answer.status_code in {202, 204} or answer.json()["code"] in REFUSAL_CODES, answer.text
    assert set(await owner.ends_of(*answers)) == {"SUCCEEDED"}
    return "both" if all(accepted) else "first" if accepted[0] else "second"


REFUSAL_CODES = {"invalid_transition", "attachment_in_progress"}
PAIRS: dict[str, Callable[[VMOwner], Awaitable[str]]] = {
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
