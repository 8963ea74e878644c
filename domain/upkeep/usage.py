"""Compares what projects use, as the triggers have counted it, with what there is, and corrects it.

They differ only if somebody has changed rows without the triggers, or the size of a flavor.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

# The counts and the rows are of the same moment, because one statement reads both, and they are committed together.
_COUNTED: Final = """
    SELECT project_usage.project_id, coalesce(of_vms.number, 0) AS vms, coalesce(of_vms.vcpus, 0) AS vcpus,
           coalesce(of_vms.ram_mb, 0) AS ram_mb, coalesce(of_volumes.number, 0) AS volumes,
           coalesce(of_volumes.gb, 0) AS volume_gb, coalesce(of_snapshots.number, 0) AS snapshots,
           coalesce(of_operations.number, 0) AS open_operations,
           coalesce(of_networks.addresses, '{{}}') AS addresses
    FROM project_usage
    LEFT JOIN (
        SELECT owner_id, count(*) AS number, sum(greatest(vcpus, reserved_vcpus)) AS vcpus,
               sum(greatest(ram_mb, reserved_ram_mb)) AS ram_mb
        FROM vms JOIN flavors ON flavors.id = flavor_id WHERE status <> 'DELETED' {and_of_project} GROUP BY owner_id
    ) AS of_vms ON of_vms.owner_id = project_id
    LEFT JOIN (
        SELECT owner_id, count(*) AS number, sum(greatest(size_gb, reserved_gb)) AS gb
        FROM volumes WHERE status <> 'DELETED' {and_of_project} GROUP BY owner_id
    ) AS of_volumes ON of_volumes.owner_id = project_id
    LEFT JOIN (
        SELECT owner_id, count(*) AS number FROM snapshots WHERE status <> 'DELETED' {and_of_project} GROUP BY owner_id
    ) AS of_snapshots ON of_snapshots.owner_id = project_id
    LEFT JOIN (
        -- The conditions of the two partial indexes that have the open ones.
        SELECT owner_id, count(*) AS number FROM operations
        WHERE (status = 'QUEUED' AND deliveries < 1 OR status = 'RUNNING' OR status = 'QUEUED' AND deliveries > 0)
              {and_of_project}
        GROUP BY owner_id
    ) AS of_operations ON of_operations.owner_id = project_id
    LEFT JOIN (
        SELECT owner_id, jsonb_object_agg(network_id, number) AS addresses FROM (
            SELECT owner_id, network_id, count(*) AS number
            FROM interfaces JOIN vms ON vms.id = vm_id WHERE true {and_of_project} GROUP BY owner_id, network_id
        ) AS by_network GROUP BY owner_id
    ) AS of_networks ON of_networks.owner_id = project_id
"""
_COLUMNS: Final = ("vms", "vcpus", "ram_mb", "volumes", "volume_gb", "snapshots", "open_operations", "addresses")


def _of(table: str) -> str:
    return f"({', '.join(f'{table}.{column}' for column in _COLUMNS)})"


# ruff: noqa: S608 - what is put into these statements are constants of this module
_ALL, _ONE = _COUNTED.format(and_of_project=""), _COUNTED.format(and_of_project="AND owner_id = :project_id")
_WRONG: Final = text(
    f"SELECT project_id FROM ({_ALL}) AS counted JOIN project_usage USING (project_id) "
    f"WHERE {_of('counted')} IS DISTINCT FROM {_of('project_usage')} ORDER BY project_id"
)
_CORRECT: Final = text(
    f"UPDATE project_usage SET ({', '.join(_COLUMNS)}) = {_of('counted')} FROM ({_ONE}) AS counted "
    "WHERE project_usage.project_id = :project_id AND counted.project_id = :project_id"
)
_LOCK: Final[TextClause] = text("SELECT FROM project_usage WHERE project_id = :project_id FOR UPDATE")


async def find_wrong(connection: AsyncConnection) -> Sequence[UUID]:
    """The projects whose use is not what there is."""
    return (await connection.execute(_WRONG)).scalars().all()


async def correct(tx: AsyncConnection, project_id: UUID) -> None:
    """Count what a project uses afresh."""
    # Two statements: the second sees what was committed before this transaction got the lock.
    await tx.execute(_LOCK, {"project_id": project_id})
    await tx.execute(_CORRECT, {"project_id": project_id})
