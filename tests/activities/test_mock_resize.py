"""The mock cloud's resizes: it keeps the old size until the resize is confirmed or reverted."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import migrations
from activities.backends.resources import Ref, Server
from domain.rules.cloud import ServerStatus
from domain.settings import Settings
from tests.activities.cloud import BUILD_IMAGE_ID, count_rows, open_backend, server_row, server_spec
from tests.activities.mock_cloud import (
    POWER_CHANGES,
    Call,
    add_idle_server,
    begin_power_change,
    make_due,
    on_or_off,
    refused_without_effect,
    status_of,
    token,
)

RESIZES: dict[str, Call] = {
    "resize": lambda cloud, token, vm_id: cloud.resize_server(token, server_spec(vm_id, "m1.medium")),
    "confirm": lambda cloud, token, vm_id: cloud.confirm_server_resize(token, Ref(vm_id)),
    "revert": lambda cloud, token, vm_id: cloud.revert_server_resize(token, Ref(vm_id)),
}
DECISIONS = {"confirm": ServerStatus.VERIFY_RESIZE, "revert": ServerStatus.REVERT_RESIZE}
STATUS_DURING = {"resize": ServerStatus.RESIZE, **DECISIONS}
SMALL, MEDIUM = (1, 2048, 20), (2, 4096, 40)
BUILT: Any = {"image_id": str(BUILD_IMAGE_ID), "availability_zone": "nova"}
each_resize = pytest.mark.parametrize("verb", RESIZES)
each_decision = pytest.mark.parametrize("verb", DECISIONS)
each_stage = pytest.mark.parametrize("stage", ["resize", "waiting", "confirm", "revert"])


async def list_server(cloud: MockBackend, vm_id: UUID) -> Server:
    """Return the VM's server as the cloud lists it."""
    return (await cloud.list_servers([Ref(vm_id)]))[vm_id]


async def size(cloud: MockBackend, vm_id: UUID) -> tuple[int, int, int]:
    """Return the server's VCPUs, RAM and disk."""
    server = await list_server(cloud, vm_id)
    return server.vcpus, server.ram_mb, server.disk_gb


async def old_sizes(engine: AsyncEngine, vm_id: UUID) -> list[tuple[Any, ...]]:
    """Return the old sizes and statuses that the cloud keeps."""
    old = (migrations.c.old_vcpus, migrations.c.old_ram_mb, migrations.c.old_disk_gb, migrations.c.old_status)
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(select(*old).where(migrations.c.vm_id == vm_id))]


async def add_resized_server(
    cloud: MockBackend, engine: AsyncEngine, previous: ServerStatus = ServerStatus.ACTIVE
) -> UUID:
    """Add a server that was resized to m1.medium and awaits the decision."""
    vm_id = await add_idle_server(cloud, engine, previous)
    await RESIZES["resize"](cloud, token(), vm_id)
    await make_due(engine, vm_id)
    assert await status_of(cloud, vm_id) is ServerStatus.VERIFY_RESIZE
    return vm_id


async def add_server_for(verb: str, cloud: MockBackend, engine: AsyncEngine) -> UUID:
    """Add a server on which the verb is allowed."""
    return await (add_idle_server(cloud, engine) if verb == "resize" else add_resized_server(cloud, engine))


async def add_server_during(stage: str, cloud: MockBackend, engine: AsyncEngine) -> UUID:
    """Add a server that awaits its decision, or on which the verb has begun and does not complete."""
    if stage == "waiting":
        return await add_resized_server(cloud, engine)
    vm_id = await add_server_for(stage, cloud, engine)
    await RESIZES[stage](cloud, token(), vm_id)
    return vm_id


def refusal_during(stage: str) -> str:
    """Return the code with which other calls are refused: during the move, the same call may succeed later."""
    return "busy" if stage == "resize" else "conflict"


@on_or_off
async def test_a_resized_server_keeps_its_old_size_until_the_decision(
    slow_backend: MockBackend, engine: AsyncEngine, previous: ServerStatus
) -> None:
    vm_id = await add_idle_server(slow_backend, engine, previous)
    await slow_backend.resize_server(token(), server_spec(vm_id, "m1.medium"))
    server = await list_server(slow_backend, vm_id)
    assert (server.status, server.is_busy) == (ServerStatus.RESIZE, True)
    await make_due(engine, vm_id)
    assert await list_server(slow_backend, vm_id) == Server(vm_id, ServerStatus.VERIFY_RESIZE, *MEDIUM, **BUILT)
    assert await old_sizes(engine, vm_id) == [(*SMALL, previous)]


@on_or_off
@pytest.mark.parametrize(("verb", "size_after"), [("confirm", MEDIUM), ("revert", SMALL)])
async def test_a_decision_keeps_one_size_and_restores_the_power_state(
    slow_backend: MockBackend, engine: AsyncEngine, previous: ServerStatus, verb: str, size_after: tuple[int, int, int]
) -> None:
    vm_id = await add_resized_server(slow_backend, engine, previous)
    await RESIZES[verb](slow_backend, token(), vm_id)
    server = await list_server(slow_backend, vm_id)
    assert (server.status, server.is_busy) == (DECISIONS[verb], True)
    await make_due(engine, vm_id)
    assert await list_server(slow_backend, vm_id) == Server(vm_id, previous, *size_after, **BUILT)
    assert await count_rows(engine, "migrations") == 0


@each_decision
async def test_a_server_can_be_resized_again_after_the_decision(
    slow_backend: MockBackend, engine: AsyncEngine, verb: str
) -> None:
    vm_id = await add_resized_server(slow_backend, engine)
    await RESIZES[verb](slow_backend, token(), vm_id)
    await make_due(engine, vm_id)
    before = await size(slow_backend, vm_id)
    await slow_backend.resize_server(token(), server_spec(vm_id, "m1.tiny"))
    assert await size(slow_backend, vm_id) == (1, 512, 1)
    assert await old_sizes(engine, vm_id) == [(*before, ServerStatus.ACTIVE)]


@each_resize
async def test_repeating_a_resize_call_with_its_token_changes_nothing(
    slow_backend: MockBackend, engine: AsyncEngine, verb: str
) -> None:
    vm_id, once = await add_server_for(verb, slow_backend, engine), token()
    await asyncio.gather(*(RESIZES[verb](slow_backend, once, vm_id) for _ in range(5)))
    for after in (STATUS_DURING[verb], ServerStatus.VERIFY_RESIZE if verb == "resize" else ServerStatus.ACTIVE):
        assert await status_of(slow_backend, vm_id) is after
        before = await server_row(engine, vm_id), await old_sizes(engine, vm_id)
        await RESIZES[verb](slow_backend, once, vm_id)
        assert (await server_row(engine, vm_id), await old_sizes(engine, vm_id)) == before
        await make_due(engine, vm_id)


async def test_one_of_many_concurrent_confirms_and_reverts_succeeds(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    for _ in range(5):
        vm_id = await add_resized_server(slow_backend, engine)
        calls = [RESIZES[verb](slow_backend, token(), vm_id) for verb in [*DECISIONS] * 4]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        codes = Counter(getattr(outcome, "code", outcome) for outcome in outcomes)
        assert codes == {None: 1, "busy": 7}
        winner = [*DECISIONS][outcomes.index(None) % 2]
        await make_due(engine, vm_id)
        assert await status_of(slow_backend, vm_id) is ServerStatus.ACTIVE
        assert await size(slow_backend, vm_id) == (MEDIUM if winner == "confirm" else SMALL)


@each_stage
async def test_deleting_a_server_during_its_resize_removes_its_old_size(
    slow_backend: MockBackend, engine: AsyncEngine, stage: str
) -> None:
    deleted, purged, neighbour = [await add_server_during(stage, slow_backend, engine) for _ in range(3)]
    before = await old_sizes(engine, neighbour)
    await slow_backend.purge(Ref(purged))
    await slow_backend.delete_server(token(), Ref(deleted))
    assert await status_of(slow_backend, deleted) is ServerStatus.DELETING
    await make_due(engine, deleted)
    for vm_id in (deleted, purged):
        assert await status_of(slow_backend, vm_id) is ServerStatus.GONE
        assert await old_sizes(engine, vm_id) == []
    assert await old_sizes(engine, neighbour) == before


@each_stage
async def test_power_changes_are_refused_during_a_resize(
    slow_backend: MockBackend, engine: AsyncEngine, stage: str
) -> None:
    vm_id = await add_server_during(stage, slow_backend, engine)
    for call, _ in POWER_CHANGES.values():
        await refused_without_effect(engine, call(slow_backend, token(), vm_id), refusal_during(stage))


@each_stage
async def test_a_second_resize_is_refused_during_a_resize(
    slow_backend: MockBackend, engine: AsyncEngine, stage: str
) -> None:
    vm_id = await add_server_during(stage, slow_backend, engine)
    resize = slow_backend.resize_server(token(), server_spec(vm_id, "m1.large"))
    await refused_without_effect(engine, resize, refusal_during(stage))


async def test_a_busy_server_cannot_be_resized(slow_backend: MockBackend, engine: AsyncEngine) -> None:
    building = uuid4()
    await slow_backend.create_server(token(), server_spec(building))
    await refused_without_effect(engine, RESIZES["resize"](slow_backend, token(), building), "conflict")
    for verb in POWER_CHANGES:
        vm_id = await begin_power_change(slow_backend, engine, verb)
        await refused_without_effect(engine, RESIZES["resize"](slow_backend, token(), vm_id), "busy")


@on_or_off
async def test_a_decision_without_a_resize_changes_nothing(
    slow_backend: MockBackend, engine: AsyncEngine, previous: ServerStatus
) -> None:
    vm_id = await add_idle_server(slow_backend, engine, previous)
    before = await server_row(engine, vm_id)
    for verb in DECISIONS:
        await RESIZES[verb](slow_backend, token(), vm_id)
        assert await server_row(engine, vm_id) == before


@each_resize
async def test_a_decision_is_refused_while_the_server_is_busy_with_its_resize(
    slow_backend: MockBackend, engine: AsyncEngine, verb: str
) -> None:
    vm_id = await add_server_during(verb, slow_backend, engine)
    for decision in DECISIONS:
        code = "conflict" if verb == "resize" else "busy"
        await refused_without_effect(engine, RESIZES[decision](slow_backend, token(), vm_id), code)


@each_resize
async def test_a_missing_or_dying_server_cannot_be_resized(
    slow_backend: MockBackend, engine: AsyncEngine, verb: str
) -> None:
    missing, dying = uuid4(), await add_server_for(verb, slow_backend, engine)
    await slow_backend.delete_server(token(), Ref(dying))
    for vm_id in (missing, dying):
        await refused_without_effect(engine, RESIZES[verb](slow_backend, token(), vm_id), "server_not_found")


@on_or_off
async def test_a_doomed_resize_ends_in_error_at_the_old_size_with_nothing_to_revert(
    settings: Settings, slow_backend: MockBackend, engine: AsyncEngine, previous: ServerStatus
) -> None:
    vm_id, once = await add_idle_server(slow_backend, engine, previous), token()
    doomed_backend = await open_backend(settings, mock_error_rate=1.0, mock_resize_delay=3600.0)
    for _ in range(2):
        await RESIZES["resize"](doomed_backend, once, vm_id)
    assert await status_of(doomed_backend, vm_id) is ServerStatus.RESIZE
    await make_due(engine, vm_id)
    server = await list_server(doomed_backend, vm_id)
    assert (server.status, server.is_busy) == (ServerStatus.ERROR, False)
    assert "MOCK_ERROR_RATE" in str(server.fault)
    assert await size(doomed_backend, vm_id) == SMALL
    assert await count_rows(engine, "migrations") == 0
    await refused_without_effect(engine, slow_backend.revert_server_resize(token(), Ref(vm_id)), "conflict")
    await doomed_backend.close()


async def test_a_reboot_repairs_a_server_whose_resize_failed(
    settings: Settings, backend: MockBackend, engine: AsyncEngine
) -> None:
    vm_id = await add_idle_server(backend, engine)
    doomed_backend = await open_backend(settings, mock_error_rate=1.0)
    await RESIZES["resize"](doomed_backend, token(), vm_id)
    await doomed_backend.close()
    await make_due(engine, vm_id)
    assert await status_of(backend, vm_id) is ServerStatus.ERROR
    await backend.reboot_server(token(), Ref(vm_id), hard=True)
    await make_due(engine, vm_id)
    assert await list_server(backend, vm_id) == Server(vm_id, ServerStatus.ACTIVE, *SMALL, **BUILT)


@each_decision
async def test_a_doomed_decision_ends_in_error_at_the_new_size_and_a_reboot_repairs_it(
    settings: Settings, backend: MockBackend, engine: AsyncEngine, verb: str
) -> None:
    vm_id = await add_resized_server(backend, engine)
    doomed_backend = await open_backend(settings, mock_error_rate=1.0)
    await RESIZES[verb](doomed_backend, token(), vm_id)
    await doomed_backend.close()
    await make_due(engine, vm_id)
    server = await list_server(backend, vm_id)
    assert (server.status, "MOCK_ERROR_RATE" in str(server.fault)) == (ServerStatus.ERROR, True)
    assert await size(backend, vm_id) == MEDIUM
    assert await count_rows(engine, "migrations") == 0
    await backend.reboot_server(token(), Ref(vm_id), hard=True)
    await make_due(engine, vm_id)
    assert await status_of(backend, vm_id) is ServerStatus.ACTIVE
