"""Lists the mock cloud's servers that others made. In their rows, `vm_id` is the server's own id: they have no VM."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import select

from activities.backends.found import FoundServer, FoundVolume
from activities.backends.mock.calls import MockCalls, is_one_of
from activities.backends.mock.ports import port_from
from activities.backends.mock.schema import ports, servers, volumes
from activities.backends.mock.servers import apply_due_changes
from domain.rules.cloud import ServerStatus


class MockFound(MockCalls):
    """Servers of others."""

    async def list_other_servers(self, known: Collection[str]) -> Sequence[FoundServer]:
        async with self._engine.begin() as tx:
            await apply_due_changes(tx)
            others = ~is_one_of(servers.c.id, [UUID(id) for id in known])
            found = (await tx.execute(select(servers).where(others))).all()
            vm_ids = [row.vm_id for row in found]
            plugged = [
                port_from(row) for row in await tx.execute(select(ports).where(is_one_of(ports.c.vm_id, vm_ids)))
            ]
            attached = (await tx.execute(select(volumes).where(is_one_of(volumes.c.vm_id, vm_ids)))).all()
        return [
            FoundServer(
                cloud_id=str(row.id),
                id=row.vm_id,
                name=row.name,
                status=ServerStatus(row.status),
                is_busy=row.due_at is not None,
                flavor="",  # a server of the mock keeps only the size
                vcpus=row.vcpus,
                ram_mb=row.ram_mb,
                disk_gb=row.disk_gb,
                image_id=None if row.boot_volume_id else str(row.image_id),
                created_at=row.created_at,
                volumes=[
                    FoundVolume(
                        str(volume.cloud_id),
                        volume.id,
                        volume.name,
                        volume.size_gb,
                        volume.device,
                        delete_on_termination=False,
                    )
                    for volume in attached
                    if volume.vm_id == row.vm_id
                ],
                ports=[port for port in plugged if port.vm_id == row.vm_id],
            )
            for row in found
        ]
