"""Resource claims on real PostgreSQL: operations claim rows when accepted and settle them when they end."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Volume
from domain.progress import resource_claims
from domain.rules.errors import InvalidTransitionError, SupersededError
from domain.rules.resources import VolumeStatus
from domain.rules.states import Action, OperationStatus, Status
from tests.domain.claims import accept_on_new_vm, all_vms, end, go_through, rows, shown
from tests.domain.specified import CHANGES, OF_NO_VM, SPECIFIED
from tests.support.rows import (
    FLAVOR_IDS,
    IMAGE_IDS,
    add_snapshot,
    add_user,
    add_vm,
    add_volume,
    claim,
    message,
    read_operation,
    read_vm,
)

WITH_CHANGES = [Action(action) for action in CHANGES]
each_action = pytest.mark.parametrize("action", WITH_CHANGES)
each_ending = pytest.mark.parametrize("well", [True, False], ids=["finish", "fail"])
WITHOUT_STEPS = [action for action in WITH_CHANGES if not SPECIFIED[action].task_states]


@each_action
async def test_an_accepted_action_claims_its_resources(engine: AsyncEngine, action: Action) -> None:
    input = await accept_on_new_vm(engine, action)
    assert await shown(engine) == {kind: [expected.while_running] for kind, expected in CHANGES[action].items()}
    assert {row.operation_id for found in (await rows(engine)).values() for row in found} == {input.operation_id}


@each_ending
@each_action
async def test_an_end_settles_the_claims_as_specified(engine: AsyncEngine, action: Action, *, well: bool) -> None:
    input = await accept_on_new_vm(engine, action)
    await go_through(engine, input)
    assert await shown(engine) == {kind: [expected.while_running] for kind, expected in CHANGES[action].items()}
    await end(engine, input, well=well)
    ends = {kind: row.resolved(row.ends if well else row.failure) for kind, row in CHANGES[action].items()}
    assert await shown(engine) == {kind: [status] for kind, status in ends.items() if status}
    operation = await read_operation(engine, input.operation_id)
    assert operation.status is (OperationStatus.SUCCEEDED if well else OperationStatus.FAILED)


@each_ending
@each_action
async def test_recording_an_end_again_changes_nothing(engine: AsyncEngine, action: Action, *, well: bool) -> None:
    input = await accept_on_new_vm(engine, action)
    await go_through(engine, input)
    await end(engine, input, well=well)
    before = await rows(engine), await all_vms(engine), await read_operation(engine, input.operation_id)
    await end(engine, input, well=well)
    with pytest.raises(SupersededError):
        await end(engine, input, well=not well)
    assert (await rows(engine), await all_vms(engine), await read_operation(engine, input.operation_id)) == before


@each_ending
@pytest.mark.parametrize("action", WITHOUT_STEPS)
async def test_an_action_without_steps_never_changes_the_state_of_the_vm(
    engine: AsyncEngine, action: Action, *, well: bool
) -> None:
    input = await accept_on_new_vm(engine, action)
    counted = 0 if action in OF_NO_VM else 1
    assert await all_vms(engine) == [(Status.ACTIVE, None, counted)]
    assert (await read_operation(engine, input.operation_id)).previous_status is None
    await go_through(engine, input)
    assert await all_vms(engine) == [(Status.ACTIVE, None, counted)]
    await end(engine, input, well=well)
    assert await all_vms(engine) == [(Status.ACTIVE, None, 0)]


@each_ending
@pytest.mark.parametrize("action", [action for action in WITHOUT_STEPS if "interface" not in CHANGES[action]])
async def test_two_operations_of_the_same_action_settle_only_their_own_claims(
    engine: AsyncEngine, action: Action, *, well: bool
) -> None:
    first, second = await accept_on_new_vm(engine, action), await accept_on_new_vm(engine, action)
    for input in (first, second):
        await go_through(engine, input)
    await end(engine, first, well=well)
    held = {row.operation_id: row.status for found in (await rows(engine)).values() for row in found}
    assert held[second.operation_id] == next(iter(CHANGES[action].values())).while_running
    await end(engine, second, well=not well)
    expected = CHANGES[action]
    left = {kind: sorted(filter(None, (row.resolved(row.ends), row.failure))) for kind, row in expected.items()}
    assert {kind: sorted(statuses) for kind, statuses in (await shown(engine)).items()} == left


@pytest.mark.parametrize("status", sorted(set(VolumeStatus) - {VolumeStatus.AVAILABLE, VolumeStatus.ERROR}))
async def test_a_refused_claim_changes_nothing(engine: AsyncEngine, status: VolumeStatus) -> None:
    async with engine.begin() as tx:
        volume = await add_volume(tx, await add_user(tx), status=status)
        with pytest.raises(InvalidTransitionError):
            await resource_claims.claim(tx, Volume, volume, Action.DELETE_VOLUME, volume.id)
    assert (await rows(engine))["volume"] == [volume]


async def test_a_restore_sets_the_flavor_and_image_of_the_snapshot(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user, flavor_id=FLAVOR_IDS["m1.large"], image_id=IMAGE_IDS["debian-12"])
        await add_snapshot(tx, vm)
        restore = await claim(tx, vm.id, Action.RESTORE)
    await end(engine, message(restore), well=True)
    put_back = await read_vm(engine, vm.id)
    assert (put_back.flavor_id, put_back.image_id) == (FLAVOR_IDS["m1.small"], IMAGE_IDS["cirros-0.6.3"])
