"""Migration 0003 on a database in use: VMs that are there get their interfaces; back again, and forward."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from uuid import UUID, uuid4

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.commands import acceptance
from domain.data import queries
from domain.data.models import VM, Interface, Network, Operation
from domain.rules.resources import AttachmentStatus, Kind, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from migrations.__main__ import alembic_config
from tests.meta.test_schema import differences
from tests.support.rows import (
    NETWORK_IDS,
    add_attachment,
    add_operation,
    add_snapshot,
    add_user,
    add_vm,
    add_volume,
    claim,
    new_operation,
)

SUCCEEDED = OperationStatus.SUCCEEDED
EDGE, PRIVATE, BACKEND = (NETWORK_IDS[name] for name in ("edge", "private", "backend"))


async def move(tx: AsyncConnection, way: Callable[[Config, str], None], to: str) -> None:
    """Migrate within the transaction."""
    await tx.run_sync(lambda connection: way(alembic_config(connection), to))


async def add_old_vm(tx: AsyncConnection, networks: list[UUID], **state: Any) -> VM:
    """A VM that was made, with the networks, before there were interfaces."""
    vm = await add_vm(tx, await add_user(tx), **state)
    asked = {"network_ids": [str(id) for id in networks]}
    await add_operation(tx, vm, Action.CREATE, status=SUCCEEDED, holds=False, input=asked)
    return vm


async def down_and_up(tx: AsyncConnection) -> list[Interface]:
    """Go back to before there were interfaces and forward again; those that there are then."""
    await move(tx, command.downgrade, "0002")
    await move(tx, command.upgrade, "head")
    return list(await queries.fetch_all(tx, select(Interface).order_by(Interface.created_at)))


async def test_a_vm_gets_an_interface_for_each_network_it_was_made_with(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        several = await add_old_vm(tx, [EDGE, PRIVATE, BACKEND])
        await add_old_vm(tx, [])
        default = await add_old_vm(tx, [PRIVATE], status=Status.SHUTOFF)
        found = await down_and_up(tx)
    places = {(several.id, EDGE), (several.id, PRIVATE), (several.id, BACKEND), (default.id, PRIVATE)}
    assert {(row.vm_id, row.network_id) for row in found} == places
    assert len(found) == 4
    assert {row.status for row in found} == {AttachmentStatus.ATTACHED}
    assert {row.created_at for row in found} == {several.created_at}
    assert {row.operation_id for row in found} == {several.operation_id, default.operation_id}


@pytest.mark.parametrize("gateway", [1, 7, 14], ids=["first", "middle", "last"])
async def test_addresses_are_legal_and_unique_until_none_is_left(engine: AsyncEngine, gateway: int) -> None:
    network = IPv4Network("192.168.7.16/28")
    row = {"name": "old", "cidr": str(network), "gateway": str(network[gateway]), "is_default": False}
    async with engine.begin() as tx:
        await tx.execute(insert(Network), row | {"id": (id := uuid4())})
        vms = [await add_old_vm(tx, [id, PRIVATE]) for _ in range(16)]
        found = await down_and_up(tx)
    here = [one for one in found if one.network_id == id]
    assert sorted(IPv4Address(one.ip_address) for one in here) == [
        host for host in network.hosts() if host != network[gateway]
    ]
    elsewhere = [one for one in found if one.network_id == PRIVATE]
    assert len({one.ip_address for one in elsewhere}) == len(elsewhere) == len(vms)
    assert "10.0.0.1" not in {one.ip_address for one in elsewhere}
    macs = {one.mac_address for one in found}
    assert len(macs) == len(found)
    assert all(mac.startswith("fa:16:3e:") and len(bytes.fromhex(mac.replace(":", ""))) == 6 for mac in macs)


async def test_the_oldest_vms_of_a_full_network_come_first(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vms = [await add_old_vm(tx, [EDGE]) for _ in range(15)]
        for age, vm in enumerate(vms):
            await tx.execute(
                text("UPDATE vms SET created_at = created_at - make_interval(hours => :age) WHERE id = :id"),
                {"age": age, "id": vm.id},
            )
        found = await down_and_up(tx)
    assert {row.vm_id for row in found} == {vm.id for vm in vms[2:]}


IN_STATES: list[tuple[dict[str, Any], AttachmentStatus | None]] = [
    ({"status": Status.ERROR}, AttachmentStatus.ATTACHED),
    ({"status": Status.VERIFY_RESIZE}, AttachmentStatus.ATTACHED),
    ({"task_state": TaskState.POWERING_OFF}, AttachmentStatus.ATTACHED),
    ({"status": Status.BUILDING, "task_state": TaskState.SPAWNING, "launched": False}, AttachmentStatus.ATTACHING),
    ({"status": Status.DELETING, "task_state": TaskState.DELETING}, AttachmentStatus.DETACHING),
    ({"status": Status.DELETED}, None),
    ({"status": Status.ERROR, "launched": False}, None),
]


@pytest.mark.parametrize(
    ("state", "status"),
    IN_STATES,
    ids=["error", "undecided", "busy", "building", "going", "gone", "never-built"],
)
async def test_an_interface_is_as_its_vm_is(
    engine: AsyncEngine, state: dict[str, Any], status: AttachmentStatus | None
) -> None:
    """So that the operation which is under way ends it, as it would one of today."""
    async with engine.begin() as tx:
        vm = await add_old_vm(tx, [PRIVATE], **state)
        found = await down_and_up(tx)
    assert [(row.status, row.operation_id) for row in found] == ([(status, vm.operation_id)] if status else [])


async def test_back_goes_all_that_is_no_vm_and_forward_again_nothing_is_missing(engine: AsyncEngine) -> None:
    """What the release before cannot read goes; what is asked of VMs themselves stays as it was."""
    operations = select(Operation.id, Operation.action, Operation.vm_id).order_by(Operation.id)
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, volume = await add_vm(tx, user), await add_volume(tx, user, status=VolumeStatus.ATTACHING)
        await add_snapshot(tx, vm)
        await add_attachment(tx, vm, volume, status=AttachmentStatus.ATTACHING)
        await add_operation(tx, vm, Action.RESIZE, status=SUCCEEDED, holds=False)
        attach = await claim(tx, vm.id, Action.ATTACH_VOLUME)
        asked = new_operation(Action.CREATE_VOLUME, resource_type=Kind.VOLUME, resource_id=volume.id)
        await acceptance.accept_without_vm(tx, user.id, asked)
        snapshot = await add_operation(tx, vm, Action.SNAPSHOT, status=SUCCEEDED, holds=False)
        before = (await tx.execute(operations)).all()
        await down_and_up(tx)
        after = (await tx.execute(operations)).all()
        tables = [await tx.scalar(text(f"SELECT count(*) FROM {name}")) for name in TABLES]  # noqa: S608
        kept = await queries.lock_vm(tx, vm.id)
        missing = await tx.run_sync(_missing)
    gone = {attach.id, asked.id}
    assert after == [row for row in before if row.id not in gone]
    assert snapshot.id in {row.id for row in after}
    assert tables == [0, 0, 0, 0]
    assert kept
    assert (kept.id, kept.status, kept.attaching) == (vm.id, vm.status, 0)
    assert missing == []


TABLES = ["snapshots", "volumes", "attachments", "interfaces"]


def _missing(connection: Connection) -> list[object]:
    return differences(connection)
