"""The mock cloud: durable in PostgreSQL, shared by all workers, idempotent by token, and failing on demand."""

import asyncio
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, literal, select

from activities.backends import own_schema
from activities.backends.mock.consoles import MockConsoles
from activities.backends.mock.found import PAGE_SIZE, MockFound
from activities.backends.mock.ports import MockPorts
from activities.backends.mock.schema import OF_CALLS, images, ports, servers, volumes
from activities.backends.mock.servers import MockServers, apply_due_changes
from activities.backends.mock.storage import MockStorage
from activities.backends.resources import InventoryPage, Listed
from domain.rules.resources import Kind

# The cloud's id, ours, the state and, for a port, the VM.
_INVENTORY: Final[dict[Kind, Select[*tuple[Any, ...]]]] = {
    Kind.VM: select(servers.c.id, servers.c.vm_id, servers.c.status, literal(None)),
    Kind.INTERFACE: select(ports.c.cloud_id, ports.c.id, literal("ACTIVE"), ports.c.vm_id),
    Kind.VOLUME: select(volumes.c.cloud_id, volumes.c.id, volumes.c.state, literal(None)),
    Kind.SNAPSHOT: select(images.c.cloud_id, images.c.id, literal("active"), literal(None)),
}


class MockBackend(MockServers, MockConsoles, MockPorts, MockStorage, MockFound):
    """The mock cloud; ComputeBackend describes its methods."""

    _forgetting: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        await super().prepare()
        if self._forgetting is None:
            self._forgetting = asyncio.create_task(own_schema.forget_old_calls(self._engine, OF_CALLS))

    async def close(self) -> None:
        if self._forgetting:
            self._forgetting.cancel()
        await super().close()

    async def list_catalogue(self) -> None:
        return None

    async def inventory(self, kind: Kind, marker: str | None) -> InventoryPage:
        page = _INVENTORY[kind]
        cloud_id, id, *_ = page.selected_columns
        page = page.where(id != cloud_id)  # a resource of others has the same id in both columns
        if marker is not None:
            page = page.where(cloud_id > UUID(marker))
        async with self._engine.begin() as tx:
            await apply_due_changes(tx)
            rows = (await tx.execute(page.order_by(cloud_id).limit(PAGE_SIZE))).all()
        items = {str(cloud_id): Listed(id, state, vm_id) for cloud_id, id, state, vm_id in rows}
        return InventoryPage(items, str(rows[-1][0]) if len(rows) == PAGE_SIZE else None)
