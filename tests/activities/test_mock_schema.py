"""The mock cloud survives upgrades: tables of an earlier version are upgraded, and their servers are kept."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text, union_all, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends import own_schema
from activities.backends.mock.schema import OF_CALLS
from activities.backends.protocol import Token
from activities.backends.resources import Ref
from domain.rules.cloud import ServerStatus
from domain.rules.resources import Kind
from domain.settings import Settings
from tests.activities.cloud import BUILD_IMAGE_ID, DEVICE, complete_changes, disk_content, open_backend, port
from tests.activities.mock_cloud import refused
from tests.support.rows import NETWORK_IDS
from tests.support.waiting import poll

OLD_VM = uuid4()
OLD = """
CREATE SCHEMA mock_cloud;
CREATE TABLE mock_cloud.servers (
    vm_id UUID NOT NULL PRIMARY KEY, id UUID DEFAULT gen_random_uuid() NOT NULL, name TEXT NOT NULL,
    vcpus INTEGER NOT NULL, ram_mb INTEGER NOT NULL, disk_gb INTEGER NOT NULL, image_id UUID NOT NULL,
    status TEXT NOT NULL, fault TEXT, next_status TEXT, next_fault TEXT, due_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL
);
CREATE INDEX ix_servers_due_at ON mock_cloud.servers (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE mock_cloud.ports (
    id UUID DEFAULT gen_random_uuid() NOT NULL PRIMARY KEY, vm_id UUID NOT NULL, network_id UUID NOT NULL
);
CREATE INDEX ix_mock_cloud_ports_vm_id ON mock_cloud.ports (vm_id);
"""
SERVER = "INSERT INTO mock_cloud.servers VALUES (:vm_id, :id, 'old', 1, 2048, 20, :image_id, 'ACTIVE')"
PORT = "INSERT INTO mock_cloud.ports (vm_id, network_id) VALUES (:vm_id, :network_id)"
SHAPE = """
SELECT 'column' AS kind, table_name || '.' || column_name || ' ' || data_type AS what
FROM information_schema.columns WHERE table_schema = 'mock_cloud'
UNION SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = 'mock_cloud' ORDER BY 1, 2
"""


@pytest.fixture
async def old_engine(engine: AsyncEngine, no_cloud_yet: None) -> AsyncEngine:
    """A database with the mock cloud of the version before snapshots, volumes and interfaces."""
    del no_cloud_yet
    async with engine.begin() as tx:
        for statement in OLD.split(";"):
            if statement.strip():
                await tx.execute(text(statement))
    return engine


async def shape(engine: AsyncEngine) -> set[tuple[str, str]]:
    """Return the columns and indexes of the mock cloud's tables."""
    async with engine.connect() as connection:
        return {(row.kind, row.what) for row in await connection.execute(text(SHAPE))}


async def add_old_server(engine: AsyncEngine) -> None:
    """Add a server with two ports in one network, as the earlier version stored them."""
    async with engine.begin() as tx:
        await tx.execute(text(SERVER), {"vm_id": OLD_VM, "id": uuid4(), "image_id": BUILD_IMAGE_ID})
        for _ in range(2):
            await tx.execute(text(PORT), {"vm_id": OLD_VM, "network_id": NETWORK_IDS["private"]})


async def test_tables_of_an_earlier_version_are_upgraded(old_engine: AsyncEngine, settings: Settings) -> None:
    for _ in range(2):
        await (await open_backend(settings)).close()
    completed = await shape(old_engine)
    async with old_engine.begin() as tx:
        await tx.execute(text("DROP SCHEMA mock_cloud CASCADE"))
    await (await open_backend(settings)).close()
    assert completed == await shape(old_engine)


async def test_a_server_of_an_earlier_version_is_kept_and_fully_usable(
    old_engine: AsyncEngine, settings: Settings
) -> None:
    await add_old_server(old_engine)
    cloud, volume_id = await open_backend(settings), uuid4()
    server = (await cloud.list_servers([Ref(OLD_VM)]))[OLD_VM]
    assert (server.status, server.image_id, server.ram_mb) == (ServerStatus.ACTIVE, str(BUILD_IMAGE_ID), 2048)
    assert await cloud.list_ports([Ref(OLD_VM)]) == [], "they had no addresses"
    assert await disk_content(old_engine, OLD_VM) is None
    await cloud.create_server_interface(Token(uuid4(), "plug"), Ref(OLD_VM), port(uuid4()))
    await cloud.create_volume(Token(uuid4(), "make"), volume_id, "data", 10)
    await cloud.attach_volume(Token(uuid4(), "attach"), Ref(OLD_VM), Ref(volume_id), DEVICE)
    await cloud.reboot_server(Token(uuid4(), "reboot"), Ref(OLD_VM), hard=True)
    assert await complete_changes(old_engine, cloud, OLD_VM) is ServerStatus.ACTIVE
    assert await disk_content(old_engine, OLD_VM) is not None
    await cloud.close()


async def test_each_volume_of_an_earlier_version_gets_an_id_of_the_cloud(
    engine: AsyncEngine, settings: Settings
) -> None:
    cloud, ids = await open_backend(settings), [uuid4(), uuid4()]
    for id in ids:
        await cloud.create_volume(Token(uuid4(), "make"), id, "data", 10)
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE mock_cloud.volumes DROP COLUMN cloud_id"))
    await cloud.prepare()
    async with engine.begin() as tx:  # as a worker of the earlier version, which still runs
        insert = "INSERT INTO mock_cloud.volumes (id, name, size_gb, state) VALUES (:id, 'data', 10, 'available')"
        await tx.execute(text(insert), {"id": uuid4()})
    page = await cloud.inventory(Kind.VOLUME, None)
    assert len(page.items) == 3
    for cloud_id, item in page.items.items():
        assert item.id
        assert set(await cloud.list_volumes([Ref(item.id, cloud_id)])) == {item.id}
    await cloud.close()


async def test_addresses_are_unique_after_an_upgrade(old_engine: AsyncEngine, settings: Settings) -> None:
    await add_old_server(old_engine)
    cloud = await open_backend(settings)
    await cloud.create_server_interface(Token(uuid4(), "plug"), Ref(OLD_VM), port(uuid4()))
    await refused(cloud.create_server_interface(Token(uuid4(), "plug"), Ref(OLD_VM), port(uuid4())), "address_in_use")
    await cloud.close()


async def test_calls_that_are_old_are_forgotten_and_no_others(
    engine: AsyncEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would stay for ever: the calls of each operation, and those that failed or were revoked."""
    cloud = await open_backend(settings, mock_transient_rate=1.0)
    monkeypatch.setattr(own_schema, "FORGET_BATCH", 2)

    async def call_and_revoke() -> Token:
        token = Token(uuid4(), "make")
        await refused(cloud.create_volume(token, token.operation_id, "data", 10), "mock_transient", retryable=True)
        await cloud.create_volume(token, token.operation_id, "data", 10)
        await cloud.revoke(token.operation_id)
        return token

    for _ in range(5):
        await call_and_revoke()
    async with engine.begin() as tx:
        for made_at in OF_CALLS:
            await tx.execute(update(made_at.table).values({made_at: made_at - timedelta(days=31)}))
    new = await call_and_revoke()
    await cloud.close()
    monkeypatch.setattr(own_schema, "FIRST_FORGET", 0.0)
    cloud = await open_backend(settings)

    async def kept() -> list[UUID]:
        operations = union_all(*(select(made_at.table.c.operation_id) for made_at in OF_CALLS))
        async with engine.connect() as connection:
            return list(await connection.scalars(operations))

    operations = await poll(kept, lambda ids: len(ids) <= len(OF_CALLS))
    assert set(operations) == {new.operation_id}
    await refused(cloud.create_volume(Token(new.operation_id, "other"), uuid4(), "data", 10), "token_revoked")
    await cloud.close()
