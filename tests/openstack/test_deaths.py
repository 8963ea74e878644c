"""A short slice of faults on the real cloud: processes of ours and of the cloud die, and nothing is made twice."""

import asyncio

import pytest

from tests.openstack.cloud.services import DAEMONS
from tests.openstack.contents import OurThings
from tests.openstack.life import finished
from tests.support.stack import Stack
from tests.support.users import User, operation_path

DELAYS = (0.0, 0.5, 2.0)  # seconds after a request


async def test_vms_are_built_once_although_the_worker_dies(stack: Stack, user: User, ours: OurThings) -> None:
    vms = []
    for number, delay in enumerate(DELAYS):
        vms.append(await user.create(f"survivor-{number}"))
        await asyncio.sleep(delay)
        stack.kill("worker")
    for vm in vms:
        built = await user.until(vm["id"], "ACTIVE", "ERROR")
        assert (built["status"], ours.servers(vm["id"])) == ("ACTIVE", ["ACTIVE"]), built["fault"]
    await delete_all(user, ours, [vm["id"] for vm in vms])


async def test_a_vm_is_resized_although_api_and_worker_die(stack: Stack, user: User, ours: OurThings) -> None:
    vm_id = await user.create_active("resized")
    larger = (await user.flavors())[1]
    answer = await user.request("POST", f"/vms/{vm_id}/actions/resize", json={"flavor_id": larger})
    for part in ("api", "worker"):
        stack.kill(part)
    await finished(user, operation_path(answer))
    assert ours.servers(vm_id) == ["VERIFY_RESIZE"]
    await delete_all(user, ours, [vm_id])


@pytest.mark.usefixtures("test_cloud")
async def test_a_cloud_that_is_away_delays_builds_and_fails_none(user: User, ours: OurThings) -> None:
    api = DAEMONS["nova-api"]
    before = await user.create("before")
    api.kill()
    during = await user.create("during")
    await asyncio.sleep(10)
    api.start()
    for vm in (before, during):
        built = await user.until(vm["id"], "ACTIVE", "ERROR")
        assert (built["status"], ours.servers(vm["id"])) == ("ACTIVE", ["ACTIVE"]), built["fault"]
    await delete_all(user, ours, [before["id"], during["id"]])


async def delete_all(user: User, ours: OurThings, vm_ids: list[str]) -> None:
    """Delete VMs, of which nothing is left."""
    for vm_id in vm_ids:
        answer = await user.request("DELETE", f"/vms/{vm_id}")
        await finished(user, operation_path(answer))
    assert not ours.all_marks() & set(vm_ids)
