"""Whether the database and the mock cloud tell the same story of every VM."""

from typing import Any

from domain import lifecycle
from domain.lifecycle import Status, TaskState
from tests.integration.stack import Stack

QUERY = """
SELECT vms.id, vms.name, vms.status, vms.task_state, servers.status AS server_status,
       (flavors.vcpus, flavors.ram_mb, flavors.disk_gb) = (servers.vcpus, servers.ram_mb, servers.disk_gb) AS fits,
       migrations.vm_id IS NOT NULL AS has_two_flavors,
       (SELECT count(*) FROM mock_cloud.ports WHERE ports.vm_id = vms.id) AS ports,
       (SELECT count(*) FROM operations WHERE operations.vm_id = vms.id AND operations.status IN ('QUEUED', 'RUNNING'))
           AS open_operations
FROM vms
JOIN flavors ON flavors.id = vms.flavor_id
LEFT JOIN mock_cloud.servers ON servers.vm_id = vms.id
LEFT JOIN mock_cloud.migrations ON migrations.vm_id = vms.id
"""


async def differences(stack: Stack) -> list[str]:
    """What the mock cloud has otherwise than the database says, of VMs that nothing is done to and are not in ERROR."""
    rows = await stack.sql(QUERY)
    assert rows
    return [f"{dict(row)}" for row in rows if not _agrees(row)]


def _agrees(row: Any) -> bool:
    status, task_state = Status(row["status"]), row["task_state"]
    if (status, TaskState(task_state) if task_state else None) not in lifecycle.legal_states():
        return False
    if task_state or status is Status.ERROR:
        return True
    if row["open_operations"]:
        return False
    if status is Status.DELETED:
        return row["server_status"] is None and not row["has_two_flavors"] and row["ports"] == 0
    has_two_flavors: bool = row["has_two_flavors"]
    return row["server_status"] == status and row["fits"] and has_two_flavors is (status is Status.VERIFY_RESIZE)
