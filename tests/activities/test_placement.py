"""A new VM's zone, groups and wanted addresses reach the cloud, and the mock cloud refuses what it does not have."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock import schema
from activities.backends.mock.backend import MockBackend
from activities.backends.resources import PortSpec, Ref
from activities.compute import ComputeActivities
from activities.interfaces import InterfaceActivities
from activities.waits import WaitActivities
from domain.data.models import VM, Interface
from domain.data.seeds import SECURITY_GROUPS
from domain.rules.cloud import ServerStatus
from domain.rules.messages import WaitForServerInput
from domain.rules.states import Action
from tests.activities.cloud import complete_changes, count_rows, server_spec
from tests.activities.conftest import Run
from tests.activities.mock_cloud import refused, token
from tests.activities.operations import add_pending_interface, prepare_operation
from tests.support.rows import NETWORK_IDS, add_held_vm, read_vm

DEFAULT, WEB = (str(group["id"]) for group in SECURITY_GROUPS)


async def ports(engine: AsyncEngine) -> dict[UUID, Row[Any, Any, Any]]:
    """The address and the groups of each port of the mock cloud, by interface."""
    async with engine.connect() as connection:
        found = select(schema.ports.c.id, schema.ports.c.ip_address, schema.ports.c.security_groups)
        return {row.id: row for row in (await connection.execute(found)).all()}


async def test_all_ports_of_a_new_server_have_the_groups_that_its_request_asked_for(
    backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    wanted, free = await add_pending_interface(engine, input), await add_pending_interface(engine, input, "edge")
    groups = [{"id": WEB, "name": "web"}, {"id": DEFAULT, "name": "default"}]
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(availability_zone="nova", security_groups=groups))
        none = {"ip_address": None, "mac_address": None}
        await tx.execute(update(Interface).where(Interface.id == free).values(none))
        address = await tx.scalar(select(Interface.ip_address).where(Interface.id == wanted))
    compute = ComputeActivities(engine, backend)
    for step in (compute.schedule_server, compute.create_ports, compute.spawn_server):
        await run(step, input)
    made = await ports(engine)
    assert {row.id: row.security_groups for row in made.values()} == {wanted: [WEB, DEFAULT], free: [WEB, DEFAULT]}
    assert made[wanted].ip_address == address
    async with engine.connect() as connection:
        assert await connection.scalar(select(schema.servers.c.zone)) == "nova"


@pytest.mark.parametrize("wanted", ["nova", None])
async def test_the_zone_of_a_vm_is_known_when_it_is_active(
    backend: MockBackend, engine: AsyncEngine, run: Run, wanted: str | None
) -> None:
    input = await add_held_vm(engine, Action.CREATE)
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(availability_zone=wanted))
    compute, waits = ComputeActivities(engine, backend), WaitActivities(engine, backend)
    for step in (compute.schedule_server, compute.create_ports, compute.spawn_server):
        await run(step, input)
    assert (await read_vm(engine, input.vm)).availability_zone == wanted
    await complete_changes(engine, backend, input.vm)
    for _ in range(2):
        await run(waits.wait_for_server, WaitForServerInput(input, ServerStatus.ACTIVE))
        assert (await read_vm(engine, input.vm)).availability_zone == "nova"


async def test_without_a_wish_a_port_has_the_default_group_and_so_has_one_that_is_attached_later(
    backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    """As in Nova, also if the VM was created with others."""
    input = await prepare_operation(engine, backend, Action.ATTACH_INTERFACE)
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(security_groups=[{"id": WEB, "name": "web"}]))
    await run(InterfaceActivities(engine, backend).create_interface, input)
    assert [row.security_groups for row in (await ports(engine)).values()] == [[DEFAULT]]


@pytest.mark.parametrize("change", [{"availability_zone": "mars"}, {"security_groups": (str(UUID(int=7)),)}], ids=str)
async def test_the_mock_refuses_a_place_that_it_does_not_have(
    backend: MockBackend, engine: AsyncEngine, change: dict[str, Any]
) -> None:
    """Such as one of a real cloud, which the database had before."""
    spec = replace(server_spec(uuid4()), **change)
    await refused(backend.create_server(token(), spec), "bad_request")
    assert await count_rows(engine, "servers") == 0


async def test_the_mock_refuses_an_address_that_another_port_has(backend: MockBackend, engine: AsyncEngine) -> None:
    """With the words and the code of a real cloud."""
    port = PortSpec(Ref(uuid4()), NETWORK_IDS["edge"], "10.2.0.9")
    await backend.create_ports(token(), Ref(uuid4()), [port])
    await refused(
        backend.create_ports(token(), Ref(uuid4()), [replace(port, interface=Ref(uuid4()))]), "address_in_use"
    )
    assert await count_rows(engine, "ports") == 1
