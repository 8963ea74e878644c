"""Snapshots, volumes and interfaces when the cloud fails, processes die and operators cancel: nothing is left over."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from activities.backends.faults import add_fault
from activities.backends.mock.schema import FaultMode
from domain.settings import Settings
from tests.integration.pairs import Request, Scene
from tests.support.stack import Stack, User, log_in
from tests.support.truth import differences

Prepare = Callable[[Scene], Awaitable[Request]]


async def take_snapshot(at: Scene) -> Request:
    return at.will("POST", f"/vms/{at.vm}/snapshots", name="s")


async def delete_snapshot(at: Scene) -> Request:
    return at.will("DELETE", f"/vms/{at.vm}/snapshots/{await at.snapshot()}")


async def restore(at: Scene) -> Request:
    return at.will("POST", f"/vms/{at.vm}/snapshots/{await at.snapshot()}/restore")


async def create_volume(at: Scene) -> Request:
    return at.will("POST", "/volumes", name="v", size_gb=1)


async def delete_volume(at: Scene) -> Request:
    return at.will("DELETE", f"/volumes/{await at.volume()}")


async def attach_volume(at: Scene) -> Request:
    return at.will("POST", f"/vms/{at.vm}/volumes", volume_id=await at.volume())


async def detach_volume(at: Scene) -> Request:
    return at.will("DELETE", f"/vms/{at.vm}/volumes/{await at.attached()}")


async def attach_interface(at: Scene) -> Request:
    network_id = (await at.user.read("/networks"))["items"][0]["id"]
    return at.will("POST", f"/vms/{at.vm}/interfaces", network_id=network_id)


async def detach_interface(at: Scene) -> Request:
    (interface,) = (await at.user.read(f"/vms/{at.vm}/interfaces"))["items"]
    return at.will("DELETE", f"/vms/{at.vm}/interfaces/{interface['id']}")


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
# What stays of the resource when the cloud refuses, by the verb: the status of the only row there is of the kind.
LEFT = {
    "create_server_image": ("snapshots", "ERROR"),
    "delete_image": ("snapshots", "AVAILABLE"),
    "rebuild_server": ("snapshots", "AVAILABLE"),
    "create_volume": ("volumes", "ERROR"),
    "delete_volume": ("volumes", "AVAILABLE"),
    "attach_volume": ("volumes", "AVAILABLE"),
    "detach_volume": ("volumes", "IN_USE"),
    "create_server_interface": ("interfaces", "ATTACHED"),  # the one from the create
    "delete_server_interface": ("interfaces", "ATTACHED"),
}


async def make_vm(user: User) -> Scene:
    """A VM that is ACTIVE."""
    vm = await user.create("unlucky")
    await user.until(vm["id"], "ACTIVE")
    return Scene(user, vm["id"])


@pytest.fixture
async def at(stack: Stack, user: User) -> AsyncIterator[Scene]:
    """A VM that is ACTIVE; both sides tell the same story in the end."""
    yield await make_vm(user)
    assert await differences(stack) == []


async def meet_faults(stack: Stack, cloud: Settings, *modes: FaultMode) -> dict[str, tuple[Scene, dict[str, Any]]]:
    """Ask for what each verb is for, at once, when what it needs is there; returns the operations that have ended."""
    async with contextlib.AsyncExitStack() as users:
        logged_in = [await users.enter_async_context(log_in(stack)) for _ in VERBS]
        scenes = dict(zip(VERBS, await asyncio.gather(*(make_vm(user) for user in logged_in)), strict=True))
        requests = await asyncio.gather(*(VERBS[verb](at) for verb, at in scenes.items()))
        for verb, at in scenes.items():
            target = await target_of(at, verb)
            for mode in modes:
                await add_fault(cloud, verb, mode, vm_id=target)
        answers = await asyncio.gather(*(request() for request in requests))
        met = {}
        for (verb, at), answer in zip(scenes.items(), answers, strict=True):
            await at.ended(answer)
            path = answer.headers["Operation-Location"].removeprefix("/api/v1")
            met[verb] = (at, await at.user.read(path))
        await check_both_sides(stack, list(scenes.values()))
    return met


async def target_of(at: Scene, verb: str) -> UUID | None:
    """What the verb is called for, by which faults are told apart: a new volume's id nobody knows yet."""
    lists = {"delete_volume": "/volumes", "delete_image": f"/vms/{at.vm}/snapshots"}
    if verb == "create_volume":
        return None
    return UUID((await at.user.read(lists[verb]))["items"][0]["id"] if verb in lists else at.vm)


async def check_both_sides(stack: Stack, scenes: list[Scene]) -> None:
    """Both sides tell the same story, also of VMs in ERROR, once they have been rebooted out of it."""
    for at in scenes:
        if (await at.user.read(f"/vms/{at.vm}"))["status"] == "ERROR":
            await at.user.act(at.vm, "reboot", type="HARD")
            await at.user.until(at.vm, "ACTIVE")
    assert await differences(stack) == []


async def statuses(stack: Stack, at: Scene, table: str) -> list[str]:
    """The statuses of the user's rows in a table."""
    of_user = "SELECT status FROM {} WHERE owner_id = (SELECT owner_id FROM vms WHERE id = $1)"
    query = of_user.format(table) if table != "interfaces" else "SELECT status FROM interfaces WHERE vm_id = $1"
    return [row["status"] for row in await stack.sql(query, UUID(at.vm))]


async def test_calls_that_fail_and_calls_whose_answers_are_lost_are_made_again(stack: Stack, cloud: Settings) -> None:
    met = await meet_faults(stack, cloud, FaultMode.FAIL_AFTER_EFFECT, FaultMode.FAIL)
    assert {verb: operation["status"] for verb, (_, operation) in met.items()} == dict.fromkeys(VERBS, "SUCCEEDED")


async def test_what_the_cloud_refuses_leaves_what_the_table_says(stack: Stack, cloud: Settings) -> None:
    met = await meet_faults(stack, cloud, FaultMode.REFUSE)
    for verb, (at, operation) in met.items():
        assert (operation["status"], operation["error"]["code"]) == ("FAILED", "mock_refused"), verb
        table, status = LEFT[verb]
        assert await statuses(stack, at, table) == [status], verb


async def test_what_is_refused_after_its_effect_is_undone_or_recorded(stack: Stack, cloud: Settings) -> None:
    met = await meet_faults(stack, cloud, FaultMode.FAIL_AFTER_EFFECT, FaultMode.REFUSE)
    assert {operation["status"] for _, operation in met.values()} == {"SUCCEEDED", "FAILED"}


async def test_an_attach_that_cannot_be_undone_is_recorded_as_done(at: Scene, cloud: Settings) -> None:
    for verb, undo in (("attach_volume", "detach_volume"), ("create_server_interface", "delete_server_interface")):
        request = await VERBS[verb](at)
        await add_fault(cloud, verb, FaultMode.FAIL_AFTER_EFFECT)
        await add_fault(cloud, verb, FaultMode.REFUSE)
        await add_fault(cloud, undo, FaultMode.REFUSE)
        assert await at.ended(await request()) == ["SUCCEEDED"]
    assert [one["status"] for one in (await at.user.read(f"/vms/{at.vm}/volumes"))["items"]] == ["ATTACHED"]
    assert (await at.user.read(f"/vms/{at.vm}/interfaces"))["total"] == 2


async def test_what_cannot_be_undone_is_in_error_and_goes_when_its_owner_deletes_it(
    stack: Stack, at: Scene, cloud: Settings
) -> None:
    for verb, undo in (("create_volume", "delete_volume"), ("create_server_image", "delete_image")):
        await add_fault(cloud, verb, FaultMode.FAIL_AFTER_EFFECT)
        await add_fault(cloud, verb, FaultMode.REFUSE)
        await add_fault(cloud, undo, FaultMode.REFUSE)
        answer = await (await VERBS[verb](at))()
        assert await at.ended(answer) == ["FAILED"]
        kind = "/volumes" if verb == "create_volume" else f"/vms/{at.vm}/snapshots"
        path = f"{kind}/{answer.json()['id']}"
        assert (await at.user.read(path))["status"] == "ERROR"
        assert await differences(stack), "the cloud still has it"
        assert await at.ended(await at.ask("DELETE", path)) == ["SUCCEEDED"]
        assert await differences(stack) == []


async def test_a_delete_that_is_refused_leaves_what_the_cloud_then_has(
    stack: Stack, at: Scene, cloud: Settings
) -> None:
    stays, never_came = await at.attached(), await at.volume()
    restore_to, flavors = await at.snapshot(), await at.user.flavors()
    await at.user.act(at.vm, "resize", flavor_id=flavors[1])
    await at.user.until(at.vm, "VERIFY_RESIZE")
    await at.user.act(at.vm, "confirm-resize")
    await at.user.until(at.vm, "ACTIVE")
    network_id = (await at.user.read("/networks"))["items"][0]["id"]
    await add_fault(cloud, "attach_volume", FaultMode.NEVER_ANSWER)
    await add_fault(cloud, "create_server_interface", FaultMode.NEVER_ANSWER)
    await add_fault(cloud, "delete_server", FaultMode.REFUSE)
    attach = await at.ask("POST", f"/vms/{at.vm}/volumes", volume_id=never_came)
    plug = await at.ask("POST", f"/vms/{at.vm}/interfaces", network_id=network_id)
    assert (attach.status_code, plug.status_code) == (202, 202)
    assert await at.ended(await at.ask("DELETE", f"/vms/{at.vm}")) == ["FAILED"]
    assert (await at.user.read(f"/volumes/{stays}"))["status"] == "IN_USE"
    assert (await at.user.read(f"/volumes/{never_came}"))["status"] == "AVAILABLE"
    await check_both_sides(stack, [at])
    await add_fault(cloud, "delete_server", FaultMode.REFUSE)
    # So that the delete comes before the end of the restore.
    await add_fault(cloud, "rebuild_server", FaultMode.FAIL_AFTER_EFFECT, times=3, vm_id=UUID(at.vm))
    restoring = await at.ask("POST", f"/vms/{at.vm}/snapshots/{restore_to}/restore")
    deleting = await at.ask("DELETE", f"/vms/{at.vm}")
    assert await at.ended(restoring, deleting) == ["SUPERSEDED", "FAILED"]
    await check_both_sides(stack, [at])
    await add_fault(cloud, "delete_server", FaultMode.REFUSE)
    taking, deleting = await (await take_snapshot(at))(), await at.ask("DELETE", f"/vms/{at.vm}")
    assert await at.ended(taking, deleting) == ["SUPERSEDED", "FAILED"]
    await check_both_sides(stack, [at])
    assert await at.ended(await at.ask("DELETE", f"/vms/{at.vm}")) == ["SUCCEEDED"]


async def test_what_cannot_be_deleted_with_its_vm_keeps_no_vm_from_being_deleted(at: Scene, cloud: Settings) -> None:
    goes, stays = await at.attached(delete_on_termination=True), await at.attached()
    await add_fault(cloud, "delete_volume", FaultMode.REFUSE)
    assert await at.ended(await at.ask("DELETE", f"/vms/{at.vm}")) == ["SUCCEEDED"]
    assert (await at.user.read(f"/volumes/{goes}"))["status"] == "ERROR"
    assert (await at.user.read(f"/volumes/{stays}"))["status"] == "AVAILABLE"
    assert await at.ended(await at.ask("DELETE", f"/volumes/{goes}")) == ["SUCCEEDED"]


async def test_a_snapshot_a_restore_and_an_attach_survive_the_kill_of_everything(stack: Stack, user: User) -> None:
    scenes = [await make_vm(user) for _ in range(3)]
    requests = [await take_snapshot(scenes[0]), await restore(scenes[1]), await attach_volume(scenes[2])]
    answers = [await request() for request in requests]
    stack.kill_everything()
    stack.start()
    for at, answer in zip(scenes, answers, strict=True):
        assert await at.ended(answer) == ["SUCCEEDED"]
    assert await differences(stack) == []


async def test_what_an_operator_cancels_before_it_is_done_is_taken_back(
    stack: Stack, at: Scene, cloud: Settings
) -> None:
    volume_id = await at.volume()
    await add_fault(cloud, "attach_volume", FaultMode.NEVER_ANSWER)
    await add_fault(cloud, "create_server_interface", FaultMode.NEVER_ANSWER)
    network_id = (await at.user.read("/networks"))["items"][0]["id"]
    answers = [
        await at.ask("POST", f"/vms/{at.vm}/volumes", volume_id=volume_id),
        await at.ask("POST", f"/vms/{at.vm}/interfaces", network_id=network_id),
    ]
    temporal = await stack.temporal()
    for answer in answers:
        path = answer.headers["Operation-Location"].removeprefix("/api/v1")
        operation = await at.until(path, "RUNNING")
        await temporal.get_workflow_handle(operation["workflow_id"]).cancel()
    assert await at.ended(*answers) == ["CANCELED", "CANCELED"]
    assert (await at.user.read(f"/volumes/{volume_id}"))["status"] == "AVAILABLE"
    assert (await at.user.read(f"/vms/{at.vm}/volumes"))["total"] == 0
    assert (await at.user.read(f"/vms/{at.vm}/interfaces"))["total"] == 1


async def test_a_restore_brings_back_what_the_snapshot_held(stack: Stack, at: Scene) -> None:
    async def content() -> str:
        rows = await stack.sql("SELECT content FROM mock_cloud.servers WHERE vm_id = $1", UUID(at.vm))
        return str(rows[0]["content"])

    volume_id = await at.attached()
    before, flavors, snapshot_id = await content(), await at.user.flavors(), await at.snapshot()
    await at.user.act(at.vm, "resize", flavor_id=flavors[1])
    await at.user.until(at.vm, "VERIFY_RESIZE")
    await at.user.act(at.vm, "confirm-resize")
    await at.user.until(at.vm, "ACTIVE")
    await at.user.act(at.vm, "reboot")
    await at.user.until(at.vm, "ACTIVE")
    assert await content() != before
    await at.user.act(at.vm, "stop")
    await at.user.until(at.vm, "SHUTOFF")
    restoring = await at.ask("POST", f"/vms/{at.vm}/snapshots/{snapshot_id}/restore")
    assert await at.ended(restoring) == ["SUCCEEDED"]
    vm = await at.user.read(f"/vms/{at.vm}")
    assert (vm["status"], vm["flavor_id"], await content()) == ("SHUTOFF", flavors[0], before)
    assert [one["volume_id"] for one in (await at.user.read(f"/vms/{at.vm}/volumes"))["items"]] == [volume_id]
