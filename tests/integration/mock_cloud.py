"""What the mock cloud of a stack has for a VM."""

from tests.support.stack import Stack


async def servers_of(stack: Stack, vm_id: str) -> list[str]:
    """The statuses of the VM's servers."""
    return [row["status"] for row in await stack.sql("SELECT status FROM mock_cloud.servers WHERE vm_id = $1", vm_id)]


async def ports_of(stack: Stack, vm_id: str) -> int:
    """The number of the VM's ports."""
    rows = await stack.sql("SELECT count(*) AS ports FROM mock_cloud.ports WHERE vm_id = $1", vm_id)
    return int(rows[0]["ports"])
