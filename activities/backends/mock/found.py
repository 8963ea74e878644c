"""Lists the mock cloud's servers that others made. In their rows, `vm_id` is the server's own id: they have no VM."""

from collections.abc import AsyncIterator, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import select

from activities.backends.found import FoundServer, FoundVolume
from activities.backends.mock.calls import MockCalls, is_one_of
from activities.backends.mock.ports import port_from
from activities.backends.mock.schema import ports, servers, volumes
from activities.backends.mock.servers import apply_due_changes
from activities.backends.protocol import KnownServers
from domain.rules.cloud import ServerStatus

PAGE_SIZE: Final = 500


class MockFound(MockCalls):
    """Servers of others."""

    async def list_other_servers(self, known: KnownServers) -> Sequence[FoundServer]:
        others = [id async for page in self._pages() for id in page - set(await known(page))]
        async with self._engine.begin() as tx:
            await apply_due_changes(tx)
            of_others = is_one_of(servers.c.id, [UUID(id) for id in others])
            found = (await tx.execute(select(servers).where(of_others))).all()
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

    async def _pages(self) -> AsyncIterator[set[str]]:
        """Yield the ids of all servers, a page at a time."""
        page = select(servers.c.id).order_by(servers.c.id).limit(PAGE_SIZE)
        last: UUID | None = None
        while True:
            async with self._engine.connect() as connection:
                ids = (await connection.scalars(page if last is None else page.where(servers.c.id > last))).all()
            yield set(map(str, ids))
            if len(ids) < PAGE_SIZE:
                return
            last = ids[-1]
