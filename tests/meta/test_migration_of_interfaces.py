"""Migration 0003 on a database in use: existing VMs get interfaces, and a downgrade removes them again."""

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
    """Run Alembic's upgrade or downgrade within the transaction, with no trigger left to run, as after a commit."""
    await tx.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    await tx.run_sync(lambda connection: way(alembic_config(connection), to))


async def add_old_vm(tx: AsyncConnection, networks: list[UUID], **state: Any) -> VM:
    """Add a VM as it was before 0003: its create operation names its networks, and it has no interfaces."""
    vm = await add_vm(tx, await add_user(tx), **state)
    input = {"network_ids": [str(id) for id in networks]}
    await add_operation(tx, vm, Action.CREATE, status=SUCCEEDED, holds=False, input=input)
    return vm


async def down_and_up(tx: AsyncConnection) -> list[Interface]:
    """Downgrade to before 0003 and upgrade again; returns the interfaces that the upgrade created."""
    await move(tx, command.downgrade, "0002")
    await move(tx, command.upgrade, "head")
    return list(await queries.fetch_all(tx, select(Interface).order_by(Interface.created_at)))


async def test_a_vm_gets_an_interface_for_each_network_it_was_created_with(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        several = await add_old_vm(tx, [EDGE, PRIVATE, BACKEND])
        await add_old_vm(tx, [])
        default = await add_old_vm(tx, [PRIVATE], status=Status.SHUTOFF)
        created = await down_and_up(tx)
    expected = {(several.id, EDGE), (several.id, PRIVATE), (several.id, BACKEND), (default.id, PRIVATE)}
    assert {(row.vm_id, row.network_id) for row in created} == expected
    assert len(created) == 4
    assert {row.status for row in created} == {AttachmentStatus.ATTACHED}
    assert {row.created_at for row in created} == {several.created_at}
    assert {row.operation_id for row in created} == {several.operation_id, default.operation_id}


@pytest.mark.parametrize("gateway", [1, 7, 14], ids=["first", "middle", "last"])
async def test_addresses_are_valid_and_unique_until_the_network_is_full(engine: AsyncEngine, gateway: int) -> None:
    network = IPv4Network("192.168.7.16/28")
    row = {"name": "old", "cidr": str(network), "gateway": str(network[gateway]), "is_default": False}
    async with engine.begin() as tx:
        await tx.execute(insert(Network), row | {"id": (id := uuid4())})
        vms = [await add_old_vm(tx, [id, PRIVATE]) for _ in range(16)]
        created = await down_and_up(tx)
    in_network = [row for row in created if row.network_id == id]
    assert sorted(IPv4Address(row.ip_address) for row in in_network) == [
        host for host in network.hosts() if host != network[gateway]
    ]
    in_private = [row for row in created if row.network_id == PRIVATE]
    assert len({row.ip_address for row in in_private}) == len(in_private) == len(vms)
    assert "10.0.0.1" not in {row.ip_address for row in in_private}
    macs = {str(row.mac_address) for row in created}
    assert len(macs) == len(created)
    assert all(mac.startswith("fa:16:3e:") and len(bytes.fromhex(mac.replace(":", ""))) == 6 for mac in macs)


async def test_the_oldest_vms_get_the_addresses_of_a_small_network(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vms = [await add_old_vm(tx, [EDGE]) for _ in range(15)]
        for age, vm in enumerate(vms):
            await tx.execute(
                text("UPDATE vms SET created_at = created_at - make_interval(hours => :age) WHERE id = :id"),
                {"age": age, "id": vm.id},
            )
        created = await down_and_up(tx)
    assert {row.vm_id for row in created} == {vm.id for vm in vms[2:]}


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
    ids=["error", "verify-resize", "busy", "building", "deleting", "deleted", "never-built"],
)
async def test_the_status_of_an_interface_follows_its_vm(
    engine: AsyncEngine, state: dict[str, Any], status: AttachmentStatus | None
) -> None:
    """An operation that is running then finishes the interface as it would a new one."""
    async with engine.begin() as tx:
        vm = await add_old_vm(tx, [PRIVATE], **state)
        created = await down_and_up(tx)
    assert [(row.status, row.operation_id) for row in created] == ([(status, vm.operation_id)] if status else [])


async def test_a_downgrade_deletes_all_resources_but_vms_and_can_be_upgraded_again(engine: AsyncEngine) -> None:
    """Operations on VMs themselves stay; those that the earlier release cannot read are deleted."""
    operations = select(Operation.id, Operation.action, Operation.vm_id).order_by(Operation.id)
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, volume = await add_vm(tx, user), await add_volume(tx, user, status=VolumeStatus.ATTACHING)
        await add_snapshot(tx, vm)
        await add_attachment(tx, vm, volume, status=AttachmentStatus.ATTACHING)
        await add_operation(tx, vm, Action.RESIZE, status=SUCCEEDED, holds=False)
        attach = await claim(tx, vm.id, Action.ATTACH_VOLUME)
        create = new_operation(Action.CREATE_VOLUME, resource_type=Kind.VOLUME, resource_id=volume.id)
        await acceptance.accept_without_vm(tx, user.id, create)
        snapshot = await add_operation(tx, vm, Action.SNAPSHOT, status=SUCCEEDED, holds=False)
        before = (await tx.execute(operations)).all()
        await down_and_up(tx)
        after = (await tx.execute(operations)).all()
        tables = [await tx.scalar(text(f"SELECT count(*) FROM {name}")) for name in TABLES]  # noqa: S608
        kept_vm = await queries.lock_vm(tx, vm.id)
        missing = await tx.run_sync(_missing)
    deleted = {attach.id, create.id}
    assert after == [row for row in before if row.id not in deleted]
    assert snapshot.id in {row.id for row in after}
    assert tables == [0, 0, 0, 0]
    assert kept_vm
    assert (kept_vm.id, kept_vm.status, kept_vm.attaching) == (vm.id, vm.status, 0)
    assert missing == []


TABLES = ["snapshots", "volumes", "attachments", "interfaces"]


def _missing(connection: Connection) -> list[object]:
    return differences(connection)
