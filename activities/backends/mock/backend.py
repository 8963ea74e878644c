"""A cloud for everybody's laptop: all it has are rows, and it fails on demand.

It is as durable as the database, shared by all workers, idempotent by token, and refuses revoked tokens.
"""

from sqlalchemy import select

from activities.backends.mock.schema import images, ports, servers, volumes
from activities.backends.mock.servers import MockServers, let_time_pass, server_of
from activities.backends.mock.storage import MockStorage, volume_of
from activities.backends.protocol import Inventory


class MockBackend(MockServers, MockStorage):
    """The mock cloud; see ComputeBackend for what its methods promise."""

    async def inventory(self) -> Inventory:
        async with self._engine.begin() as tx:
            await let_time_pass(tx)
            return Inventory(
                servers={row.vm_id: server_of(row) for row in await tx.execute(select(servers))},
                ports={row.id: row.vm_id for row in await tx.execute(select(ports.c.id, ports.c.vm_id))},
                volumes={row.id: volume_of(row) for row in await tx.execute(select(volumes))},
                images=frozenset(await tx.scalars(select(images.c.id))),
            )
