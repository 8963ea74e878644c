"""What the cloud chooses is written to the rows: the addresses of ports, and the devices of volumes."""

import asyncio
import contextlib
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.resources import PortSpec, Ref
from activities.compute import ComputeActivities
from activities.interfaces import InterfaceActivities
from activities.volumes import VolumeActivities
from activities.waits import WaitActivities
from domain.data.models import Attachment, Interface, Operation
from domain.progress import step_records
from domain.rules.cloud import ServerStatus
from domain.rules.messages import OperationInput, WaitForServerInput
from domain.rules.states import Action
from tests.activities.cloud import complete_changes, count_rows, ports_of, server_spec
from tests.activities.conftest import Run
from tests.activities.mock_cloud import add_volume, token
from tests.activities.operations import add_pending_interface, prepare_operation
from tests.support.rows import add_held_vm, add_interface, add_user, add_vm, note_vms_changed, read_vm


async def let_the_cloud_choose(engine: AsyncEngine, *interfaces: UUID) -> None:
    """Let these interfaces have no addresses yet."""
    async with engine.begin() as tx:
        unknown = {"ip_address": None, "mac_address": None}
        await note_vms_changed(tx)
        await tx.execute(update(Interface).where(Interface.id.in_(interfaces)).values(unknown))


async def chosen(engine: AsyncEngine, table: str) -> dict[UUID, tuple[str | None, ...]]:
    """Return the cloud's id and the addresses of each port: as the cloud has them, or as the rows keep them."""
    statement = f"SELECT id, cloud_id::text, ip_address, mac_address FROM {table}"  # noqa: S608 - constants
    async with engine.connect() as connection:
        return {row[0]: tuple(row[1:]) for row in await connection.execute(text(statement))}


async def build(engine: AsyncEngine, cloud: MockBackend, run: Run, input: OperationInput) -> None:
    """Run the steps of the build before its wait."""
    compute = ComputeActivities(engine, cloud)
    for step in (compute.schedule_server, compute.create_ports, compute.spawn_server):
        await run(step, input)
    await complete_changes(engine, cloud, input.vm)


async def test_the_addresses_of_a_new_vm_are_known_when_it_is_active(
    backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    ours, theirs = await add_pending_interface(engine, input), await add_pending_interface(engine, input, "backend")
    await let_the_cloud_choose(engine, theirs)
    before = await chosen(engine, "interfaces")
    await build(engine, backend, run, input)
    kept = await chosen(engine, "interfaces")
    assert kept[theirs] == (None, None, None)
    assert kept[ours][1:] == before[ours][1:]
    for _ in range(2):
        await run(WaitActivities(engine, backend).wait_for_server, WaitForServerInput(input, ServerStatus.ACTIVE))
        kept = await chosen(engine, "interfaces")
        assert kept == await chosen(engine, "mock_cloud.ports")
    assert all(kept[theirs])


async def test_a_port_for_which_no_address_is_wanted_is_made_with_its_server(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    interface = await add_pending_interface(engine, input)
    await let_the_cloud_choose(engine, interface)
    compute = ComputeActivities(engine, slow_backend)
    await run(compute.create_ports, input)
    assert await ports_of(slow_backend, input.vm) == set()
    for _ in range(2):
        await run(compute.spawn_server, input)
    assert await ports_of(slow_backend, input.vm) == {interface}


async def test_ports_that_the_cloud_has_not_marked_are_given_to_the_interfaces_in_their_network(
    backend: MockBackend, engine: AsyncEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    interfaces = [await add_pending_interface(engine, input, name) for name in ("private", "private", "edge")]
    await let_the_cloud_choose(engine, *interfaces)
    await build(engine, backend, run, input)
    list_ports = backend.list_ports

    async def without_marks(vms: Any) -> Any:
        return [
            type(port)(port.cloud_id, port.vm_id, port.network_id, port.ip_address, port.mac_address)
            for port in await list_ports(vms)
        ]

    monkeypatch.setattr(backend, "list_ports", without_marks)
    await run(WaitActivities(engine, backend).wait_for_server, WaitForServerInput(input, ServerStatus.ACTIVE))
    kept, present = await chosen(engine, "interfaces"), await chosen(engine, "mock_cloud.ports")
    assert sorted(kept.values()) == sorted(present.values())
    assert kept[interfaces[2]] == present[interfaces[2]]


async def test_the_addresses_of_an_attached_interface_are_known_after_the_step(
    backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await prepare_operation(engine, backend, Action.ATTACH_INTERFACE)
    await let_the_cloud_choose(engine, input.resource)
    for _ in range(2):
        await run(InterfaceActivities(engine, backend).create_interface, input)
        kept = await chosen(engine, "interfaces")
        assert kept == await chosen(engine, "mock_cloud.ports")
        assert all(kept[input.resource])
    assert await count_rows(engine, "ports") == 1


async def test_a_port_without_an_address_leaves_others_that_have_none_as_they_are(engine: AsyncEngine) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    interface = await add_pending_interface(engine, input)
    async with engine.begin() as tx:
        other = await add_vm(tx, await add_user(tx))
        await add_interface(tx, other, None)
    before = (await read_vm(engine, other.id)).updated_at
    async with engine.begin() as tx:
        chosen = {"cloud_id": "port", "ip_address": None, "mac_address": "fa:16:3e:00:00:01"}
        await step_records.note_created(tx, input, Interface, interface, **chosen)
    assert (await read_vm(engine, other.id)).updated_at == before


async def test_creates_that_take_addresses_from_one_another_at_once_all_have_theirs_in_the_end(
    engine: AsyncEngine,
) -> None:
    size = 12
    builds = [await add_held_vm(engine, Action.CREATE) for _ in range(size)]
    interfaces = [await add_pending_interface(engine, build) for build in builds]
    places = [{"ip_address": f"10.7.0.{n}", "mac_address": f"fa:16:3e:00:00:{n:02}"} for n in range(size)]
    async with engine.begin() as tx:
        for interface, place in zip(interfaces, places, strict=True):
            await tx.execute(update(Interface).where(Interface.id == interface).values(place))
        await note_vms_changed(tx)

    async def note(number: int) -> None:
        build, interface, place = builds[number], interfaces[number], places[(number + 1) % size]
        while True:
            with contextlib.suppress(DBAPIError):  # a deadlock; Temporal would run the activity again
                async with engine.begin() as tx:
                    await step_records.note_created(tx, build, Interface, interface, cloud_id=f"{number}", **place)
                return

    await asyncio.gather(*map(note, range(size)))
    kept = await chosen(engine, "interfaces")
    assert [kept[interface][1] for interface in interfaces] == [f"10.7.0.{(n + 1) % size}" for n in range(size)]


async def test_a_port_leaves_the_same_addresses_in_another_network_as_they_are(engine: AsyncEngine) -> None:
    """In the cloud, a hardware address is unique only in its network."""
    input = await add_held_vm(engine, Action.CREATE)
    interface = await add_pending_interface(engine, input, "backend")
    ip_address, mac_address = "10.0.0.9", "fa:16:3e:00:00:01"
    async with engine.begin() as tx:
        other = await add_interface(tx, await add_vm(tx, await add_user(tx)), ip_address, mac_address=mac_address)
    port = {"cloud_id": "port", "ip_address": ip_address, "mac_address": mac_address}
    async with engine.begin() as tx:
        await step_records.note_created(tx, input, Interface, interface, **port)
    kept = await chosen(engine, "interfaces")
    assert kept[interface][1:] == kept[other.id][1:] == (ip_address, mac_address)


@pytest.mark.parametrize("action", [Action.CREATE, Action.ATTACH_INTERFACE])
async def test_an_address_that_the_cloud_gives_to_a_port_is_no_longer_that_of_another(
    backend: MockBackend, engine: AsyncEngine, run: Run, action: Action
) -> None:
    """Somebody has given the other port another address in the cloud, or has deleted it, which is not known yet."""
    if action is Action.CREATE:
        input = await add_held_vm(engine, action)
        interface = await add_pending_interface(engine, input)
        await let_the_cloud_choose(engine, interface)
        await build(engine, backend, run, input)
    else:
        input = await prepare_operation(engine, backend, action)
        interface = input.resource
        await let_the_cloud_choose(engine, interface)
        await run(InterfaceActivities(engine, backend).create_interface, input)
        await let_the_cloud_choose(engine, interface)
    ((_, ip_address, mac_address),) = (await chosen(engine, "mock_cloud.ports")).values()
    assert ip_address
    async with engine.begin() as tx:
        other = await add_interface(tx, await add_vm(tx, await add_user(tx)), ip_address)
        await tx.execute(update(Interface).where(Interface.id == other.id).values(mac_address=mac_address))
        await note_vms_changed(tx)
    if action is Action.CREATE:
        wait = WaitForServerInput(input, ServerStatus.ACTIVE, records=True)
        await run(WaitActivities(engine, backend).wait_for_server, wait)
    else:
        await run(InterfaceActivities(engine, backend).create_interface, input)
    kept = await chosen(engine, "interfaces")
    assert (kept[interface][1:], kept[other.id][1:]) == ((ip_address, mac_address), (None, None))


@pytest.mark.parametrize(("wanted", "expected"), [("/dev/vdb", "/dev/vdb"), (None, "/dev/sdb")])
async def test_the_device_of_an_attached_volume_is_known_after_the_step(
    backend: MockBackend, engine: AsyncEngine, run: Run, wanted: str | None, expected: str
) -> None:
    input = await prepare_operation(engine, backend, Action.ATTACH_VOLUME)
    if wanted is None:
        async with engine.begin() as tx:
            await note_vms_changed(tx)
            await tx.execute(update(Attachment).values(device=None))
            await tx.execute(update(Operation).values(input={"name": "data"}))
    for _ in range(2):
        await run(VolumeActivities(engine, backend).attach_volume, input)
        async with engine.connect() as connection:
            assert await connection.scalar(select(Attachment.device)) == expected


async def test_the_mock_gives_each_volume_and_each_port_another_place(
    backend: MockBackend, engine: AsyncEngine
) -> None:
    """As a real cloud does where nobody has a wish."""
    vm, network = Ref(uuid4()), uuid4()
    wanted = [PortSpec(Ref(uuid4()), network) for _ in range(3)]
    await backend.create_server(token(), server_spec(vm.id), wanted)
    await complete_changes(engine, backend, vm.id)
    plugged = await backend.list_ports([vm])
    assert len({port.ip_address for port in plugged}) == len({port.mac_address for port in plugged}) == 3
    devices = [await backend.attach_volume(token(), vm, Ref(await add_volume(backend)), None) for _ in range(2)]
    assert devices == ["/dev/sdb", "/dev/sdc"]
