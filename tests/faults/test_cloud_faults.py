"""The mock cloud fails on demand; after every failure the VM is in a state in which its owner can act."""

from uuid import UUID

from activities.backends.faults import add_fault
from activities.backends.mock.schema import FaultMode
from domain.settings import Settings
from tests.integration.mock_cloud import ports_of, servers_of
from tests.support.stack import Stack
from tests.support.users import User


async def test_a_build_that_fits_on_no_host_ends_in_error_without_leftovers(stack: Stack, user: User) -> None:
    flavor = (await user.request("GET", "/flavors")).json()["items"][-1]
    vm = (await user.request("POST", "/vms", json={"name": "too-large", "flavor_id": flavor["id"]})).json()
    vm = await user.until(vm["id"], "ACTIVE", "ERROR")
    assert (vm["status"], vm["fault"]["code"], vm["allowed_actions"]) == ("ERROR", "no_valid_host", ["delete"])
    operation = (await user.request("GET", f"/operations/{vm['operation_id']}")).json()
    assert (operation["status"], operation["error"]) == ("FAILED", vm["fault"])
    assert (await servers_of(stack, vm["id"]), await ports_of(stack, vm["id"])) == ([], 0)


async def test_a_build_with_a_lost_answer_and_two_failures_creates_one_server(
    stack: Stack, user: User, cloud: Settings
) -> None:
    await add_fault(cloud, "create_ports", FaultMode.FAIL_AFTER_EFFECT)
    await add_fault(cloud, "create_server", FaultMode.FAIL, times=2)
    vm = await user.create("unlucky")
    assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"
    assert (await servers_of(stack, vm["id"]), await ports_of(stack, vm["id"])) == (["ACTIVE"], 1)
    operation = (await user.request("GET", f"/operations/{vm['operation_id']}")).json()
    # The ports and the server are made in one step, which succeeds at its fourth attempt.
    assert (operation["attempt"], operation["next_retry_at"]) == (4, None)


async def test_a_refused_delete_of_a_build_ends_in_error_and_the_next_delete_succeeds(
    stack: Stack, user: User, cloud: Settings
) -> None:
    vm = await user.create("hard-to-delete")
    await user.until(vm["id"], task_state="spawning")
    await add_fault(cloud, "delete_server", FaultMode.REFUSE, vm_id=UUID(vm["id"]))
    await user.request("DELETE", f"/vms/{vm['id']}")
    refused = await user.until(vm["id"], "DELETED", "ERROR")
    assert (refused["status"], refused["fault"]["code"]) == ("ERROR", "mock_refused")
    assert refused["allowed_actions"] == ["delete"]
    await user.request("DELETE", f"/vms/{vm['id']}")
    assert (await user.until(vm["id"], "DELETED", "ERROR"))["status"] == "DELETED"
    assert (await servers_of(stack, vm["id"]), await ports_of(stack, vm["id"])) == ([], 0)


async def test_a_refused_stop_leaves_the_vm_unchanged(stack: Stack, user: User, cloud: Settings) -> None:
    vm = await user.create("keeps-running")
    await user.until(vm["id"], "ACTIVE")
    await add_fault(cloud, "stop_server", FaultMode.REFUSE, vm_id=UUID(vm["id"]))
    stopping = (await user.request("POST", f"/vms/{vm['id']}/actions/stop")).json()
    vm = await user.until(vm["id"])
    assert (vm["status"], vm["fault"]) == ("ACTIVE", None)
    operation = (await user.request("GET", f"/operations/{stopping['operation_id']}")).json()
    assert (operation["status"], operation["error"]["code"]) == ("FAILED", "mock_refused")
    assert await servers_of(stack, vm["id"]) == ["ACTIVE"]
