"""The start of a workflow on a real Temporal server: what a person reads there, and what it is found by."""

from datetime import timedelta
from typing import get_args
from uuid import uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus

from api.background import dispatcher, workflow_start
from domain import search_attributes
from domain.data.projects import Project
from domain.progress import outbox
from domain.rules.states import Action, OperationStatus
from domain.search_attributes import Names
from tests.api.dispatching import dispatching, until_delivered
from tests.support.rows import add_operation, add_user, add_vm


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll the outbox often."""
    monkeypatch.setattr(dispatcher, "PAUSE", 0.05)


def test_a_start_that_hangs_ends_before_its_lease() -> None:
    assert timedelta(0) < workflow_start.RPC_TIMEOUT < timedelta(seconds=dispatcher.LEASE)


async def test_markdown_in_a_vm_name_has_no_effect_in_the_summary(engine: AsyncEngine, temporal: Client) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), name="[pay](http://evil.example) `<b>` **now**")
        operation = await add_operation(tx, vm, Action.STOP, status=OperationStatus.QUEUED)
    async with dispatching(engine, temporal, f"no-worker-{uuid4()}"):
        await until_delivered(engine)
    workflow = await temporal.get_workflow_handle(operation.workflow_id).describe()
    assert await workflow.static_summary() == "stop VM `[pay](http://evil.example) '<b>' **now**`"


@pytest.mark.parametrize("names", get_args(Names))
async def test_a_workflow_has_memo_summary_details_and_search_attributes(
    engine: AsyncEngine, temporal: Client, names: Names
) -> None:
    """Only the setting `all` gives Temporal the names of users."""
    async with engine.begin() as tx:
        user = await add_user(tx, "zora.user")
        vm = await add_vm(tx, user, name="n" * 100)
        operation = await add_operation(tx, vm, Action.REBOOT_HARD, status=OperationStatus.QUEUED, actor="zora.user")
    task_queue = f"no-worker-{uuid4()}"
    async with dispatching(engine, temporal, task_queue, names):
        await until_delivered(engine)
    handle = temporal.get_workflow_handle(operation.workflow_id)
    workflow = await handle.describe()
    assert (workflow.workflow_type, workflow.task_queue) == ("RebootVM", task_queue)
    shows_users = names == "all"
    assert await workflow.memo() == {"request_id": "test-request"} | ({"actor": "zora.user"} if shows_users else {})
    summary = f"reboot VM `{'n' * 64}`"
    assert await workflow.static_summary() == (f"{summary} for `zora.user`" if shows_users else summary)
    details = await workflow.static_details() or ""
    owner = user.username if shows_users else str(user.id)
    assert all(str(value) in details for value in (vm.id, operation.id, owner, "test-request"))
    attributes = {
        pair.key.name: pair.value for pair in workflow.typed_search_attributes if pair.key in search_attributes.ALL
    }
    named = {"VM": str(vm.id), "Resource": str(vm.id), "Owner": owner, "Action": "reboot"}
    assert attributes == named | ({"VMName": "n" * 64} if names != "none" else {})
    everything = workflow.raw_description.SerializeToString()
    everything += b"".join([event.SerializeToString() async for event in handle.fetch_history_events()])
    assert (b"zora" in everything) is shows_users


@pytest.mark.parametrize("names", get_args(Names))
async def test_the_longest_names_do_not_keep_an_operation_from_temporal(
    engine: AsyncEngine, temporal: Client, names: Names
) -> None:
    """Temporal counts a search attribute in bytes of JSON, in which an emoji has twelve."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx, "u" * 64), name="😀" * 255)
        await tx.execute(update(Project).values(name="😀" * 255))
        await add_operation(tx, vm, Action.STOP, status=OperationStatus.QUEUED, actor="u" * 64)
    async with dispatching(engine, temporal, f"no-worker-{uuid4()}", names):
        await until_delivered(engine)


async def test_a_workflow_takes_the_turn_of_who_asked_for_it(engine: AsyncEngine, temporal: Client) -> None:
    """One user may have many projects, and one project many users."""
    async with engine.begin() as tx:
        asker, vm = await add_user(tx), await add_vm(tx, await add_user(tx))
        operation = await add_operation(tx, vm, Action.STOP, status=OperationStatus.QUEUED, requested_by=asker.id)
    async with dispatching(engine, temporal, f"no-worker-{uuid4()}"):
        await until_delivered(engine)
    workflow = await temporal.get_workflow_handle(operation.workflow_id).describe()
    info = workflow.raw_description.workflow_execution_info
    assert info.priority.fairness_key == str(asker.id)


async def test_a_second_delivery_does_not_start_the_workflow_again(engine: AsyncEngine, temporal: Client) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        operation = await add_operation(tx, vm, Action.REBOOT_HARD, status=OperationStatus.QUEUED)
    async with dispatching(engine, temporal, f"no-worker-{uuid4()}"):
        await until_delivered(engine)
        first = await temporal.get_workflow_handle(operation.workflow_id).describe()
        async with engine.begin() as tx:
            await outbox.deliver_again(tx, operation)
        await until_delivered(engine)
    workflow = await temporal.get_workflow_handle(operation.workflow_id).describe()
    assert workflow.run_id == first.run_id
    assert workflow.history_length <= 2


async def test_a_delivery_that_comes_after_the_end_of_the_workflow_does_not_start_it_again(
    engine: AsyncEngine, temporal: Client
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        operation = await add_operation(tx, vm, Action.REBOOT_HARD, status=OperationStatus.QUEUED)
    handle = temporal.get_workflow_handle(operation.workflow_id)
    async with dispatching(engine, temporal, f"no-worker-{uuid4()}"):
        await until_delivered(engine)
        await handle.terminate()
        async with engine.begin() as tx:
            await outbox.deliver_again(tx, operation)
        await until_delivered(engine)
    assert (await handle.describe()).status is WorkflowExecutionStatus.TERMINATED
