"""What somebody does to a server with another tool: the VM follows, and an operation records it."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import servers
from activities.preemption import PreemptionActivities
from activities.recovery.reconciler import Reconciler
from domain.commands.acceptance import Requester
from domain.commands.resize_decisions import decide_resize
from domain.data import queries
from domain.data.models import VM
from domain.data.parameters import Resize, parameters_of
from domain.progress import outbox
from domain.rules.cloud import ServerStatus
from domain.rules.states import Action, OperationStatus, Status
from domain.upkeep.findings import ACTOR, Drift
from tests.activities.conftest import Run
from tests.activities.drift import add_idle_vm, change_cloud, recorded_findings, recorded_repairs
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS, add_snapshot, claim, message, read_operation, read_vm

MEDIUM = {"vcpus": 2, "ram_mb": 4096, "disk_gb": 40}


async def compare_twice(reconciler: Reconciler) -> None:
    """Let a difference be found and repaired."""
    for _ in range(2):
        await reconciler.reconcile()


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.SHUTOFF])
@pytest.mark.parametrize(("size", "flavor"), [(MEDIUM, "m1.medium"), ({}, "m1.small")], ids=["resized", "migrated"])
async def test_a_resize_by_somebody_else_waits_for_its_decision(  # noqa: PLR0913, PLR0917
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    status: Status,
    size: dict[str, int],
    flavor: str,
) -> None:
    vm = await add_idle_vm(engine, backend, status)
    await change_cloud(engine, servers, status=ServerStatus.VERIFY_RESIZE, **size)
    await compare_twice(reconciler)
    after = await read_vm(engine, vm.id)
    assert (after.status, after.flavor_id, after.confirm_by) == (Status.VERIFY_RESIZE, FLAVOR_IDS[flavor], None)
    resize = await read_operation(engine, after.operation_id)
    assert (resize.action, resize.status, resize.actor, resize.previous_status) == (
        Action.RESIZE,
        OperationStatus.SUCCEEDED,
        ACTOR,
        status,
    )
    asked = parameters_of(resize, Resize)
    assert (asked.flavor, asked.previous_flavor) == (flavor, "m1.small")
    assert await recorded_findings(engine) == [(Drift.RESIZED, vm.id, False)]
    await compare_twice(reconciler)
    assert await read_vm(engine, vm.id) == after


@pytest.mark.parametrize("action", [Action.CONFIRM_RESIZE, Action.REVERT_RESIZE])
async def test_the_decision_on_a_resize_by_somebody_else_gets_a_workflow_of_its_own(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, action: Action
) -> None:
    vm = await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, status=ServerStatus.VERIFY_RESIZE, **MEDIUM)
    await compare_twice(reconciler)
    async with engine.begin() as tx:
        accepted = await decide_resize(tx, Requester(vm.owner_id, "ada", "request"), vm.id, action)
        decision = await queries.get_operation(tx, accepted.operation_id)
    assert decision.workflow_id == outbox.workflow_of(decision)
    assert decision.previous_status is Status.ACTIVE


async def test_a_delete_looks_for_no_workflow_of_a_resize_by_somebody_else(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, temporal: Client, run: Run
) -> None:
    vm = await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, status=ServerStatus.VERIFY_RESIZE, **MEDIUM)
    await compare_twice(reconciler)
    async with engine.begin() as tx:
        delete = await claim(tx, vm.id, Action.DELETE)
    assert await run(PreemptionActivities(engine, backend, temporal).preempt_operations, message(delete)) == []


async def test_a_resize_to_an_unknown_size_is_only_reported(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm = await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, status=ServerStatus.VERIFY_RESIZE, vcpus=63)
    await compare_twice(reconciler)
    assert await recorded_findings(engine) == [(Drift.RESIZED, vm.id, True)]
    assert await read_vm(engine, vm.id) == vm


@pytest.mark.parametrize(
    ("values", "kind", "column", "becomes"),
    [
        (MEDIUM, Drift.SERVER_SIZE, "flavor_id", FLAVOR_IDS["m1.medium"]),
        ({"image_id": IMAGE_IDS["ubuntu-24.04"]}, Drift.SERVER_IMAGE, "image_id", IMAGE_IDS["ubuntu-24.04"]),
    ],
    ids=["a resize that is confirmed already", "a rebuild"],
)
async def test_the_vm_adopts_flavor_and_image_of_its_server(  # noqa: PLR0913, PLR0917
    engine: AsyncEngine,
    backend: MockBackend,
    reconciler: Reconciler,
    values: dict[str, Any],
    kind: Drift,
    column: str,
    becomes: UUID,
) -> None:
    vm = await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, **values)
    await compare_twice(reconciler)
    after = await read_vm(engine, vm.id)
    assert (after.status, getattr(after, column)) == (Status.ACTIVE, becomes)
    (repair,) = await recorded_repairs(engine)
    assert (repair.id, repair.input["because"]) == (after.operation_id, kind)
    assert await recorded_findings(engine) == [(kind, vm.id, False)]


async def test_a_server_with_the_image_of_a_snapshot_was_restored_by_us(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm = await add_idle_vm(engine, backend)
    async with engine.begin() as tx:
        snapshot = await add_snapshot(tx, vm, cloud_id=str(uuid4()))
        await tx.execute(update(servers).values(image_id=UUID(snapshot.cloud_id)))
    await reconciler.reconcile()
    assert Drift.SERVER_IMAGE not in {kind for kind, _, _ in await recorded_findings(engine)}


@pytest.mark.parametrize("back", [ServerStatus.ACTIVE, ServerStatus.SHUTOFF])
async def test_a_vm_leaves_error_with_its_server_if_the_server_alone_put_it_there(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, back: ServerStatus
) -> None:
    vm = await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, status=ServerStatus.ERROR, fault="The host burned.")
    await compare_twice(reconciler)
    failed = await read_vm(engine, vm.id)
    assert failed.status is Status.ERROR
    assert "The host burned." in (failed.fault or {})["message"]
    await change_cloud(engine, servers, status=back, fault=None)
    await compare_twice(reconciler)
    after = await read_vm(engine, vm.id)
    assert (after.status, after.fault) == (Status(back), None)


async def test_a_vm_in_error_after_a_failed_operation_waits_for_a_person(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler
) -> None:
    vm = await add_idle_vm(engine, backend, Status.ERROR)
    await compare_twice(reconciler)
    assert await recorded_findings(engine) == [(Drift.SERVER_STATUS, vm.id, True)]
    assert await read_vm(engine, vm.id) == vm


async def test_a_server_that_changes_again_is_left_to_the_next_comparison(
    engine: AsyncEngine, backend: MockBackend, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm: VM = await add_idle_vm(engine, backend)
    await change_cloud(engine, servers, status=ServerStatus.SHUTOFF)
    await reconciler.reconcile()
    repair = reconciler._repairs.repair

    async def start_and_repair(*arguments: Any) -> str | None:
        await change_cloud(engine, servers, status=ServerStatus.ACTIVE)
        return await repair(*arguments)

    monkeypatch.setattr(reconciler._repairs, "repair", start_and_repair)
    await reconciler.reconcile()
    assert await read_vm(engine, vm.id) == vm
