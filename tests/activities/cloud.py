"""Helpers on the mock cloud: open it, fill it, let its changes complete, and read what it has."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock import schema
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import images, servers
from activities.backends.protocol import Token
from activities.backends.resources import Listed, PortSpec, Ref, ServerSpec
from domain.data.addresses import new_mac_address
from domain.data.catalogue import FLAVORS
from domain.rules.cloud import ServerStatus
from domain.rules.resources import Kind
from domain.settings import Settings
from tests.support.rows import IMAGE_IDS, NETWORK_IDS

NEVER_DUE = 3600.0  # seconds: longer than any test
ENDLESS_DELAYS = dict.fromkeys(
    (f"mock_{verb}_delay" for verb in ("build", "start", "stop", "reboot", "resize", "delete", "snapshot")), NEVER_DUE
)
DEVICE = "/dev/vdb"
BUILD_IMAGE_ID = IMAGE_IDS["cirros-0.6.3"]
TABLES = ("servers", "ports", "images", "volumes", "migrations")
CloudContents = dict[str, list[tuple[object, ...]]]


def refs(ids: Iterable[UUID]) -> list[Ref]:
    """Return refs without the cloud's ids: the marks decide."""
    return [Ref(id) for id in ids]


async def ports_of(cloud: MockBackend, vm_id: UUID) -> set[UUID | None]:
    """Return the interfaces whose ports the cloud has for the VM."""
    return {port.id for port in await cloud.list_ports([Ref(vm_id)])}


async def open_backend(settings: Settings, **values: Any) -> MockBackend:
    """Open the mock cloud as another worker would; the caller closes it."""
    backend = MockBackend(settings.model_copy(update=values))
    await backend.prepare()
    return backend


def server_spec(vm_id: UUID, flavor: str = "m1.small") -> ServerSpec:
    """Return the spec of a server of the flavor for the VM."""
    row = next(row for row in FLAVORS if row["name"] == flavor)
    image = Ref(BUILD_IMAGE_ID, str(BUILD_IMAGE_ID))
    return ServerSpec(Ref(vm_id), "test-vm", Ref(row["id"]), row["vcpus"], row["ram_mb"], row["disk_gb"], image)


async def add_server(engine: AsyncEngine, cloud: MockBackend, vm_id: UUID, flavor: str = "m1.small") -> None:
    """Add a server that is ACTIVE."""
    await cloud.create_server(Token(uuid4(), "spawning"), server_spec(vm_id, flavor))
    await complete_changes(engine, cloud, vm_id)


async def complete_changes(engine: AsyncEngine, cloud: MockBackend, vm_id: UUID) -> ServerStatus:
    """Complete all changes of the VM's server and its images; return the server's status afterwards."""
    async with engine.begin() as tx:
        busy = (servers.c.vm_id == vm_id, servers.c.due_at.is_not(None))
        await tx.execute(update(servers).where(*busy).values(due_at=func.now()))
        await tx.execute(update(images).where(images.c.vm_id == vm_id).values(due_at=func.now()))
    server = (await cloud.list_servers([Ref(vm_id)])).get(vm_id)
    return server.status if server else ServerStatus.GONE


async def free_servers(engine: AsyncEngine) -> None:
    """Let no server be busy because its disk is being saved; the images go on being saved."""
    async with engine.begin() as tx:
        saving = servers.c.next_status == servers.c.status
        await tx.execute(update(servers).where(saving).values(next_status=None, due_at=None))


def port(id: UUID, ip_address: str = "10.0.0.9", mac_address: str = "fa:16:3e:00:00:09") -> PortSpec:
    """Return a port in the private network."""
    return PortSpec(Ref(id), NETWORK_IDS["private"], ip_address, mac_address)


def new_ports(count: int = 1) -> list[PortSpec]:
    """Return ports with unique addresses, each in another network."""
    networks = list(NETWORK_IDS.values())[:count]
    return [PortSpec(Ref(uuid4()), id, f"ip-{uuid4()}", new_mac_address()) for id in networks]


async def cloud_contents(engine: AsyncEngine, *names: str) -> CloudContents:
    """Return all rows of the mock cloud, or those of some tables."""
    tables = {name: schema.metadata.tables[f"{schema.SCHEMA}.{name}"] for name in names or TABLES}
    async with engine.connect() as connection:
        return {
            name: sorted((tuple(row) for row in await connection.execute(select(table))), key=str)
            for name, table in tables.items()
        }


async def inventory(cloud: MockBackend, kind: Kind) -> Mapping[UUID | None, Listed]:
    """Return what the cloud has of one kind, from all pages, by our ids."""
    page = await cloud.inventory(kind, None)
    items = dict(page.items)
    while page.next is not None:
        page = await cloud.inventory(kind, page.next)
        items |= page.items
    return {item.id: item for item in items.values()}


async def count_rows(engine: AsyncEngine, table: str, vm_id: UUID | None = None) -> int:
    """Return how many rows a table of the mock cloud has, of one VM or of all."""
    rows = schema.metadata.tables[f"{schema.SCHEMA}.{table}"]
    statement = select(func.count()).select_from(rows)
    if vm_id:
        statement = statement.where(rows.c.vm_id == vm_id)
    async with engine.connect() as connection:
        return (await connection.execute(statement)).scalar_one()


async def server_row(engine: AsyncEngine, vm_id: UUID) -> tuple[object, ...] | None:
    """Return the row of the VM's server, with the change that is due; None where there is none."""
    statement = select(servers).where(servers.c.vm_id == vm_id)
    async with engine.connect() as connection:
        row = (await connection.execute(statement)).one_or_none()
    return tuple(row) if row else None


async def disk_content(engine: AsyncEngine, vm_id: UUID) -> str | None:
    """Return what stands for the disk of the VM's server."""
    async with engine.connect() as connection:
        content: str | None = await connection.scalar(select(servers.c.content).where(servers.c.vm_id == vm_id))
    return content
