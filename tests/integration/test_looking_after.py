"""Workflows are terminated, operations canceled, the cloud changes: all ends, and nothing is left half done."""

import asyncio
from uuid import UUID

from tests.support.stack import Stack, User
from tests.support.truth import differences

LEFT_OVER = """
INSERT INTO mock_cloud.servers (vm_id, name, vcpus, ram_mb, disk_gb, image_id, status)
SELECT $2, 'left over', vcpus, ram_mb, disk_gb, image_id, 'ACTIVE' FROM mock_cloud.servers WHERE vm_id = $1
"""


async def test_terminated_workflows_are_cleaned_up_after(stack: Stack, user: User) -> None:
    """Each within a minute: the next look is due 30 s after the delivery."""
    client = await stack.temporal()
    stopped, deleted = [await user.create(f"looked-after-{number}") for number in range(2)]
    for vm in (stopped, deleted):
        await user.until(vm["id"], "ACTIVE")
    built = await user.create("never-built")
    stop = await user.act(stopped["id"], "stop")
    gone = await user.request("DELETE", f"/vms/{deleted['id']}")
    delete_id = gone.headers["Operation-Location"].rpartition("/")[2]
    for operation_id in (built["operation_id"], stop["id"], delete_id):
        operation = await user.read(f"/operations/{operation_id}")
        while operation["status"] == "QUEUED":
            operation = await user.read(f"/operations/{operation_id}")
        await client.get_workflow_handle(operation["workflow_id"]).terminate("by an operator")
    for operation_id in (built["operation_id"], stop["id"], delete_id):
        while (operation := await user.read(f"/operations/{operation_id}"))["status"] in {"QUEUED", "RUNNING"}:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.5)
        assert operation["status"] == "SUCCEEDED" or operation["error"]["code"] == "workflow_terminated", operation
    assert (await user.until(built["id"]))["status"] == "ERROR"
    assert await stack.sql("SELECT 1 FROM mock_cloud.servers WHERE vm_id = $1", UUID(built["id"])) == []
    for vm in (built, deleted):
        assert (await user.request("DELETE", f"/vms/{vm['id']}")).status_code == 204
        await user.until(vm["id"], "DELETED")
    assert (await user.until(stopped["id"]))["status"] in {"ACTIVE", "SHUTOFF"}
    assert await differences(stack) == []


async def test_a_build_that_is_canceled_is_undone_at_once(stack: Stack, user: User) -> None:
    vm = await user.create("canceled")
    await user.until(vm["id"], task_state="spawning")
    answer = await user.request("POST", f"/operations/{vm['operation_id']}/cancel")
    assert answer.status_code == 202, answer.text
    assert (await user.until(vm["id"]))["fault"]["code"] == "canceled"
    operation = await user.read(f"/operations/{vm['operation_id']}")
    assert (operation["status"], operation["cancel_requested_by"] is not None) == ("CANCELED", True)
    assert await stack.sql("SELECT 1 FROM mock_cloud.servers WHERE vm_id = $1", UUID(vm["id"])) == []
    again = await user.request("POST", f"/operations/{vm['operation_id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "too_late")
    assert (await user.request("DELETE", f"/vms/{vm['id']}")).status_code == 204
    await user.until(vm["id"], "DELETED")


async def test_the_database_follows_the_cloud(stack: Stack, user: User) -> None:
    """Within a minute: a look is due every 15 s, and the second that sees the same acts."""
    gone, off, deleted = [await user.create(name) for name in ("gone", "off", "deleted")]
    for vm in (gone, off, deleted):
        await user.until(vm["id"], "ACTIVE")
    await user.request("DELETE", f"/vms/{deleted['id']}")
    await user.until(deleted["id"], "DELETED")
    ids = [UUID(vm["id"]) for vm in (gone, off, deleted)]
    await stack.sql("DELETE FROM mock_cloud.servers WHERE vm_id = $1", ids[0])
    await stack.sql("UPDATE mock_cloud.servers SET status = 'SHUTOFF' WHERE vm_id = $1", ids[1])
    await stack.sql(LEFT_OVER, *ids[1:])
    assert (await user.until(gone["id"], "ERROR"))["fault"]["code"] == "server_gone"
    await user.until(off["id"], "SHUTOFF")
    while await stack.sql("SELECT 1 FROM mock_cloud.servers WHERE vm_id = $1", ids[2]):  # noqa: ASYNC110 - in SQL
        await asyncio.sleep(0.1)
    for vm in (gone, off):
        latest = (await user.read(f"/vms/{vm['id']}/operations?page_size=1"))["items"][0]
        assert (latest["action"], latest["actor"], latest["status"]) == ("reset-state", "@reconcile", "SUCCEEDED")
        await user.request("DELETE", f"/vms/{vm['id']}")
        await user.until(vm["id"], "DELETED")
    assert await differences(stack) == []
