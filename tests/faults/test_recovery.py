"""Recovery from terminated workflows, canceled operations and changes in the cloud."""

from uuid import UUID

from tests.integration.mock_cloud import servers_of
from tests.support.stack import Stack
from tests.support.truth import differences
from tests.support.users import ENDS, User, operation_id
from tests.support.waiting import poll

ORPHAN = """
INSERT INTO mock_cloud.servers (vm_id, name, vcpus, ram_mb, disk_gb, image_id, status)
SELECT $2, 'orphan', vcpus, ram_mb, disk_gb, image_id, 'ACTIVE' FROM mock_cloud.servers WHERE vm_id = $1
"""


async def test_operations_of_terminated_workflows_are_closed(stack: Stack, user: User) -> None:
    """Takes up to a minute: the workflow of an operation is checked 30 s after its delivery."""
    client = await stack.temporal()
    stopped, deleted = [await user.create(f"terminated-{number}") for number in range(2)]
    for vm in (stopped, deleted):
        await user.until(vm["id"], "ACTIVE")
    built = await user.create("never-built")
    stop = await user.act(stopped["id"], "stop")
    deleting = await user.request("DELETE", f"/vms/{deleted['id']}")
    operation_ids = (built["operation_id"], stop["id"], operation_id(deleting))
    for id in operation_ids:
        operation = await user.until_status(id, "RUNNING", *ENDS)
        await client.get_workflow_handle(operation["workflow_id"]).terminate("by an operator")
    ended = {id: await user.end_of(f"/operations/{id}", deadline=120) for id in operation_ids}
    for operation in ended.values():
        assert operation["status"] == "SUCCEEDED" or operation["error"]["code"] == "workflow_terminated", operation
    is_built = ended[built["operation_id"]]["status"] == "SUCCEEDED"  # the build was quicker than the operator
    assert (await user.until(built["id"]))["status"] == ("ACTIVE" if is_built else "ERROR")
    assert await servers_of(stack, built["id"]) == (["ACTIVE"] if is_built else [])
    for vm in (built, deleted):
        assert (await user.request("DELETE", f"/vms/{vm['id']}")).status_code == 204
        await user.until(vm["id"], "DELETED")
    assert (await user.until(stopped["id"]))["status"] in {"ACTIVE", "SHUTOFF"}
    assert await differences(stack) == []


async def test_a_canceled_build_is_undone_immediately(stack: Stack, user: User) -> None:
    vm = await user.create("canceled")
    await user.until(vm["id"], task_state="spawning")
    answer = await user.request("POST", f"/operations/{vm['operation_id']}/cancel")
    assert answer.status_code == 202, answer.text
    assert (await user.until(vm["id"]))["fault"]["code"] == "canceled"
    operation = await user.read(f"/operations/{vm['operation_id']}")
    assert (operation["status"], operation["cancel_requested_by"] is not None) == ("CANCELED", True)
    assert await servers_of(stack, vm["id"]) == []
    again = await user.request("POST", f"/operations/{vm['operation_id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "too_late")
    assert (await user.request("DELETE", f"/vms/{vm['id']}")).status_code == 204
    await user.until(vm["id"], "DELETED")


async def test_the_database_follows_the_cloud(stack: Stack, user: User) -> None:
    """Takes up to a minute: the cloud is checked every 15 s, and a difference is repaired when it is seen twice."""
    missing, off, deleted = [await user.create(name) for name in ("missing", "off", "deleted")]
    for vm in (missing, off, deleted):
        await user.until(vm["id"], "ACTIVE")
    await user.request("DELETE", f"/vms/{deleted['id']}")
    await user.until(deleted["id"], "DELETED")
    ids = [UUID(vm["id"]) for vm in (missing, off, deleted)]
    await stack.sql("DELETE FROM mock_cloud.servers WHERE vm_id = $1", ids[0])
    await stack.sql("UPDATE mock_cloud.servers SET status = 'SHUTOFF' WHERE vm_id = $1", ids[1])
    await stack.sql(ORPHAN, *ids[1:])
    assert (await user.until(missing["id"], "ERROR"))["fault"]["code"] == "server_gone"
    await user.until(off["id"], "SHUTOFF")
    await poll(lambda: servers_of(stack, str(ids[2])), lambda servers: servers == [], deadline=120)
    for vm in (missing, off):
        latest = (await user.read(f"/vms/{vm['id']}/operations?page_size=1"))["items"][0]
        assert (latest["action"], latest["actor"], latest["status"]) == ("reset-state", "@reconcile", "SUCCEEDED")
        await user.request("DELETE", f"/vms/{vm['id']}")
        await user.until(vm["id"], "DELETED")
    assert await differences(stack) == []
