"""Whether the database and the mock cloud tell the same story of everything, and no address or device is used twice."""

from typing import Any, Protocol

from domain.rules import lifecycle
from domain.rules.states import Status, TaskState


class Database(Protocol):
    """Whatever can be asked what its database holds."""

    async def sql(self, query: str, *arguments: object) -> list[Any]:
        """The rows of a query."""


VMS = """
SELECT vms.id, vms.name, vms.status, vms.task_state, vms.attaching, servers.status AS server_status,
       (flavors.vcpus, flavors.ram_mb, flavors.disk_gb) = (servers.vcpus, servers.ram_mb, servers.disk_gb) AS fits,
       migrations.vm_id IS NOT NULL AS has_two_flavors,
       (SELECT count(*) FROM operations WHERE operations.vm_id = vms.id AND operations.status IN ('QUEUED', 'RUNNING'))
           AS open_operations
FROM vms
JOIN flavors ON flavors.id = vms.flavor_id
LEFT JOIN mock_cloud.servers ON servers.vm_id = vms.id
LEFT JOIN mock_cloud.migrations ON migrations.vm_id = vms.id
"""
# At any time: what a build makes is gone before its end is recorded.
LEFT_BY_BUILDS = """
SELECT builds.id, builds.status, servers.vm_id AS server_of, ports.id AS port FROM operations AS builds
LEFT JOIN mock_cloud.servers ON servers.vm_id = builds.vm_id
LEFT JOIN mock_cloud.ports ON ports.vm_id = builds.vm_id
WHERE builds.action = 'create' AND builds.status IN ('FAILED', 'CANCELED')
  AND (servers.vm_id IS NOT NULL OR ports.id IS NOT NULL)"""
# What rests on one side and is missing, or is otherwise, on the other. Of VMs in ERROR that had been built nothing is
# promised.
RESOURCES = {
    "what a failed build has left": LEFT_BY_BUILDS,
    "interfaces that are not as their ports": """
        SELECT interfaces, ports FROM interfaces FULL JOIN mock_cloud.ports ON ports.id = interfaces.id
        LEFT JOIN vms ON vms.id = coalesce(interfaces.vm_id, ports.vm_id)
        WHERE (interfaces.vm_id, interfaces.network_id, interfaces.ip_address, interfaces.mac_address, 'ATTACHED')
              IS DISTINCT FROM (ports.vm_id, ports.network_id, ports.ip_address, ports.mac_address, interfaces.status)
              AND vms.status <> 'ERROR' AND vms.attaching = 0 AND vms.task_state IS NULL""",
    "volumes that are not as the cloud's": """
        SELECT volumes, attachments, cloud FROM volumes
        LEFT JOIN attachments ON attachments.volume_id = volumes.id
        FULL JOIN mock_cloud.volumes AS cloud ON cloud.id = volumes.id
        WHERE volumes.status IS NULL
           OR (volumes.status = 'AVAILABLE' AND (cloud.state, attachments.device) IS DISTINCT FROM ('available', NULL))
           OR (volumes.status = 'IN_USE' AND (cloud.state, cloud.vm_id, cloud.device, 'ATTACHED')
               IS DISTINCT FROM ('in-use', attachments.vm_id, attachments.device, attachments.status))
           OR (volumes.status IN ('DELETED', 'ERROR') AND cloud.id IS NOT NULL)""",
    "snapshots that are not as their images": """
        SELECT snapshots, images FROM snapshots FULL JOIN mock_cloud.images ON images.id = snapshots.id
        WHERE snapshots.status IS NULL
           OR (snapshots.status IN ('AVAILABLE', 'RESTORING')
               AND (images.due_at IS NULL OR images.due_at > clock_timestamp() OR images.fault IS NOT NULL))
           OR (snapshots.status IN ('DELETED', 'ERROR') AND images.id IS NOT NULL)""",
    "what is held by an operation that has ended": """
        SELECT held.* FROM (
            SELECT 'snapshot' AS kind, id, status, operation_id FROM snapshots
            UNION ALL SELECT 'volume', id, status, operation_id FROM volumes
            UNION ALL SELECT 'attachment', volume_id, status, operation_id FROM attachments
            UNION ALL SELECT 'interface', id, status, operation_id FROM interfaces) AS held
        JOIN operations ON operations.id = held.operation_id
        WHERE held.status LIKE '%ING' AND operations.status NOT IN ('QUEUED', 'RUNNING')""",
    "operations that have ended without an end": """
        SELECT * FROM operations WHERE status NOT IN ('QUEUED', 'RUNNING') AND finished_at IS NULL""",
}


async def differences(database: Database) -> list[str]:
    """What the mock cloud has otherwise than the database says, where nothing is done."""
    vms = await database.sql(VMS)
    assert vms
    found = [f"{dict(row)}" for row in vms if not _agrees(row)]
    for what, query in RESOURCES.items():
        found += [f"{what}: {dict(row)}" for row in await database.sql(query)]
    return found


def _agrees(row: Any) -> bool:
    status, task_state = Status(row["status"]), row["task_state"]
    if (status, TaskState(task_state) if task_state else None) not in lifecycle.legal_states():
        return False
    if task_state or status is Status.ERROR:
        return True
    if row["open_operations"] or row["attaching"]:
        return False
    if status is Status.DELETED:
        return row["server_status"] is None and not row["has_two_flavors"]
    has_two_flavors: bool = row["has_two_flavors"]
    return row["server_status"] == status and row["fits"] and has_two_flavors is (status is Status.VERIFY_RESIZE)
