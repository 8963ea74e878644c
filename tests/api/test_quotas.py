"""Quotas of projects: what is asked for is refused beyond them, and what is gone is given back once."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.commands.quotas import set_quotas
from domain.data.models import VM, Interface, Operation, Snapshot, Volume
from domain.data.quotas import ProjectUsage
from domain.rules.quotas import Quota
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status
from domain.upkeep import usage
from tests.api.conftest import FLAVOR, Person
from tests.api.projects import project_of
from tests.api.vm_resources import vm_of, volume_of
from tests.support.rows import FLAVOR_IDS, NETWORK_IDS, add_interface, note_vms_changed
from tests.support.waiting import wait_until_blocked

AT_ONCE = 64
SMALL = {"vcpus": 1, "ram_mb": 2048}  # m1.small
VM_BODY = {"name": "web-1", "flavor_id": FLAVOR, "network_ids": []}


async def limit(engine: AsyncEngine, project: UUID, **limits: int | None) -> None:
    """Set limits of a project."""
    async with engine.begin() as tx:
        await set_quotas(tx, project, {Quota(name): number for name, number in limits.items()})


async def used(someone: Person, project: UUID | None = None) -> dict[str, int]:
    """What the project uses, as GET /quotas shows it."""
    answer = await someone.http.get("/quotas", params={"project_id": str(project)} if project else {})
    assert answer.status_code == 200, answer.text
    return {quota: answer.json()[quota]["used"] for quota in Quota}


async def check_counts(engine: AsyncEngine) -> None:
    """Check that the triggers have counted what there is."""
    async with engine.connect() as connection:
        assert await usage.find_wrong(connection) == []


async def all_at_once(someone: Person, path: str, bodies: list[Any]) -> list[httpx.Response]:
    """The answers to POSTs that are sent at the same time, a few of which at once are in the service."""
    turns = asyncio.Semaphore(16)

    async def post(body: Any) -> httpx.Response:
        async with turns:
            return await someone.http.post(path, json=body)

    return await asyncio.gather(*map(post, bodies))


EDGES: dict[str, tuple[str, dict[str, Any], int]] = {
    Quota.VMS: ("/vms", VM_BODY, 5),
    Quota.VCPUS: ("/vms", VM_BODY, 5 * SMALL["vcpus"]),
    Quota.RAM_MB: ("/vms", VM_BODY, 5 * SMALL["ram_mb"]),
    Quota.VOLUMES: ("/volumes", {"name": "data", "size_gb": 2}, 5),
    Quota.VOLUME_GB: ("/volumes", {"name": "data", "size_gb": 2}, 10),
    Quota.ADDRESSES_PER_NETWORK: ("/vms", VM_BODY | {"network_ids": [str(NETWORK_IDS["private"])]}, 5),
    Quota.OPEN_OPERATIONS: ("/volumes", {"name": "data", "size_gb": 2}, 5),
}


@pytest.mark.parametrize("quota", EDGES)
async def test_of_many_requests_at_once_exactly_as_many_are_accepted_as_the_quota_allows(
    ada: Person, engine: AsyncEngine, quota: str
) -> None:
    path, body, allowed = EDGES[quota]
    await limit(engine, ada.user.id, **{quota: allowed})
    answers = await all_at_once(ada, path, [body] * AT_ONCE)
    assert Counter(answer.status_code for answer in answers) == {202: 5, 403: AT_ONCE - 5}
    problem = next(answer.json() for answer in answers if answer.status_code == 403)
    share = allowed // 5
    assert (problem["code"], problem["quota"], problem["limit"]) == ("quota_exceeded", quota, allowed)
    assert problem["used"] == allowed
    assert f"{quota} is {allowed}, and {allowed} are in use" in problem["detail"]
    assert (await used(ada))[quota] == allowed == 5 * share
    await check_counts(engine)


async def test_snapshots_are_limited(ada: Person, engine: AsyncEngine) -> None:
    await limit(engine, ada.user.id, snapshots=2)
    vms = [await vm_of(ada, engine) for _ in range(8)]
    answers = await asyncio.gather(*(ada.http.post(f"/vms/{vm.id}/snapshots", json={"name": "s"}) for vm in vms))
    assert Counter(answer.status_code for answer in answers) == {202: 2, 403: 6}
    assert (await used(ada))[Quota.SNAPSHOTS] == 2
    await check_counts(engine)


async def test_a_batch_counts_as_a_whole(ada: Person, engine: AsyncEngine) -> None:
    await limit(engine, ada.user.id, vms=5)
    assert (await ada.http.post("/vms/batch", json={"vms": [VM_BODY] * 3})).status_code == 202
    answer = await ada.http.post("/vms/batch", json={"vms": [VM_BODY] * 3})
    assert answer.status_code == 403
    assert (await used(ada))[Quota.VMS] == 3
    assert (await ada.http.post("/vms/batch", json={"vms": [VM_BODY] * 2})).status_code == 202


async def test_a_trial_meets_the_quota(ada: Person, engine: AsyncEngine) -> None:
    await limit(engine, ada.user.id, vms=1)
    trial = await ada.http.post("/vms?validate_only=true", json=VM_BODY)
    assert trial.json() == {"valid": True}
    await ada.http.post("/vms", json=VM_BODY)
    assert (await ada.http.post("/vms?validate_only=true", json=VM_BODY)).json()["code"] == "quota_exceeded"


async def test_a_refused_request_with_a_key_can_be_repeated(ada: Person, engine: AsyncEngine) -> None:
    await limit(engine, ada.user.id, vms=1)
    await ada.http.post("/vms", json=VM_BODY)
    headers = {"Idempotency-Key": "again"}
    assert (await ada.http.post("/vms", json=VM_BODY, headers=headers)).status_code == 403
    await limit(engine, ada.user.id, vms=2)
    assert (await ada.http.post("/vms", json=VM_BODY, headers=headers)).status_code == 202


async def test_during_a_resize_the_larger_flavor_counts(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    await limit(engine, ada.user.id, vcpus=1)
    resize = {"flavor": "m1.medium"}
    assert (await ada.http.post(f"/vms/{vm.id}/actions/resize", json=resize)).json()["quota"] == "vcpus"
    await limit(engine, ada.user.id, vcpus=2)
    assert (await ada.http.post(f"/vms/{vm.id}/actions/resize", json=resize)).status_code == 202
    assert (await used(ada))[Quota.VCPUS] == 2
    await check_counts(engine)
    ended = {"status": Status.ACTIVE, "task_state": None}
    async with engine.begin() as tx:  # no host was found: all is as before
        await tx.execute(update(VM).where(VM.id == vm.id).values(ended))
    assert (await used(ada))[Quota.VCPUS] == 1
    await check_counts(engine)


async def test_a_smaller_flavor_counts_once_the_resize_is_decided(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine, flavor_id=FLAVOR_IDS["m1.medium"])
    await ada.http.post(f"/vms/{vm.id}/actions/resize", json={"flavor": "m1.small"})
    waiting = {"status": Status.VERIFY_RESIZE, "task_state": None, "flavor_id": FLAVOR_IDS["m1.small"]}
    for values, vcpus in ((waiting, 2), ({"status": Status.ACTIVE}, 1)):
        async with engine.begin() as tx:
            await tx.execute(update(VM).where(VM.id == vm.id).values(values))
        assert (await used(ada))[Quota.VCPUS] == vcpus
        await check_counts(engine)


async def test_an_extension_counts_from_its_acceptance(ada: Person, engine: AsyncEngine) -> None:
    volume = await volume_of(ada, engine)  # of 10 GiB
    await limit(engine, ada.user.id, volume_gb=15)
    path = f"/volumes/{volume.id}/actions/extend"
    assert (await ada.http.post(path, json={"size_gb": 16})).json()["quota"] == "volume_gb"
    assert (await ada.http.post(path, json={"size_gb": 15})).status_code == 202
    assert (await used(ada))[Quota.VOLUME_GB] == 15
    async with engine.begin() as tx:
        await tx.execute(update(Volume).where(Volume.id == volume.id).values(status=VolumeStatus.AVAILABLE))
    assert (await used(ada))[Quota.VOLUME_GB] == 10
    await check_counts(engine)


async def test_what_is_gone_is_given_back_once(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    volume = await volume_of(ada, engine)
    async with engine.begin() as tx:
        await add_interface(tx, vm)
        await note_vms_changed(tx)
    assert await used(ada) == {
        "vms": 1,
        **SMALL,
        "volumes": 1,
        "volume_gb": volume.size_gb,
        "snapshots": 0,
        "addresses_per_network": 1,
        "open_operations": 0,
    }
    for _ in range(2):  # the second time changes nothing
        async with engine.begin() as tx:
            await tx.execute(delete(Interface))
            await tx.execute(update(VM).values(status=Status.DELETED))
            await tx.execute(update(Volume).values(status=VolumeStatus.DELETED))
        assert set((await used(ada)).values()) == {0}
    async with engine.begin() as tx:
        await tx.execute(delete(VM))
        await tx.execute(delete(Volume))
    assert set((await used(ada)).values()) == {0}
    await check_counts(engine)


async def test_what_the_service_finds_counts_but_is_never_refused(ada: Person, engine: AsyncEngine) -> None:
    await limit(engine, ada.user.id, vms=1, vcpus=1, volumes=1, addresses_per_network=1)
    first, second = await vm_of(ada, engine), await vm_of(ada, engine)
    async with engine.begin() as tx:
        await add_interface(tx, first, "10.0.0.8")
        await add_interface(tx, second, "10.0.0.9")
        await tx.execute(update(VM).where(VM.id == first.id).values(flavor_id=FLAVOR_IDS["m1.medium"]))
    await volume_of(ada, engine)
    await volume_of(ada, engine)
    counted = await used(ada)
    assert (counted["vms"], counted["vcpus"], counted["volumes"], counted["addresses_per_network"]) == (2, 3, 2, 2)
    assert (await ada.http.post("/vms", json=VM_BODY)).status_code == 403


async def test_at_the_limit_of_open_operations_one_can_still_delete(ada: Person, engine: AsyncEngine) -> None:
    await limit(engine, ada.user.id, open_operations=1)
    first, second = await vm_of(ada, engine), await vm_of(ada, engine, status=Status.SHUTOFF)
    assert (await ada.http.post(f"/vms/{first.id}/actions/reboot")).status_code == 202
    assert (await ada.http.post(f"/vms/{second.id}/actions/start")).json()["quota"] == "open_operations"
    assert (await ada.http.delete(f"/vms/{second.id}")).status_code == 204


async def test_a_limit_keeps_addresses_of_a_small_network_for_others(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    edge = VM_BODY | {"network_ids": [str(NETWORK_IDS["edge"])]}  # with 13 addresses for VMs
    await limit(engine, ada.user.id, addresses_per_network=9)
    answers = await all_at_once(ada, "/vms", [edge] * 13)
    assert Counter(answer.status_code for answer in answers) == {202: 9, 403: 4}
    assert (await bob.http.post("/vms", json=edge)).status_code == 202
    await limit(engine, ada.user.id, addresses_per_network=0)  # no limit
    answers = await all_at_once(ada, "/vms", [edge] * 4)
    assert Counter(answer.status_code for answer in answers) == {202: 3, 409: 1}


async def test_each_project_has_its_own_quotas(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    project = await project_of(ada, operator=bob)
    await limit(engine, project, vms=1)
    in_project = VM_BODY | {"project_id": str(project)}
    assert (await bob.http.post("/vms", json=in_project)).status_code == 202
    assert (await ada.http.post("/vms", json=in_project)).status_code == 403
    assert (await ada.http.post("/vms", json=VM_BODY)).status_code == 202
    assert (await used(bob, project))["vms"] == 1
    assert (await bob.http.get("/quotas", params={"project_id": str(ada.user.id)})).status_code == 404


async def test_batches_of_two_projects_in_different_orders_do_not_wait_for_each_other(ada: Person) -> None:
    other = str(await project_of(ada))
    one, two = VM_BODY, VM_BODY | {"project_id": other}
    bodies = [{"vms": pair} for pair in ([one, two], [two, one]) * 8]
    answers = await all_at_once(ada, "/vms/batch", bodies)
    assert {answer.status_code for answer in answers} == {202}
    assert (await used(ada))["vms"] == (await used(ada, UUID(other)))["vms"] == 16


async def test_a_batch_for_two_projects_locks_neither_before_its_end(ada: Person, engine: AsyncEngine) -> None:
    """Everything that ends in a project waits for the lock, in connections that all projects share."""
    other = str(await project_of(ada))
    async with engine.begin() as tx:
        await tx.execute(text("LOCK TABLE vms IN EXCLUSIVE MODE"))
        batch = asyncio.create_task(
            ada.http.post("/vms/batch", json={"vms": [VM_BODY, VM_BODY | {"project_id": other}]})
        )
        await wait_until_blocked(engine, 1)
        await tx.execute(select(ProjectUsage.project_id).with_for_update(nowait=True))
    assert (await batch).status_code == 202


async def test_wrong_counts_are_found_and_corrected(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    await vm_of(ada, engine)
    await vm_of(bob, engine)
    async with engine.begin() as tx:
        wrong = {"vms": 7, "addresses": {str(uuid4()): 1}}
        await tx.execute(update(ProjectUsage).where(ProjectUsage.project_id == ada.user.id).values(wrong))
    async with engine.begin() as tx:
        assert await usage.find_wrong(tx) == [ada.user.id]
        await usage.correct(tx, ada.user.id)
    await check_counts(engine)
    assert (await used(ada))["vms"] == 1


async def test_every_action_but_those_that_end_something_is_refused_at_the_limit(engine: AsyncEngine) -> None:
    """The trigger names the actions that are never refused. A new action must be sorted into one of the two."""
    async with engine.connect() as connection:
        source = "SELECT prosrc FROM pg_proc WHERE proname = 'count_operation'"
        definition = str(await connection.scalar(text(source)))
    never = {action for action in Action if f"'{action}'" in definition}
    assert never == {
        *(Action.DELETE, Action.DELETE_SNAPSHOT, Action.DELETE_VOLUME, Action.DETACH_VOLUME, Action.DETACH_INTERFACE),
        *(Action.STOP, Action.CONFIRM_RESIZE, Action.REVERT_RESIZE),
    }


async def test_snapshots_that_are_deleted_give_back(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    await ada.http.post(f"/vms/{vm.id}/snapshots", json={"name": "s"})
    async with engine.begin() as tx:
        await tx.execute(update(Snapshot).values(status=SnapshotStatus.DELETED))
        assert await tx.scalar(select(func.count()).select_from(Operation)) == 1
    assert (await used(ada))[Quota.SNAPSHOTS] == 0
    await check_counts(engine)
