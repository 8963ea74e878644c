"""Drift detection: it reads pages, and reports only what did not change while the cloud was asked."""

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock import backend as backend_module
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import images, ports, servers, volumes
from activities.backends.protocol import BackendError
from activities.backends.resources import InventoryPage
from activities.recovery import drift_detection, orphan_detection, rows
from domain.data.models import VM, Interface, Snapshot, Volume
from domain.rules.cloud import VolumeState
from domain.rules.resources import Kind
from domain.rules.states import Status
from domain.upkeep.findings import Difference, Drift
from tests.activities.cloud import add_server, inventory
from tests.activities.drift import add_drift, add_idle_vm, change_cloud
from tests.support.rows import note_vms_changed

Change = Callable[[], Awaitable[None]]
PORT = {"network_id": uuid4(), "ip_address": "10.0.0.9", "mac_address": "fa:16:3e:00:00:09"}


async def find(engine: AsyncEngine, backend: MockBackend) -> list[tuple[Drift, UUID]]:
    """Return the kind and the resource of all differences."""
    found: list[Difference] = []
    async for page in drift_detection.find_drift(engine, backend):
        found += page
    return [(difference.drift, difference.id) for difference in found]


def change_during(monkeypatch: pytest.MonkeyPatch, backend: MockBackend, verb: str, change: Change) -> None:
    """Make the change when the cloud has been asked, before its answer arrives."""
    ask = getattr(backend, verb)

    async def ask_and_change(ids: Collection[UUID], **options: bool) -> object:
        answer = await ask(ids, **options)
        await change()
        return answer

    monkeypatch.setattr(backend, verb, ask_and_change)


@pytest.mark.parametrize(
    ("verb", "model", "values", "hidden"),
    [
        ("list_servers", VM, {"operation_id": uuid4()}, {VM, Interface}),
        ("list_servers", VM, {"attaching": 1}, {VM, Interface}),
        ("list_servers", VM, {"task_state": "powering_off"}, {VM, Interface}),
        ("list_ports", Interface, {"operation_id": uuid4()}, {Interface}),
        ("list_ports", Interface, {"status": "DETACHING"}, {Interface}),
        ("list_volumes", Volume, {"operation_id": uuid4()}, {Volume}),
        ("list_volumes", Volume, {"status": "DELETING"}, {Volume}),
        ("list_images", Snapshot, {"operation_id": uuid4()}, {Snapshot}),
        ("list_images", Snapshot, {"status": "DELETING"}, {Snapshot}),
    ],
)
async def test_a_row_that_changes_while_the_cloud_is_asked_is_left_to_the_next_comparison(  # noqa: PLR0913, PLR0917
    engine: AsyncEngine,
    backend: MockBackend,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    model: Any,
    values: dict[str, Any],
    hidden: set[Any],
) -> None:
    differences = await add_drift(engine, backend)
    assert set(await find(engine, backend)) == set(differences.values())

    async def change() -> None:
        async with engine.begin() as tx:
            await note_vms_changed(tx)
            await tx.execute(update(model).values(values))

    change_during(monkeypatch, backend, verb, change)
    expected = {difference for kind, difference in differences.items() if kind not in hidden}
    assert set(await find(engine, backend)) == expected


@pytest.mark.parametrize(
    ("vm_status", "server"), [("ACTIVE", "SHUTOFF"), ("ACTIVE", "ERROR"), ("ACTIVE", "UNKNOWN"), ("ERROR", "ACTIVE")]
)
async def test_a_server_on_which_the_cloud_works_is_left_to_the_next_comparison(
    engine: AsyncEngine, backend: MockBackend, vm_status: str, server: str
) -> None:
    vm = await add_idle_vm(engine, backend, Status(vm_status))
    await change_cloud(engine, servers, status=server, due_at=datetime.now(UTC) + timedelta(hours=1))
    assert await find(engine, backend) == []
    await change_cloud(engine, servers, due_at=None)
    assert [id for _, id in await find(engine, backend)] == [vm.id]


async def test_an_orphan_port_of_a_vm_is_reported_unless_an_operation_works_on_the_vm(
    engine: AsyncEngine, backend: MockBackend
) -> None:
    """A port may be there before its interface's row is, or longer."""
    vm = await add_idle_vm(engine, backend)
    port_id = uuid4()
    async with engine.begin() as tx:
        await tx.execute(ports.insert().values(id=port_id, vm_id=vm.id, **PORT))
    assert await find(engine, backend) == [(Drift.ORPHAN_PORT, port_id)]
    for busy in ({"attaching": 1}, {"task_state": "powering_off"}):
        async with engine.begin() as tx:
            await tx.execute(update(VM).values({"attaching": 0, "task_state": None} | busy))
        assert await find(engine, backend) == []


async def test_an_orphan_server_is_reported_without_its_ports(engine: AsyncEngine, backend: MockBackend) -> None:
    """They are removed together with the server."""
    vm_id = uuid4()
    await add_server(engine, backend, vm_id)
    async with engine.begin() as tx:
        await tx.execute(ports.insert().values(vm_id=vm_id, **PORT))
    assert await find(engine, backend) == [(Drift.ORPHAN_SERVER, vm_id)]


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_every_resource_is_on_a_page(
    engine: AsyncEngine, backend: MockBackend, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for module in (rows, backend_module):
        monkeypatch.setattr(module, "PAGE_SIZE", size)
    gone = [await add_idle_vm(engine, backend) for _ in range(5)]
    await change_cloud(engine, servers)
    unknown = [uuid4() for _ in range(5)]
    for vm_id in unknown:
        await add_server(engine, backend, vm_id)
    rows_of_volumes = [{"id": id, "name": "data", "size_gb": 1, "state": VolumeState.AVAILABLE} for id in unknown]
    async with engine.begin() as tx:
        await tx.execute(volumes.insert().values(rows_of_volumes))
    assert sorted(await find(engine, backend)) == sorted(
        [(Drift.SERVER_GONE, vm.id) for vm in gone]
        + [(drift, id) for id in unknown for drift in (Drift.ORPHAN_SERVER, Drift.ORPHAN_VOLUME)]
    )
    assert set(await inventory(backend, Kind.VOLUME)) == set(unknown)


async def test_deleted_resources_that_the_cloud_has_no_more_are_no_difference(
    engine: AsyncEngine, backend: MockBackend
) -> None:
    await add_drift(engine, backend)
    async with engine.begin() as tx:
        for model in (VM, Volume, Snapshot):
            await tx.execute(update(model).values(status="DELETED"))
    await change_cloud(engine, servers)
    await change_cloud(engine, images)
    assert await find(engine, backend) == []


async def test_a_resource_with_another_id_of_the_cloud_than_the_row_keeps_is_not_the_rows(
    engine: AsyncEngine, backend: MockBackend
) -> None:
    """The server that we know is gone, and a second one has our mark. Nobody knows whose it is, so it stays."""
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(cloud_id=str(uuid4())))
    assert await find(engine, backend) == [(Drift.SERVER_GONE, vm.id), (Drift.ORPHAN_SERVER, vm.id)]
    async with engine.begin() as tx:
        cloud_id = await tx.scalar(select(servers.c.id))
        await tx.execute(update(VM).values(cloud_id=str(cloud_id)))
    assert await find(engine, backend) == []


async def test_an_orphan_names_the_operation_that_deleted_it(engine: AsyncEngine, backend: MockBackend) -> None:
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(status="DELETED"))
    (orphan,) = [found async for page in orphan_detection.find_orphans(engine, backend) for found in page]
    assert (orphan.id, orphan.held_by) == (vm.id, vm.operation_id)


async def test_an_inventory_whose_pages_come_again_is_an_error(
    engine: AsyncEngine, backend: MockBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str | None]()

    async def inventory(_: Kind, marker: str | None) -> InventoryPage:
        asked.append(marker)
        return InventoryPage({}, "b" if marker == "a" else "a")

    monkeypatch.setattr(backend, "inventory", inventory)
    with pytest.raises(BackendError, match="has no end"):
        await find(engine, backend)
    assert asked == [None, "a", "b"]
