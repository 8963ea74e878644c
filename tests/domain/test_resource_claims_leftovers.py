"""Failures whose residue was observed: what the cloud still has decides the status of the rows."""

from uuid import UUID

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Operation, Volume
from domain.progress import resource_claims, step_records
from domain.rules.messages import FailOperationInput, LeftoversResult, OperationInput
from domain.rules.resources import AttachmentStatus, VolumeStatus
from domain.rules.states import Action, Status
from domain.rules.table import Residue
from tests.domain.claims import accept_on_new_vm, go_through, rows, shown
from tests.domain.specified import CHANGES
from tests.support.rows import (
    FLAVOR_IDS,
    add_attachment,
    add_interface,
    add_user,
    add_vm,
    add_volume,
    claim,
    message,
    read_operation,
    read_vm,
)

KEPT = [action for action, changes in CHANGES.items() if any(row.still_there for row in changes.values())]


async def fail(
    engine: AsyncEngine,
    input: OperationInput,
    residue: Residue = Residue.UNKNOWN,
    leftovers: LeftoversResult | None = None,
) -> None:
    """Record a failure with its residue and with what the cloud still has."""
    failure = FailOperationInput.of(input, "no_luck", "It went wrong.", residue, leftovers=leftovers)
    async with engine.begin() as tx:
        await step_records.fail(tx, failure)


@pytest.mark.parametrize("action", KEPT)
async def test_a_resource_that_the_cloud_still_has_keeps_its_row(engine: AsyncEngine, action: str) -> None:
    await fail(engine, await accept_on_new_vm(engine, Action(action)), Residue.STILL_THERE)
    kept = {kind: row.resolved(row.still_there) for kind, row in CHANGES[action].items()}
    assert await shown(engine) == {kind: [status] for kind, status in kept.items()}


@pytest.mark.parametrize("residue", Residue)
@pytest.mark.parametrize("action", CHANGES)
async def test_any_other_residue_settles_the_claims_as_specified(
    engine: AsyncEngine, action: str, residue: Residue
) -> None:
    if residue is Residue.STILL_THERE and action in KEPT:
        return
    input = await accept_on_new_vm(engine, Action(action))
    await go_through(engine, input)
    await fail(engine, input, residue)
    not_begun = residue is Residue.NOT_BEGUN and action == "extend-volume"  # a delete keeps its earlier status, too
    ends = {kind: row.sources[0] if not_begun else row.failure for kind, row in CHANGES[action].items()}
    assert await shown(engine) == {kind: [status] for kind, status in ends.items() if status}


@pytest.mark.parametrize("started", [False, True], ids=["not begun", "begun"])
@pytest.mark.parametrize("residue", [Residue.STILL_THERE, Residue.UNKNOWN])
async def test_a_delete_that_has_not_begun_leaves_the_volume_in_its_previous_status(
    engine: AsyncEngine, residue: Residue, *, started: bool
) -> None:
    input = await accept_on_new_vm(engine, Action.DELETE_VOLUME)
    previous = {"input": Operation.input.concat({"was": "ERROR"})}
    async with engine.begin() as tx:
        await tx.execute(update(Operation).where(Operation.id == input.operation_id).values(previous))
        if started:
            await step_records.enter(tx, input, 1)
    await fail(engine, input, residue)
    expected = "AVAILABLE" if started and residue is Residue.STILL_THERE else "ERROR"
    assert await shown(engine) == {"volume": [expected]}


async def deleting(engine: AsyncEngine) -> tuple[OperationInput, dict[str, UUID], dict[str, UUID]]:
    """Return a delete of a VM, the VM's volumes by device, and its interfaces by address."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, neighbour = await add_vm(tx, user), await add_vm(tx, user)
        volumes = {}
        for where, device, goes in ((vm, "b", False), (vm, "c", True), (vm, "d", True), (neighbour, "e", False)):
            volume = await add_volume(tx, user, status=VolumeStatus.IN_USE)
            await add_attachment(tx, where, volume, device=device, delete_on_termination=goes)
            volumes[device] = volume.id
        places = ((vm, "10.0.0.8"), (vm, "10.0.0.9"), (neighbour, "10.0.0.10"))
        interfaces = {address: (await add_interface(tx, where, address)).id for where, address in places}
        return message(await claim(tx, vm.id, Action.DELETE)), volumes, interfaces


async def test_a_failed_delete_of_a_vm_keeps_the_rows_that_the_cloud_still_has(engine: AsyncEngine) -> None:
    delete, volumes, interfaces = await deleting(engine)
    leftovers = LeftoversResult(ports=(interfaces["10.0.0.9"],), attached=(volumes["c"],), free=(volumes["b"],))
    await fail(engine, delete, leftovers=leftovers)
    found = await rows(engine)
    statuses = {row.id: row.status for row in found["volume"]}
    assert {device: statuses[id] for device, id in volumes.items()} == {
        "b": VolumeStatus.AVAILABLE,
        "c": VolumeStatus.IN_USE,
        "d": VolumeStatus.DELETED,
        "e": VolumeStatus.IN_USE,
    }
    attached = {row.device: row.status for row in found["attachment"]}
    assert attached == dict.fromkeys(["c", "e"], AttachmentStatus.ATTACHED)
    plugged = {row.ip_address: row.status for row in found["interface"]}
    assert plugged == dict.fromkeys(["10.0.0.9", "10.0.0.10"], AttachmentStatus.ATTACHED)
    vm = await read_vm(engine, delete.vm)
    assert (vm.status, vm.flavor_id) == (Status.ERROR, FLAVOR_IDS["m1.small"])


async def test_a_failed_delete_sets_the_flavor_of_the_server(engine: AsyncEngine) -> None:
    delete, _, _ = await deleting(engine)
    await fail(engine, delete, leftovers=LeftoversResult(flavor_id=FLAVOR_IDS["m1.large"]))
    assert (await read_vm(engine, delete.vm)).flavor_id == FLAVOR_IDS["m1.large"]
    found = {kind: sorted(statuses) for kind, statuses in (await shown(engine)).items()}
    assert found == {"volume": ["DELETED"] * 3 + ["IN_USE"], "attachment": ["ATTACHED"], "interface": ["ATTACHED"]}


async def test_a_failure_with_leftovers_is_recorded_once(engine: AsyncEngine) -> None:
    delete, volumes, _ = await deleting(engine)
    await fail(engine, delete, leftovers=LeftoversResult(free=tuple(volumes.values())))
    before = await rows(engine), await read_operation(engine, delete.operation_id)
    await fail(engine, delete, leftovers=LeftoversResult(attached=tuple(volumes.values())))
    assert (await rows(engine), await read_operation(engine, delete.operation_id)) == before


async def test_only_the_holder_marks_a_resource_as_undeletable(engine: AsyncEngine) -> None:
    delete, volumes, _ = await deleting(engine)
    for operation_id, status in ((volumes["c"], VolumeStatus.DELETING), (delete.operation_id, VolumeStatus.ERROR)):
        async with engine.begin() as tx:
            await resource_claims.mark_undeletable(tx, Volume, volumes["c"], operation_id)
        assert [row.status for row in (await rows(engine))["volume"] if row.id == volumes["c"]] == [status]
