"""Servers that belong to no VM: which are noted, what keeps them from being adopted, when they are forgotten."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities import foreign_servers, found_servers
from activities.backends.found import FoundServer as Found
from activities.backends.found import FoundVolume
from activities.backends.mock import found
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import servers
from activities.backends.resources import Port
from activities.found_servers import FoundServersReader
from activities.recovery.reconciler import Reconciler
from domain.commands.acceptance import Requester
from domain.commands.adopt import adopt_server
from domain.data.cloud import FoundServer
from domain.data.models import VM
from domain.rules.cloud import ServerStatus
from domain.rules.states import Status
from domain.settings import Settings
from tests.activities.cloud import BUILD_IMAGE_ID
from tests.activities.drift import add_idle_vm, recorded_findings
from tests.support.rows import NETWORK_IDS, add_user, read_vm

SERVER = Found(
    cloud_id=str(id := uuid4()),
    id=id,
    name="old",
    status=ServerStatus.ACTIVE,
    is_busy=False,
    flavor="m1.small",
    vcpus=1,
    ram_mb=2048,
    disk_gb=20,
    image_id=str(BUILD_IMAGE_ID),
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
PORT = Port(str(uuid4()), SERVER.id, NETWORK_IDS["private"], None, "fa:16:3e:00:00:01")
VOLUME = FoundVolume(str(UUID(int=2)), UUID(int=2), "data", 1, "/dev/sdb", delete_on_termination=False)


async def note(engine: AsyncEngine, *found: Found) -> list[tuple[str, str | None]]:
    """Note these servers; return the name and the obstacle of all that are noted."""
    async with engine.begin() as tx:
        await found_servers.note(tx, found)
        rows = await tx.execute(select(FoundServer.name, FoundServer.obstacle).order_by(FoundServer.name))
        return [(row.name, row.obstacle) for row in rows]


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({}, None),
        ({"status": ServerStatus.SHUTOFF}, None),
        ({"is_busy": True}, "The cloud is changing it."),
        ({"status": ServerStatus.PAUSED}, "Its status is PAUSED; it must be ACTIVE or SHUTOFF."),
        ({"image_id": None}, "It boots from a volume."),
        ({"volumes": [VOLUME]}, None),
        (
            {"volumes": [replace(VOLUME, is_shared=True)]},
            f"Its volume {VOLUME.cloud_id} is attached to other servers, too.",
        ),
        (
            {"ports": [replace(PORT, network_id=UUID(int=1))]},
            f"Its network {UUID(int=1)} is not in the catalogue.",
        ),
        ({"ports": [PORT]}, None),
        ({"ports": [PORT, replace(PORT, cloud_id=str(uuid4()), network_id=NETWORK_IDS["edge"])]}, None),
        ({"ports": [PORT, replace(PORT, cloud_id=str(uuid4()), mac_address="fa:16:3e:00:00:02")]}, None),
        (
            {"ports": [PORT, replace(PORT, cloud_id=str(uuid4()))]},
            "Two of its ports have one address in the same network.",
        ),
        (
            {"ports": [PORT, replace(PORT, cloud_id="copy", id=UUID(PORT.cloud_id), network_id=NETWORK_IDS["edge"])]},
            "Two of its ports have the mark of one interface.",
        ),
    ],
)
async def test_what_keeps_a_server_from_being_adopted(
    engine: AsyncEngine, changes: dict[str, object], obstacle: str | None
) -> None:
    assert await note(engine, replace(SERVER, **changes)) == [("old", obstacle)]  # type: ignore[arg-type]


async def test_a_device_that_two_volumes_have_is_known_of_neither(engine: AsyncEngine) -> None:
    volumes = [VOLUME, replace(VOLUME, cloud_id=str(uuid4()), id=uuid4()), replace(VOLUME, device="/dev/sdc")]
    await note(engine, replace(SERVER, volumes=volumes))
    async with engine.connect() as connection:
        noted = (await connection.scalars(select(FoundServer.volumes))).one()
    assert sorted(str(volume["device"]) for volume in noted) == ["/dev/sdc", "None", "None"]


async def test_the_servers_of_vms_are_not_noted(engine: AsyncEngine, backend: MockBackend) -> None:
    """By their id or by their mark, also if the VM is deleted: what is left of it is removed, not adopted."""
    known = await add_idle_vm(engine, backend)
    deleted = await add_idle_vm(engine, backend, Status.DELETED)
    async with engine.begin() as tx:
        await tx.execute(update(VM).where(VM.id == known.id).values(cloud_id="the server of a VM"))
    of_vms = [replace(SERVER, cloud_id="the server of a VM"), replace(SERVER, cloud_id="another", id=deleted.id)]
    assert await note(engine, *of_vms) == []


async def test_a_server_that_changes_or_goes_away_is_noted_anew(engine: AsyncEngine) -> None:
    other = replace(SERVER, cloud_id="other", id=uuid4(), name="x ")
    assert await note(engine, SERVER, other) == [("old", None), ("x", None)]
    assert await note(engine, replace(SERVER, is_busy=True)) == [("old", "The cloud is changing it.")]
    assert await note(engine) == []


async def test_a_server_of_the_mock_cloud_is_found_adopted_and_repaired_as_any_other(
    engine: AsyncEngine, backend: MockBackend, settings: Settings, reconciler: Reconciler
) -> None:
    cloud_id = await foreign_servers.add_server(settings, "old")
    reader = FoundServersReader(engine, backend)
    await reader.read()
    async with engine.begin() as tx:
        user = await add_user(tx)
        accepted = await adopt_server(tx, Requester(user.id, "root", "request"), cloud_id, user.username)
    await reader.read()
    async with engine.connect() as connection:
        assert (await connection.execute(select(FoundServer))).all() == []
    for _ in range(2):
        await reconciler.reconcile()
    assert await recorded_findings(engine) == []
    vm = await read_vm(engine, accepted.resource.id)
    assert (vm.status, vm.updated_at) == (accepted.resource.status, accepted.resource.updated_at)
    async with engine.begin() as tx:
        await tx.execute(delete(servers))
    for _ in range(2):
        await reconciler.reconcile()
    assert (await read_vm(engine, accepted.resource.id)).status is Status.ERROR


async def test_the_reconciler_leaves_the_servers_of_others_alone(
    engine: AsyncEngine, settings: Settings, reconciler: Reconciler
) -> None:
    await foreign_servers.add_server(settings, "old")
    for _ in range(2):
        await reconciler.reconcile()
    assert await recorded_findings(engine) == []
    async with engine.connect() as connection:
        assert len((await connection.execute(select(servers))).all()) == 1


async def test_the_servers_of_the_cloud_are_looked_up_in_pages(
    engine: AsyncEngine, backend: MockBackend, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ids of a large cloud at once would block the loop that sends the heartbeats of activities."""
    monkeypatch.setattr(found, "PAGE_SIZE", 2)
    for _ in range(3):
        await add_idle_vm(engine, backend)
    async with engine.connect() as connection:
        of_vms = list(map(str, await connection.scalars(select(servers.c.id))))
    others = [str(await foreign_servers.add_server(settings, f"old-{number}")) for number in range(2)]
    asked: list[list[str]] = []

    async def known(ids: Collection[str]) -> Collection[str]:
        asked.append(sorted(ids))
        return {*of_vms} & {*ids}

    shown = await backend.list_other_servers(known)
    assert sorted(server.cloud_id for server in shown) == sorted(others)
    assert [id for page in asked for id in page] == sorted([*of_vms, *others])
    assert max(map(len, asked)) == 2


async def test_which_servers_are_known_is_asked_of_the_database(engine: AsyncEngine, backend: MockBackend) -> None:
    vm, deleted = await add_idle_vm(engine, backend), await add_idle_vm(engine, backend, Status.DELETED)
    async with engine.begin() as tx:
        await tx.execute(update(VM).where(VM.id == vm.id).values(cloud_id="live"))
        await tx.execute(update(VM).where(VM.id == deleted.id).values(cloud_id="deleted"))
    reader = FoundServersReader(engine, backend)
    assert await reader._known(["live", "deleted", "foreign"]) == {"live"}
