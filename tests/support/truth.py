"""Compares the database with the mock cloud: states, flavors, addresses and devices must agree."""

from typing import Any, Protocol

from domain.rules import lifecycle
from domain.rules.states import Status, TaskState


class Database(Protocol):
    """Anything that can run a query in the database of a stack."""

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
# True at any time, not only at rest: a failed build deletes its resources before it is recorded as failed.
LEFT_BY_FAILED_BUILDS = """
SELECT builds.id, builds.status, servers.vm_id AS server_of, ports.id AS port FROM operations AS builds
LEFT JOIN mock_cloud.servers ON servers.vm_id = builds.vm_id
LEFT JOIN mock_cloud.ports ON ports.vm_id = builds.vm_id
WHERE builds.action = 'create' AND builds.status IN ('FAILED', 'CANCELED')
  AND (servers.vm_id IS NOT NULL OR ports.id IS NOT NULL)"""
# Rows that are at rest on one side and missing or different on the other. A built VM that is in ERROR may differ.
RESOURCES = {
    "resource of a failed build": LEFT_BY_FAILED_BUILDS,
    "interface differs from its port": """
        SELECT interfaces, ports FROM interfaces FULL JOIN mock_cloud.ports ON ports.id = interfaces.id
        LEFT JOIN vms ON vms.id = coalesce(interfaces.vm_id, ports.vm_id)
        WHERE (interfaces.vm_id, interfaces.network_id, interfaces.ip_address, interfaces.mac_address, 'ATTACHED')
              IS DISTINCT FROM (ports.vm_id, ports.network_id, ports.ip_address, ports.mac_address, interfaces.status)
              AND vms.status <> 'ERROR' AND vms.attaching = 0 AND vms.task_state IS NULL""",
    "volume differs from the cloud's": """
        SELECT volumes, attachments, cloud FROM volumes
        LEFT JOIN attachments ON attachments.volume_id = volumes.id
        FULL JOIN mock_cloud.volumes AS cloud ON cloud.id = volumes.id
        WHERE volumes.status IS NULL
           OR (volumes.status IN ('AVAILABLE', 'IN_USE') AND volumes.size_gb <> cloud.size_gb)
           OR (volumes.status = 'AVAILABLE' AND (cloud.state, attachments.device) IS DISTINCT FROM ('available', NULL))
           OR (volumes.status = 'IN_USE' AND (cloud.state, cloud.vm_id, cloud.device, 'ATTACHED')
               IS DISTINCT FROM ('in-use', attachments.vm_id, attachments.device, attachments.status))
           OR (volumes.status IN ('DELETED', 'ERROR') AND cloud.id IS NOT NULL)""",
    "snapshot differs from its image": """
        SELECT snapshots, images FROM snapshots FULL JOIN mock_cloud.images ON images.id = snapshots.id
        WHERE snapshots.status IS NULL
           OR (snapshots.status IN ('AVAILABLE', 'RESTORING')
               AND (images.due_at IS NULL OR images.due_at > clock_timestamp() OR images.fault IS NOT NULL))
           OR (snapshots.status IN ('DELETED', 'ERROR') AND images.id IS NOT NULL)""",
    "resource in transition although its operation has ended": """
        SELECT held.* FROM (
            SELECT 'snapshot' AS kind, id, status, operation_id FROM snapshots
            UNION ALL SELECT 'volume', id, status, operation_id FROM volumes
            UNION ALL SELECT 'attachment', volume_id, status, operation_id FROM attachments
            UNION ALL SELECT 'interface', id, status, operation_id FROM interfaces) AS held
        JOIN operations ON operations.id = held.operation_id
        WHERE held.status LIKE '%ING' AND operations.status NOT IN ('QUEUED', 'RUNNING')""",
    "row keeps another id than the cloud has": """
        SELECT kept.*, cloud.id AS cloud_id FROM (
            SELECT id, cloud_id AS kept_id FROM vms UNION ALL SELECT id, cloud_id FROM volumes
            UNION ALL SELECT id, cloud_id FROM snapshots UNION ALL SELECT id, cloud_id FROM interfaces) AS kept
        JOIN (
            SELECT vm_id AS mark, id FROM mock_cloud.servers UNION ALL SELECT id, cloud_id FROM mock_cloud.volumes
            UNION ALL SELECT id, cloud_id FROM mock_cloud.images UNION ALL SELECT id, cloud_id FROM mock_cloud.ports
        ) AS cloud ON cloud.mark = kept.id
        WHERE kept.kept_id <> cloud.id::text""",
    "closed operation without finished_at": """
        SELECT * FROM operations WHERE status NOT IN ('QUEUED', 'RUNNING') AND finished_at IS NULL""",
}


async def differences(database: Database) -> list[str]:
    """How the mock cloud differs from the database; meant for when no operation is running."""
    vms = await database.sql(VMS)
    assert vms
    found = [f"{dict(row)}" for row in vms if not _agrees(row)]
    for difference, query in RESOURCES.items():
        found += [f"{difference}: {dict(row)}" for row in await database.sql(query)]
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
