"""The mock cloud: durable in PostgreSQL, shared by all workers, idempotent by token, and failing on demand."""

from sqlalchemy import select

from activities.backends.mock.schema import images, ports, servers, volumes
from activities.backends.mock.servers import MockServers, apply_due_changes, server_from
from activities.backends.mock.storage import MockStorage, volume_from
from activities.backends.protocol import Inventory


class MockBackend(MockServers, MockStorage):
    """The mock cloud; ComputeBackend describes its methods."""

    async def inventory(self) -> Inventory:
        async with self._engine.begin() as tx:
            await apply_due_changes(tx)
            return Inventory(
                servers={row.vm_id: server_from(row) for row in await tx.execute(select(servers))},
                ports={row.id: row.vm_id for row in await tx.execute(select(ports.c.id, ports.c.vm_id))},
                volumes={row.id: volume_from(row) for row in await tx.execute(select(volumes))},
                images=frozenset(await tx.scalars(select(images.c.id))),
            )
