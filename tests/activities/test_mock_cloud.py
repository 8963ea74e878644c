"""The mock cloud is durable, shared by all workers, and idempotent by token; changes complete without a process."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock import calls as mock_calls
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import ports, servers
from activities.backends.resources import Fault, Ref
from domain.data.catalogue import FLAVORS
from domain.rules.cloud import ServerStatus
from domain.settings import Settings
from tests.activities.cloud import count_rows, new_ports, open_backend, refs, server_spec
from tests.activities.mock_cloud import (
    PORTS_PER_SERVER,
    POWER_CHANGES,
    add_idle_server,
    begin_power_change,
    build_server,
    each_power_change,
    make_due,
    power_before,
    refused,
    status_of,
    token,
)
from tests.support.rows import NETWORK_IDS


async def test_a_server_is_active_once_its_build_is_due(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id = uuid4()
    await slow_backend.create_server(token(), server_spec(vm_id))
    assert await status_of(slow_backend, vm_id) is ServerStatus.BUILD
    await make_due(engine, vm_id)
    assert await status_of(slow_backend, vm_id) is ServerStatus.ACTIVE


async def test_a_build_completes_without_the_worker_that_began_it(
    slow_backend: MockBackend, settings: Settings, engine: AsyncEngine
) -> None:
    vm_id = uuid4()
    await slow_backend.create_server(token(), server_spec(vm_id))
    await slow_backend.close()
    other = await open_backend(settings)
    assert await status_of(other, vm_id) is ServerStatus.BUILD
    await make_due(engine, vm_id)
    assert await status_of(other, vm_id) is ServerStatus.ACTIVE
    await other.close()


@each_power_change
async def test_a_power_change_completes_once_it_is_due(
    slow_backend: MockBackend, engine: AsyncEngine, verb: str
) -> None:
    vm_id = await begin_power_change(slow_backend, engine, verb)
    await make_due(engine, vm_id)
    assert await status_of(slow_backend, vm_id) is POWER_CHANGES[verb][1]


@each_power_change
async def test_a_power_change_of_a_missing_server_is_refused(backend: MockBackend, verb: str) -> None:
    await refused(POWER_CHANGES[verb][0](backend, token(), uuid4()), "server_not_found")


async def test_a_server_shows_reboot_until_the_reboot_is_due(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id = await build_server(slow_backend, engine)
    await slow_backend.reboot_server(token(), Ref(vm_id), hard=False)
    assert await status_of(slow_backend, vm_id) is ServerStatus.REBOOT


@each_power_change
async def test_a_second_call_with_the_same_token_changes_nothing(
    slow_backend: MockBackend, engine: AsyncEngine, verb: str
) -> None:
    vm_id, once = await add_idle_server(slow_backend, engine, power_before(verb)), token()
    call, target = POWER_CHANGES[verb]
    await call(slow_backend, once, vm_id)
    await make_due(engine, vm_id)
    assert await status_of(slow_backend, vm_id) is target
    await call(slow_backend, once, vm_id)
    async with engine.connect() as connection:
        assert (await connection.execute(select(servers.c.due_at))).scalar_one() is None


async def test_concurrent_calls_with_one_token_create_one_server_and_its_ports(
    backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, plug, spawn = uuid4(), token("networking"), token("spawning")
    wanted = new_ports(PORTS_PER_SERVER)
    await asyncio.gather(*(backend.create_ports(plug, Ref(vm_id), wanted) for _ in range(5)))
    await asyncio.gather(*(backend.create_server(spawn, server_spec(vm_id)) for _ in range(5)))
    assert await count_rows(engine, "ports", vm_id) == PORTS_PER_SERVER
    assert await count_rows(engine, "servers", vm_id) == 1


async def test_creating_no_ports_is_allowed(backend: MockBackend, engine: AsyncEngine) -> None:
    await backend.create_ports(token(), Ref(uuid4()), [])
    assert await count_rows(engine, "ports") == 0


async def test_a_deleted_server_and_its_ports_are_gone_once_the_delete_is_due(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id, neighbour = await build_server(slow_backend, engine), await build_server(slow_backend, engine)
    await slow_backend.delete_server(token(), Ref(vm_id))
    assert await status_of(slow_backend, vm_id) is ServerStatus.DELETING
    await make_due(engine, vm_id)
    assert await status_of(slow_backend, vm_id) is ServerStatus.GONE
    assert await count_rows(engine, "ports", vm_id) == 0
    assert await status_of(slow_backend, neighbour) is ServerStatus.ACTIVE
    assert await count_rows(engine, "ports", neighbour) == PORTS_PER_SERVER


async def test_deleting_a_missing_server_deletes_its_ports(backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id = uuid4()
    await backend.create_ports(token(), Ref(vm_id), new_ports(PORTS_PER_SERVER))
    await backend.delete_server(token(), Ref(vm_id))
    assert await count_rows(engine, "ports", vm_id) == 0


async def test_purge_removes_a_server_at_once_and_may_be_repeated(backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id, neighbour = await build_server(backend, engine), await build_server(backend, engine)
    await backend.purge(Ref(vm_id))
    await backend.purge(Ref(vm_id))
    assert await status_of(backend, vm_id) is ServerStatus.GONE
    assert await count_rows(engine, "ports", vm_id) == 0
    assert await status_of(backend, neighbour) is ServerStatus.ACTIVE


async def test_only_the_requested_servers_are_listed(backend: MockBackend, engine: AsyncEngine) -> None:
    first, second = await build_server(backend, engine), await build_server(backend, engine)
    assert set(await backend.list_servers([Ref(first), Ref(uuid4())])) == {first}
    assert set(await backend.list_servers([Ref(first), Ref(second)])) == {first, second}
    assert await backend.list_servers([]) == {}


async def test_every_flavor_but_the_colossal_one_finds_a_host(backend: MockBackend, engine: AsyncEngine) -> None:
    for row in FLAVORS:
        vm_id = uuid4()
        await backend.create_server(token(), server_spec(vm_id, row["name"]))
        await make_due(engine, vm_id)
        fault = (await backend.list_servers([Ref(vm_id)]))[vm_id].fault
        assert (fault and fault.code) == ("no_valid_host" if row["name"] == "m1.colossal" else None)


async def test_a_build_without_a_host_ends_in_error_at_once(slow_backend: MockBackend) -> None:
    vm_id = uuid4()
    await slow_backend.create_server(token(), server_spec(vm_id, "m1.colossal"))
    server = (await slow_backend.list_servers([Ref(vm_id)]))[vm_id]
    assert (server.status, server.is_busy) == (ServerStatus.ERROR, False)
    assert server.fault == Fault("no_valid_host", "No valid host was found. No host is large enough for the flavor.")


@pytest.mark.usefixtures("no_cloud_yet")
async def test_workers_that_start_together_can_all_prepare_the_cloud(settings: Settings) -> None:
    backends = await asyncio.gather(*(open_backend(settings) for _ in range(8)))
    await asyncio.gather(*(backend.close() for backend in backends))


async def test_a_list_call_skips_a_server_that_another_transaction_changes(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    """A transaction replaces the build, which is due, by a stop before any list call has completed the build."""
    vm_id = uuid4()
    await slow_backend.create_server(token(), server_spec(vm_id))
    await make_due(engine, vm_id)
    stopping = {"next_status": ServerStatus.SHUTOFF, "due_at": func.now() + timedelta(hours=1)}
    async with asyncio.timeout(5), engine.begin() as tx:
        await tx.execute(update(servers).where(servers.c.vm_id == vm_id).values(stopping))
        assert await status_of(slow_backend, vm_id) is ServerStatus.BUILD
    assert await status_of(slow_backend, vm_id) is ServerStatus.BUILD


async def test_concurrent_list_calls_remove_deleted_servers_without_a_deadlock(
    backend: MockBackend, settings: Settings, engine: AsyncEngine
) -> None:
    """Many deletes fall due one after the other while several workers list the servers."""
    vm_ids = [uuid4() for _ in range(300)]
    soon = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, 0.1)
    dying = [{**deleting_row(id), "offset": n / 1000} for n, id in enumerate(vm_ids)]
    async with engine.begin() as tx:
        for row in dying:
            due = soon + func.make_interval(0, 0, 0, 0, 0, 0, row.pop("offset"))
            await tx.execute(servers.insert().values(**row, due_at=due))
        await tx.execute(ports.insert(), [{"vm_id": id, "network_id": NETWORK_IDS["private"]} for id in vm_ids])
    others = [backend, *[await open_backend(settings) for _ in range(3)]]

    async def list_until_gone(cloud: MockBackend) -> None:
        while any(
            server.status is not ServerStatus.GONE for server in (await cloud.list_servers(refs(vm_ids))).values()
        ):
            pass

    try:
        async with asyncio.timeout(20):
            await asyncio.gather(*(list_until_gone(cloud) for cloud in others))
    finally:
        await asyncio.gather(*(cloud.close() for cloud in others))
    assert await count_rows(engine, "servers") == 0
    assert await count_rows(engine, "ports") == 0


def deleting_row(vm_id: UUID) -> dict[str, object]:
    """Return a row of a server that is being deleted."""
    server = server_spec(vm_id)
    fields = {name: getattr(server, name) for name in ("name", "vcpus", "ram_mb", "disk_gb")}
    row = {**fields, "vm_id": vm_id, "image_id": server.image.id}
    return {**row, "status": ServerStatus.DELETING, "next_status": ServerStatus.GONE}


async def test_a_call_locks_only_its_own_server(engine: AsyncEngine, slow_backend: MockBackend) -> None:
    """Two calls whose servers are both due, and that each locked the other's, would deadlock."""
    mine, other = uuid4(), uuid4()
    for vm_id in (mine, other):
        await slow_backend.create_server(token(), server_spec(vm_id))
        await make_due(engine, vm_id)
    async with engine.begin() as call, engine.begin() as others_call:
        assert (await mock_calls.lock_server(call, Ref(mine))).status == ServerStatus.ACTIVE
        async with asyncio.timeout(5):
            assert (await mock_calls.lock_server(others_call, Ref(other))).status == ServerStatus.ACTIVE
