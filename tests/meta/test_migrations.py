"""`python -m migrations` prepares everything that a release needs, or says in one line why it cannot."""

import asyncio
import os
import socket
import subprocess
import sys
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import Connection, func, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client

import local
from domain import logs, search_attributes
from domain import temporal as connections
from domain.data.catalogue import FLAVORS
from domain.data.models import Flavor
from domain.settings import Settings
from domain.temporal import missing_search_attributes
from migrations import __main__ as migrations
from tests.conftest import make_settings

TYPES = {key.name: int(key.indexed_value_type) for key in search_attributes.ALL}
DAY = Duration(seconds=86_400)
NO_SERVER = "127.0.0.1:1"


async def new_namespace(client: Client) -> Client:
    """Create a namespace without search attributes; returns a client of it."""
    name = f"test-{uuid4()}"
    request = RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=DAY)
    await client.workflow_service.register_namespace(request)
    return await Client.connect(client.service_client.config.target_host, namespace=name)


def settings_of(database_url: str, client: Client) -> Settings:
    """Settings with a database and the client's namespace."""
    address = client.service_client.config.target_host
    return make_settings(database_url, temporal_address=address, temporal_namespace=client.namespace)


async def registered(client: Client) -> dict[str, int]:
    """The types of the custom search attributes of a namespace, by name."""
    request = ListSearchAttributesRequest(namespace=client.namespace)
    return dict((await client.operator_service.list_search_attributes(request)).custom_attributes)


async def main(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Run the command in this process, whose logs stay as they are."""
    monkeypatch.setattr(migrations, "load_settings", lambda _kind: settings)
    monkeypatch.setattr(logs, "configure", lambda _level: None)
    monkeypatch.setattr("domain.temporal.forward_logs", lambda: None)
    await asyncio.to_thread(migrations.main)


async def run_processes(number: int, settings: Settings) -> list[tuple[int, str, str]]:
    """Run several processes at once; returns the exit code, stdout and stderr of each."""
    environment = {
        "DATABASE_URL": settings.database_url,
        "TEMPORAL_ADDRESS": settings.temporal_address,
        "TEMPORAL_NAMESPACE": settings.temporal_namespace,
    }

    def run() -> tuple[int, str, str]:
        command = [sys.executable, "-m", "migrations"]
        done = subprocess.run(
            command, cwd=local.ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return await asyncio.gather(*(asyncio.to_thread(run) for _ in range(number)))


async def test_it_registers_the_search_attributes_and_a_second_run_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, database_url: str, temporal: Client
) -> None:
    client = await new_namespace(temporal)
    assert await registered(client) == {}
    for _ in range(2):
        await main(monkeypatch, settings_of(database_url, client))
        assert await registered(client) == TYPES


async def test_it_registers_only_the_missing_search_attributes(
    monkeypatch: pytest.MonkeyPatch, database_url: str, temporal: Client
) -> None:
    """As in an update that adds one, on a server that other services use too."""
    client, text = await new_namespace(temporal), IndexedValueType.INDEXED_VALUE_TYPE_TEXT
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    existing = {search_attributes.VM.name: keyword, search_attributes.OWNER.name: keyword, "Others": text}
    request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=existing)
    await client.operator_service.add_search_attributes(request)
    assert await missing_search_attributes(client) == ["VMName", "Resource", "Action", "WaitsFor"]
    await main(monkeypatch, settings_of(database_url, client))
    assert await registered(client) == TYPES | {"Others": text}


async def test_several_processes_may_register_at_once(database_url: str, temporal: Client) -> None:
    client = await new_namespace(temporal)
    await asyncio.gather(*(migrations.register(settings_of(database_url, client)) for _ in range(5)))
    assert await registered(client) == TYPES


async def test_without_temporal_it_migrates_the_database_and_then_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, engine: AsyncEngine
) -> None:
    def downgrade(connection: Connection) -> None:
        command.downgrade(migrations.alembic_config(connection), "base")

    async with engine.begin() as tx:
        await tx.run_sync(downgrade)
    with pytest.raises(SystemExit, match=r"^The server of TEMPORAL_ADDRESS cannot be used: .*\Z"):
        await main(monkeypatch, settings)
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(Flavor)) == len(FLAVORS)


async def test_a_search_path_without_a_schema_for_the_tables_is_one_line(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, engine: AsyncEngine
) -> None:
    name = make_url(settings.database_url).database
    async with engine.begin() as tx:
        await tx.execute(text(f"ALTER DATABASE {name} SET search_path = ''"))
    with pytest.raises(SystemExit, match=r"^The database of DATABASE_URL cannot be used: its search_path .*\Z"):
        await main(monkeypatch, settings)


async def test_a_temporal_server_that_says_nothing_is_given_up_with_one_line(
    monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setattr(connections, "FIRST_ANSWER_TIMEOUT", timedelta(seconds=0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = make_settings(database_url, temporal_address=f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(SystemExit, match=r"^The server of TEMPORAL_ADDRESS cannot be used: .*answers nothing\Z"):
            await main(monkeypatch, settings)


async def test_it_creates_the_tables_of_the_mock_cloud(
    monkeypatch: pytest.MonkeyPatch, database_url: str, engine: AsyncEngine, temporal: Client
) -> None:
    """So that the role of the workers need not have the right to create anything."""
    await main(monkeypatch, settings_of(database_url, await new_namespace(temporal)))
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.to_regclass("mock_cloud.servers"))) is not None


async def test_without_the_namespace_it_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, database_url: str, temporal: Client
) -> None:
    address = temporal.service_client.config.target_host
    nowhere = make_settings(database_url, temporal_address=address, temporal_namespace="nowhere")
    with pytest.raises(SystemExit, match=r"^The server of TEMPORAL_ADDRESS cannot be used: .*nowhere is not found.*\Z"):
        await main(monkeypatch, nowhere)


async def test_an_attribute_of_another_type_ends_it_with_one_line(
    monkeypatch: pytest.MonkeyPatch, database_url: str, temporal: Client
) -> None:
    """Otherwise no workflow would start: the server rejects a value of the wrong type."""
    client = await new_namespace(temporal)
    number = {search_attributes.OWNER.name: IndexedValueType.INDEXED_VALUE_TYPE_INT}
    request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=number)
    await client.operator_service.add_search_attributes(request)
    with pytest.raises(SystemExit, match=r"search attribute Owner exists as INDEXED_VALUE_TYPE_INT, not .*KEYWORD\Z"):
        await main(monkeypatch, settings_of(database_url, client))
    assert await registered(client) == {"Owner": IndexedValueType.INDEXED_VALUE_TYPE_INT}


async def test_without_the_database_it_ends_with_one_line(monkeypatch: pytest.MonkeyPatch, temporal: Client) -> None:
    with pytest.raises(SystemExit, match=r"^The database of DATABASE_URL cannot be used: .*\Z"):
        await main(monkeypatch, settings_of(f"postgresql://{NO_SERVER}/none", temporal))


async def test_processes_that_run_at_once_succeed_and_print_nothing(database_url: str, temporal: Client) -> None:
    """With an ordinary exit each process aborted one time in six: temporalio/sdk-python#300."""
    client = await new_namespace(temporal)
    assert await run_processes(5, settings_of(database_url, client)) == [(0, "", "")] * 5
    assert await registered(client) == TYPES


async def test_processes_without_temporal_each_end_with_one_line(database_url: str) -> None:
    for code, out, line in await run_processes(4, make_settings(database_url, temporal_address=NO_SERVER)):
        assert (code, out, line.count("\n")) == (1, "", 1), line
        assert line.startswith("The server of TEMPORAL_ADDRESS cannot be used: ")


async def test_a_migration_that_deadlocks_with_requests_starts_again(
    monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    upgrade, attempts = command.upgrade, list[str]()

    def deadlock_once(config: Any, target: str) -> None:
        attempts.append(target)
        if len(attempts) == 1:
            raise_deadlock = "DO $$ BEGIN RAISE 'deadlock detected' USING ERRCODE = 'deadlock_detected'; END $$"
            config.attributes["connection"].execute(text(raise_deadlock))
        upgrade(config, target)

    monkeypatch.setattr(command, "upgrade", deadlock_once)
    monkeypatch.setattr(migrations, "PAUSE", 0.0)
    await migrations.migrate(make_settings(database_url))
    assert attempts == ["head", "head"]


def test_the_checkout_may_have_a_percent_sign_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "__file__", "/50% off/migrations/__main__.py")
    assert migrations.alembic_config().get_main_option("script_location") == "/50% off/migrations"
