"""New VMs on a running stack: with volumes that they get while they are built, and many at once."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from activities.backends.faults import add_fault
from activities.backends.mock.schema import FaultMode
from domain.settings import Settings
from tests.support.stack import Stack
from tests.support.truth import differences
from tests.support.users import User
from tests.support.waiting import poll

NEW = {"name": "db-1", "flavor": "m1.tiny", "networks": ["private"]}
BUILDING = "SELECT status FROM mock_cloud.servers WHERE vm_id = $1"


async def new_volumes(user: User, count: int = 2) -> list[str]:
    """The ids of volumes that are AVAILABLE."""
    answers = [await user.request("POST", "/volumes", json={"name": f"data-{n}", "size_gb": 1}) for n in range(count)]
    await user.until_nothing_open()
    return [answer.json()["id"] for answer in answers]


async def create(user: User, volumes: list[str], **body: Any) -> dict[str, Any]:
    wanted = [{"volume_id": id, "delete_on_termination": n == 0} for n, id in enumerate(volumes)]
    answer = await user.request("POST", "/vms", json=NEW | {"volumes": wanted} | body)
    assert answer.status_code == 202, answer.text
    vm: dict[str, Any] = answer.json()
    return vm


async def statuses(user: User, volumes: list[str]) -> list[str]:
    return [(await user.read(f"/volumes/{id}"))["status"] for id in volumes]


async def test_a_vm_is_active_with_its_volumes_and_its_delete_frees_or_deletes_them(stack: Stack, user: User) -> None:
    volumes = await new_volumes(user)
    vm = await create(user, volumes)
    assert await statuses(user, volumes) == ["ATTACHING"] * 2
    assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"
    assert await statuses(user, volumes) == ["IN_USE"] * 2
    attached = (await user.read(f"/vms/{vm['id']}/volumes"))["items"]
    assert [(each["volume_id"], each["device"], each["status"]) for each in attached] == [
        (volumes[0], "/dev/vdb", "ATTACHED"),
        (volumes[1], "/dev/vdc", "ATTACHED"),
    ]
    assert await differences(stack) == []
    detach = await user.request("DELETE", f"/vms/{vm['id']}/volumes/{volumes[1]}")
    assert detach.status_code == 204, detach.text
    await user.until_nothing_open()
    assert await statuses(user, volumes) == ["IN_USE", "AVAILABLE"]
    await user.request("DELETE", f"/vms/{vm['id']}")
    await user.until(vm["id"], "DELETED")
    assert await statuses(user, volumes) == ["DELETED", "AVAILABLE"]
    assert await differences(stack) == []


async def test_a_failed_build_frees_the_volumes(stack: Stack, user: User) -> None:
    volumes = await new_volumes(user)
    vm = await create(user, volumes, flavor="m1.colossal")
    failed = await user.until(vm["id"], "ACTIVE", "ERROR")
    assert (failed["status"], failed["fault"]["code"]) == ("ERROR", "no_valid_host")
    assert await statuses(user, volumes) == ["AVAILABLE"] * 2
    assert (await user.read(f"/vms/{vm['id']}/volumes"))["items"] == []
    again = await create(user, volumes)
    assert (await user.until(again["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"
    assert await differences(stack) == []


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_a_build_that_is_broken_off_frees_the_volumes(stack: Stack, user: User, how: str) -> None:
    volumes = await new_volumes(user)
    vm = await create(user, volumes)
    await poll(lambda: stack.sql(BUILDING, UUID(vm["id"])), bool, deadline=user.deadline)
    if how == "cancel":
        assert (await user.request("POST", f"/operations/{vm['operation_id']}/cancel")).status_code == 202
        await user.until(vm["id"], "ERROR")
        assert (await user.read(f"/operations/{vm['operation_id']}"))["status"] == "CANCELED"
        assert await statuses(user, volumes) == ["AVAILABLE"] * 2
    else:
        await user.request("DELETE", f"/vms/{vm['id']}")
        await user.until(vm["id"], "DELETED")
        assert (await user.read(f"/operations/{vm['operation_id']}"))["status"] == "SUPERSEDED"
        assert await statuses(user, volumes) == ["DELETED", "AVAILABLE"]
    assert await differences(stack) == []


async def test_an_answer_that_is_lost_attaches_nothing_twice(stack: Stack, user: User, cloud: Settings) -> None:
    volumes = await new_volumes(user)
    await add_fault(cloud, "create_server", FaultMode.FAIL_AFTER_EFFECT)
    vm = await create(user, volumes)
    assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"
    assert (await user.read(f"/operations/{vm['operation_id']}"))["attempt"] >= 1
    assert await statuses(user, volumes) == ["IN_USE"] * 2
    assert await differences(stack) == []


async def test_the_vms_of_a_batch_are_built_and_fail_each_by_itself(stack: Stack, user: User) -> None:
    wanted = [NEW | {"name": f"web-{n}", "flavor": "m1.colossal" if n == 3 else "m1.tiny"} for n in range(20)]
    answer = await user.request("POST", "/vms/batch", json={"vms": wanted})
    assert answer.status_code == 202, answer.text
    vms = answer.json()["items"]
    ended = await asyncio.gather(*(user.until(vm["id"], "ACTIVE", "ERROR") for vm in vms))
    assert [vm["status"] for vm in ended] == ["ERROR" if n == 3 else "ACTIVE" for n in range(20)]
    assert await differences(stack) == []
