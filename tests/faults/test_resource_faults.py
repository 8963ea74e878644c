"""Snapshots, volumes and interfaces when the cloud fails, processes die or an operator cancels: no leftovers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from activities.backends.faults import add_fault
from activities.backends.mock.schema import FaultMode
from domain.settings import Settings
from tests.integration.vm_owner import Request, VMOwner
from tests.support.stack import Stack
from tests.support.truth import differences
from tests.support.users import User, log_in, operation_path

Prepare = Callable[[VMOwner], Awaitable[Request]]


async def take_snapshot(owner: VMOwner) -> Request:
    return owner.request("POST", f"{owner.path}/snapshots", name="s")


async def delete_snapshot(owner: VMOwner) -> Request:
    return owner.request("DELETE", f"{owner.path}/snapshots/{await owner.create_snapshot()}")


async def restore(owner: VMOwner) -> Request:
    return owner.request("POST", f"{owner.path}/snapshots/{await owner.create_snapshot()}/restore")


async def create_volume(owner: VMOwner) -> Request:
    return owner.request("POST", "/volumes", name="v", size_gb=1)


async def delete_volume(owner: VMOwner) -> Request:
    return owner.request("DELETE", f"/volumes/{await owner.create_volume()}")


async def attach_volume(owner: VMOwner) -> Request:
    return owner.request("POST", f"{owner.path}/volumes", volume_id=await owner.create_volume())


async def detach_volume(owner: VMOwner) -> Request:
    return owner.request("DELETE", f"{owner.path}/volumes/{await owner.attach_new_volume()}")


async def attach_interface(owner: VMOwner) -> Request:
    network_id = (await owner.user.read("/networks"))["items"][0]["id"]
    return owner.request("POST", f"{owner.path}/interfaces", network_id=network_id)


async def detach_interface(owner: VMOwner) -> Request:
    (interface,) = (await owner.user.read(f"{owner.path}/interfaces"))["items"]
    return owner.request("DELETE", f"{owner.path}/interfaces/{interface['id']}")


VERBS: dict[str, Prepare] = {
    "create_server_image": take_snapshot,
    "delete_image": delete_snapshot,
    "rebuild_server": restore,
    "create_volume": create_volume,
    "delete_volume": delete_volume,
    "attach_volume": attach_volume,
    "detach_volume": detach_volume,
    "create_server_interface": attach_interface,
    "delete_server_interface": detach_interface,
}
# The status that a resource has after the cloud refused the verb.
STATUS_AFTER_REFUSAL = {
    "create_server_image": ("snapshots", "ERROR"),
    "delete_image": ("snapshots", "AVAILABLE"),
    "rebuild_server": ("snapshots", "AVAILABLE"),
    "create_volume": ("volumes", "ERROR"),
    "delete_volume": ("volumes", "AVAILABLE"),
    "attach_volume": ("volumes", "AVAILABLE"),
    "detach_volume": ("volumes", "IN_USE"),
    "create_server_interface": ("interfaces", "ATTACHED"),  # the interface from the create
    "delete_server_interface": ("interfaces", "ATTACHED"),
}


async def new_vm(user: User) -> VMOwner:
    return await VMOwner.with_new_vm(user, "unlucky")


@pytest.fixture
async def owner(stack: Stack, user: User) -> AsyncIterator[VMOwner]:
    """The owner of a VM; after the test the database and the cloud must agree."""
    yield await new_vm(user)
    assert await differences(stack) == []


async def request_all_with_faults(
    stack: Stack, cloud: Settings, *modes: FaultMode
) -> dict[str, tuple[VMOwner, dict[str, Any]]]:
    """Send a request for every verb at once, with faults; returns the owners and their closed operations by verb."""
    async with contextlib.AsyncExitStack() as users:
        logged_in = [await users.enter_async_context(log_in(stack)) for _ in VERBS]
        owners = dict(zip(VERBS, await asyncio.gather(*map(new_vm, logged_in)), strict=True))
        requests = await asyncio.gather(*(VERBS[verb](owner) for verb, owner in owners.items()))
        for verb, owner in owners.items():
            target = await target_of(owner, verb)
            for mode in modes:
                await add_fault(cloud, verb, mode, vm_id=target)
        answers = await asyncio.gather(*(request() for request in requests))
        ended = {}
        for (verb, owner), answer in zip(owners.items(), answers, strict=True):
            await owner.ends_of(answer)
            path = operation_path(answer)
            ended[verb] = (owner, await owner.user.read(path))
        await check_agreement(stack, list(owners.values()))
    return ended


async def target_of(owner: VMOwner, verb: str) -> UUID | None:
    """The id that selects the verb's calls for a fault; None for a new volume, whose id is not known yet."""
    lists = {"delete_volume": "/volumes", "delete_image": f"{owner.path}/snapshots"}
    if verb == "create_volume":
        return None
    return UUID((await owner.user.read(lists[verb]))["items"][0]["id"] if verb in lists else owner.vm)


async def check_agreement(stack: Stack, owners: list[VMOwner]) -> None:
    """Check that database and cloud agree. VMs in ERROR may differ, so they are rebooted out of it first."""
    for owner in owners:
        if (await owner.user.read(owner.path))["status"] == "ERROR":
            await owner.user.act(owner.vm, "reboot", type="HARD")
            await owner.user.until(owner.vm, "ACTIVE")
    assert await differences(stack) == []


async def statuses(stack: Stack, owner: VMOwner, table: str) -> list[str]:
    """The statuses of the owner's rows in a table."""
    of_owner = "SELECT status FROM {} WHERE owner_id = (SELECT owner_id FROM vms WHERE id = $1)"
    query = of_owner.format(table) if table != "interfaces" else "SELECT status FROM interfaces WHERE vm_id = $1"
    return [row["status"] for row in await stack.sql(query, UUID(owner.vm))]


async def test_failed_calls_and_calls_with_lost_answers_are_repeated(stack: Stack, cloud: Settings) -> None:
    ended = await request_all_with_faults(stack, cloud, FaultMode.FAIL_AFTER_EFFECT, FaultMode.FAIL)
    assert {verb: operation["status"] for verb, (_, operation) in ended.items()} == dict.fromkeys(VERBS, "SUCCEEDED")


async def test_a_refused_call_leaves_the_status_that_is_specified(stack: Stack, cloud: Settings) -> None:
    ended = await request_all_with_faults(stack, cloud, FaultMode.REFUSE)
    for verb, (owner, operation) in ended.items():
        assert (operation["status"], operation["error"]["code"]) == ("FAILED", "mock_refused"), verb
        table, status = STATUS_AFTER_REFUSAL[verb]
        assert await statuses(stack, owner, table) == [status], verb


async def test_a_call_that_is_refused_after_its_effect_is_undone_or_recorded(stack: Stack, cloud: Settings) -> None:
    ended = await request_all_with_faults(stack, cloud, FaultMode.FAIL_AFTER_EFFECT, FaultMode.REFUSE)
    assert {operation["status"] for _, operation in ended.values()} == {"SUCCEEDED", "FAILED"}


async def test_an_attach_that_cannot_be_undone_counts_as_success(owner: VMOwner, cloud: Settings) -> None:
    for verb, undo in (("attach_volume", "detach_volume"), ("create_server_interface", "delete_server_interface")):
        request = await VERBS[verb](owner)
        await add_fault(cloud, verb, FaultMode.FAIL_AFTER_EFFECT)
        await add_fault(cloud, verb, FaultMode.REFUSE)
        await add_fault(cloud, undo, FaultMode.REFUSE)
        assert await owner.ends_of(await request()) == ["SUCCEEDED"]
    assert [item["status"] for item in (await owner.user.read(f"{owner.path}/volumes"))["items"]] == ["ATTACHED"]
    assert (await owner.user.read(f"{owner.path}/interfaces"))["total"] == 2


async def test_a_resource_that_cannot_be_undone_is_in_error_until_its_owner_deletes_it(
    stack: Stack, owner: VMOwner, cloud: Settings
) -> None:
    for verb, undo in (("create_volume", "delete_volume"), ("create_server_image", "delete_image")):
        await add_fault(cloud, verb, FaultMode.FAIL_AFTER_EFFECT)
        await add_fault(cloud, verb, FaultMode.REFUSE)
        await add_fault(cloud, undo, FaultMode.REFUSE)
        answer = await (await VERBS[verb](owner))()
        assert await owner.ends_of(answer) == ["FAILED"]
        kind = "/volumes" if verb == "create_volume" else f"{owner.path}/snapshots"
        path = f"{kind}/{answer.json()['id']}"
        assert (await owner.user.read(path))["status"] == "ERROR"
        assert await differences(stack), "the cloud must still have it"
        assert await owner.ends_of(await owner.send("DELETE", path)) == ["SUCCEEDED"]
        assert await differences(stack) == []


async def test_after_a_refused_delete_the_database_matches_the_cloud(
    stack: Stack, owner: VMOwner, cloud: Settings
) -> None:
    attached, never_attached = await owner.attach_new_volume(), await owner.create_volume()
    restore_to, flavors = await owner.create_snapshot(), await owner.user.flavors()
    await owner.user.act(owner.vm, "resize", flavor_id=flavors[1])
    await owner.user.until(owner.vm, "VERIFY_RESIZE")
    await owner.user.act(owner.vm, "confirm-resize")
    await owner.user.until(owner.vm, "ACTIVE")
    network_id = (await owner.user.read("/networks"))["items"][0]["id"]
    await add_fault(cloud, "attach_volume", FaultMode.NEVER_ANSWER)
    await add_fault(cloud, "create_server_interface", FaultMode.NEVER_ANSWER)
    await add_fault(cloud, "delete_server", FaultMode.REFUSE)
    attach = await owner.send("POST", f"{owner.path}/volumes", volume_id=never_attached)
    plug = await owner.send("POST", f"{owner.path}/interfaces", network_id=network_id)
    assert (attach.status_code, plug.status_code) == (202, 202)
    assert await owner.ends_of(await owner.send("DELETE", owner.path)) == ["FAILED"]
    assert (await owner.user.read(f"/volumes/{attached}"))["status"] == "IN_USE"
    assert (await owner.user.read(f"/volumes/{never_attached}"))["status"] == "AVAILABLE"
    await check_agreement(stack, [owner])
    await add_fault(cloud, "delete_server", FaultMode.REFUSE)
    # Failed calls delay the restore, so that the delete comes before its end.
    await add_fault(cloud, "rebuild_server", FaultMode.FAIL_AFTER_EFFECT, times=3, vm_id=UUID(owner.vm))
    restoring = await owner.send("POST", f"{owner.path}/snapshots/{restore_to}/restore")
    deleting = await owner.send("DELETE", owner.path)
    assert await owner.ends_of(restoring, deleting) == ["SUPERSEDED", "FAILED"]
    await check_agreement(stack, [owner])
    await add_fault(cloud, "delete_server", FaultMode.REFUSE)
    taking, deleting = await (await take_snapshot(owner))(), await owner.send("DELETE", owner.path)
    assert await owner.ends_of(taking, deleting) == ["SUPERSEDED", "FAILED"]
    await check_agreement(stack, [owner])
    assert await owner.ends_of(await owner.send("DELETE", owner.path)) == ["SUCCEEDED"]


async def test_a_vm_is_deleted_although_its_volume_cannot_be(owner: VMOwner, cloud: Settings) -> None:
    doomed, kept = await owner.attach_new_volume(delete_on_termination=True), await owner.attach_new_volume()
    await add_fault(cloud, "delete_volume", FaultMode.REFUSE)
    assert await owner.ends_of(await owner.send("DELETE", owner.path)) == ["SUCCEEDED"]
    assert (await owner.user.read(f"/volumes/{doomed}"))["status"] == "ERROR"
    assert (await owner.user.read(f"/volumes/{kept}"))["status"] == "AVAILABLE"
    assert await owner.ends_of(await owner.send("DELETE", f"/volumes/{doomed}")) == ["SUCCEEDED"]


async def test_a_snapshot_a_restore_and_an_attach_survive_the_kill_of_everything(stack: Stack, user: User) -> None:
    owners = [await new_vm(user) for _ in range(3)]
    requests = [await take_snapshot(owners[0]), await restore(owners[1]), await attach_volume(owners[2])]
    answers = [await request() for request in requests]
    stack.kill_everything()
    stack.start()
    for owner, answer in zip(owners, answers, strict=True):
        assert await owner.ends_of(answer) == ["SUCCEEDED"]
    assert await differences(stack) == []


async def test_an_operation_that_an_operator_cancels_is_undone(stack: Stack, owner: VMOwner, cloud: Settings) -> None:
    volume_id = await owner.create_volume()
    await add_fault(cloud, "attach_volume", FaultMode.NEVER_ANSWER)
    await add_fault(cloud, "create_server_interface", FaultMode.NEVER_ANSWER)
    network_id = (await owner.user.read("/networks"))["items"][0]["id"]
    answers = [
        await owner.send("POST", f"{owner.path}/volumes", volume_id=volume_id),
        await owner.send("POST", f"{owner.path}/interfaces", network_id=network_id),
    ]
    temporal = await stack.temporal()
    for answer in answers:
        path = operation_path(answer)
        operation = await owner.until(path, "RUNNING")
        await temporal.get_workflow_handle(operation["workflow_id"]).cancel()
    assert await owner.ends_of(*answers) == ["CANCELED", "CANCELED"]
    assert (await owner.user.read(f"/volumes/{volume_id}"))["status"] == "AVAILABLE"
    assert (await owner.user.read(f"{owner.path}/volumes"))["total"] == 0
    assert (await owner.user.read(f"{owner.path}/interfaces"))["total"] == 1


async def test_a_restore_brings_back_the_content_of_the_snapshot(stack: Stack, owner: VMOwner) -> None:
    async def content() -> str:
        rows = await stack.sql("SELECT content FROM mock_cloud.servers WHERE vm_id = $1", UUID(owner.vm))
        return str(rows[0]["content"])

    volume_id = await owner.attach_new_volume()
    before, flavors, snapshot_id = await content(), await owner.user.flavors(), await owner.create_snapshot()
    await owner.user.act(owner.vm, "resize", flavor_id=flavors[1])
    await owner.user.until(owner.vm, "VERIFY_RESIZE")
    await owner.user.act(owner.vm, "confirm-resize")
    await owner.user.until(owner.vm, "ACTIVE")
    await owner.user.act(owner.vm, "reboot")
    await owner.user.until(owner.vm, "ACTIVE")
    assert await content() != before
    await owner.user.act(owner.vm, "stop")
    await owner.user.until(owner.vm, "SHUTOFF")
    restoring = await owner.send("POST", f"{owner.path}/snapshots/{snapshot_id}/restore")
    assert await owner.ends_of(restoring) == ["SUCCEEDED"]
    vm = await owner.user.read(owner.path)
    assert (vm["status"], vm["flavor_id"], await content()) == ("SHUTOFF", flavors[0], before)
    assert [item["volume_id"] for item in (await owner.user.read(f"{owner.path}/volumes"))["items"]] == [volume_id]
