"""Failures that are looked into: what the cloud was seen to have decides where rows go."""

from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Volume
from domain.progress import resource_claims, step_records
from domain.rules.messages import FailOperationInput, OperationInput, RemainsResult
from domain.rules.resources import AttachmentStatus, VolumeStatus
from domain.rules.states import Action, Status
from tests.domain.holding import ask, rows, shown
from tests.domain.specified import TURNS
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

SEEN = [(action, kind) for action, turns in TURNS.items() for kind, turn in turns.items() if turn.intact]


async def fail(engine: AsyncEngine, input: OperationInput, remains: RemainsResult | None, *, intact: bool) -> None:
    """Record a failure, with what the cloud was seen to have."""
    async with engine.begin() as tx:
        failure = FailOperationInput(input, "no_luck", "It went wrong.", intact=intact, remains=remains)
        await step_records.fail(tx, failure)


@pytest.mark.parametrize(("action", "kind"), SEEN)
async def test_what_a_failed_delete_is_seen_to_have_left_is_there(engine: AsyncEngine, action: str, kind: str) -> None:
    input = await ask(engine, Action(action))
    await fail(engine, input, None, intact=True)
    assert await shown(engine) == {kind: [TURNS[action][kind].intact]}


@pytest.mark.parametrize("action", [Action(action) for action in TURNS if action not in dict(SEEN)])
async def test_what_else_fails_leaves_the_same_whatever_is_seen(engine: AsyncEngine, action: Action) -> None:
    await fail(engine, await ask(engine, action), None, intact=True)
    left = {kind: [turn.failure] for kind, turn in TURNS[action].items() if turn.failure}
    assert await shown(engine) == left


async def deleting(engine: AsyncEngine) -> tuple[OperationInput, dict[str, UUID], dict[str, UUID]]:
    """A delete of a VM that has volumes and interfaces; its volumes by device, its interfaces by address."""
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


async def test_a_failed_delete_of_a_vm_leaves_what_the_cloud_still_has_of_it(engine: AsyncEngine) -> None:
    delete, volumes, interfaces = await deleting(engine)
    seen = RemainsResult(ports=(interfaces["10.0.0.9"],), attached=(volumes["c"],), free=(volumes["b"],))
    await fail(engine, delete, seen, intact=False)
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


async def test_a_failed_delete_shows_the_flavor_that_the_server_has(engine: AsyncEngine) -> None:
    delete, _, _ = await deleting(engine)
    await fail(engine, delete, RemainsResult(flavor_id=FLAVOR_IDS["m1.large"]), intact=False)
    assert (await read_vm(engine, delete.vm)).flavor_id == FLAVOR_IDS["m1.large"]
    found = {kind: sorted(statuses) for kind, statuses in (await shown(engine)).items()}
    assert found == {"volume": ["DELETED"] * 3 + ["IN_USE"], "attachment": ["ATTACHED"], "interface": ["ATTACHED"]}


async def test_a_failure_with_remains_is_recorded_once(engine: AsyncEngine) -> None:
    delete, volumes, _ = await deleting(engine)
    await fail(engine, delete, RemainsResult(free=tuple(volumes.values())), intact=False)
    before = await rows(engine), await read_operation(engine, delete.operation_id)
    await fail(engine, delete, RemainsResult(attached=tuple(volumes.values())), intact=False)
    assert (await rows(engine), await read_operation(engine, delete.operation_id)) == before


async def test_what_is_given_up_is_in_error_and_only_by_who_holds_it(engine: AsyncEngine) -> None:
    delete, volumes, _ = await deleting(engine)
    for operation_id, status in ((volumes["c"], VolumeStatus.DELETING), (delete.operation_id, VolumeStatus.ERROR)):
        async with engine.begin() as tx:
            await resource_claims.give_up(tx, Volume, volumes["c"], operation_id)
        assert [row.status for row in (await rows(engine))["volume"] if row.id == volumes["c"]] == [status]
