"""Concurrent decisions about a resize: exactly one is carried out, and the other requests are refused.

The tests run a few of each race; `make races` runs fifty of each and prints the winners.
"""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from domain.rules.messages import OperationInput
from domain.rules.states import Action, Status
from tests.support.stack import Stack
from tests.support.truth import differences
from tests.support.users import DEADLINE_WITH_FAULTS, User, log_in
from tests.support.waiting import poll

MANY = 10  # races from which on the slow tests run
REPETITIONS = int(os.environ.get("RACES", "2"))
pytestmark = pytest.mark.timeout(600 + 30 * REPETITIONS)
CONFIRM_WINDOW = 6  # seconds
CONCURRENT = 16  # VMs
AROUND_DEADLINE = (-0.3, 0.7)  # seconds before and after `confirm_by` between which a decision races the timer

# The requests of each race, and whether the timer of the confirm window takes part.
RACES_BY_NAME = {
    "confirm, revert": (("confirm-resize", "revert-resize"), False),
    "confirm, timer": (("confirm-resize",), True),
    "revert, timer": (("revert-resize",), True),
    "confirm, delete": (("confirm-resize", "delete"), False),
    "revert, delete": (("revert-resize", "delete"), False),
    "timer, delete": (("delete",), True),
    "confirm twice, revert twice": (("confirm-resize", "confirm-resize", "revert-resize", "revert-resize"), False),
    "confirm, revert, timer, delete": (("confirm-resize", "revert-resize", "delete"), True),
}


@pytest.fixture(scope="module")
def racing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A fast stack that confirms resizes by itself."""
    quick = {"MOCK_BUILD_DELAY": "0.1", "MOCK_RESIZE_DELAY": "0.3", "MOCK_DELETE_DELAY": "0.1"}
    stack = Stack.at(tmp_path_factory.mktemp("racing"), RESIZE_CONFIRM_WINDOW=str(CONFIRM_WINDOW), **quick)
    stack.start()
    yield stack
    stack.stop()


async def test_exactly_one_decision_is_carried_out(racing: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    winners: dict[str, Counter[str]] = {race_name: Counter() for race_name in RACES_BY_NAME}
    slots = asyncio.Semaphore(CONCURRENT)
    async with log_in(racing, poll_every=0.2) as user:

        async def run(race_name: str) -> None:
            async with slots:
                winners[race_name][await race(user, race_name)] += 1

        await asyncio.gather(*(run(race_name) for _ in range(REPETITIONS) for race_name in RACES_BY_NAME))
    assert await differences(racing) == []
    with capsys.disabled():
        lines = [f"{race_name}: {dict(won.most_common())}" for race_name, won in winners.items()]
        sys.stdout.write("\n".join(["", *lines, ""]))


async def race(user: User, race_name: str) -> str:
    """Send all requests of a race for one VM's resize at once; returns the winner."""
    decisions, with_timer = RACES_BY_NAME[race_name]
    vm = await user.create_resized(race_name)
    small, large = (await user.flavors())[:2]
    if with_timer:
        seconds_left = (datetime.fromisoformat(vm["confirm_by"]) - datetime.now(UTC)).total_seconds()
        await asyncio.sleep(max(seconds_left + random.uniform(*AROUND_DEADLINE), 0))
    answers = await asyncio.gather(
        *(decide(user, vm["id"], decision) for decision in random.sample(decisions, len(decisions)))
    )
    vm = await user.until(vm["id"], "DELETED" if "delete" in decisions else "ACTIVE", "ERROR")
    operations = (await user.read(f"/vms/{vm['id']}/operations"))["items"]
    decided = [item for item in operations if item["action"] in {"confirm-resize", "revert-resize"}]
    assert len(decided) == 1 or (not decided and "delete" in decisions), f"{race_name}: {operations}"
    accepted = answers.count(202)
    assert accepted == sum(operation["actor"] != "@confirm-window" for operation in decided)
    assert set(answers) <= {202, 204, 409}
    if "delete" in decisions:
        assert (vm["status"], operations[0]["action"], operations[0]["status"]) == ("DELETED", "delete", "SUCCEEDED")
        assert {operation["status"] for operation in decided} <= {"SUCCEEDED", "SUPERSEDED"}
        return f"{winner_of(decided[0])} before delete" if decided else "delete"
    kept = small if decided[0]["action"] == "revert-resize" else large
    assert (vm["status"], vm["flavor_id"], decided[0]["status"]) == ("ACTIVE", kept, "SUCCEEDED")
    return winner_of(decided[0])


def winner_of(operation: dict[str, Any]) -> str:
    """The winner of a race, by the operation that was carried out."""
    return "timer" if operation["actor"] == "@confirm-window" else str(operation["action"])


async def decide(user: User, vm_id: str, decision: str) -> int:
    """Send a decision; returns the status code of the answer."""
    if decision == "delete":
        return (await user.http.delete(f"/vms/{vm_id}", timeout=30)).status_code
    return (await user.http.post(f"/vms/{vm_id}/actions/{decision}", timeout=30)).status_code


async def test_a_signal_that_is_repeated_early_or_late_changes_nothing(stack: Stack) -> None:
    temporal, slots = await stack.temporal(), asyncio.Semaphore(CONCURRENT)
    async with log_in(stack, poll_every=0.2) as user:

        async def run(timing: str) -> str:
            async with slots:
                return await revert_with_extra_signal(user, temporal, timing)

        flavors = await asyncio.gather(
            *(run(timing) for timing in ("twice", "early", "late") for _ in range(REPETITIONS))
        )
        assert set(flavors) == {(await user.flavors())[0]}
    assert await differences(stack) == []


async def revert_with_extra_signal(user: User, temporal: Client, timing: str) -> str:
    """Revert a resize, with one more signal at another time; returns the flavor of the VM at the end."""
    vm_id = (await user.create(timing))["id"]
    await user.until(vm_id, "ACTIVE")
    resize = await user.act(vm_id, "resize", flavor_id=(await user.flavors())[1])
    waiting = temporal.get_workflow_handle(resize["workflow_id"])
    await user.until(vm_id, task_state="resize_migrating")
    if timing == "early":
        await waiting.signal("confirm", signal_input(uuid4(), vm_id, Action.CONFIRM_RESIZE))
    await user.until(vm_id, "VERIFY_RESIZE")
    revert = signal_input(UUID((await user.act(vm_id, "revert-resize"))["id"]), vm_id, Action.REVERT_RESIZE)
    if timing == "twice":
        await waiting.signal("revert", revert)
    vm = await user.until(vm_id, "ACTIVE", "ERROR")
    await waiting.result()
    if timing == "late":
        with pytest.raises(RPCError) as refused:
            await waiting.signal("revert", revert)
        assert refused.value.status is RPCStatusCode.NOT_FOUND
    return str(vm["flavor_id"])


def signal_input(operation_id: UUID, vm_id: str, action: Action) -> OperationInput:
    """The input of a signal."""
    return OperationInput(operation_id, UUID(vm_id), action, previous_status=Status.ACTIVE)


NOT_DELIVERED = "SELECT id FROM operations WHERE deliveries = 0 AND id = ANY($1::uuid[])"
NOT_STARTED = "SELECT id FROM operations WHERE status = 'QUEUED' AND id = ANY($1::uuid[])"
SENT_AGAIN = "SELECT id FROM operations WHERE signaled_run IS NOT NULL AND id = ANY($1::uuid[])"
HANG = "INSERT INTO mock_cloud.faults (verb, mode) VALUES ('revert_server_resize', 'never-answer')"


@pytest.mark.skipif(REPETITIONS < MANY, reason="takes a minute: make races")
@pytest.mark.parametrize("started", [False, True])
async def test_lost_signals_are_sent_again(stack: Stack, *, started: bool) -> None:
    async with log_in(stack, poll_every=0.2) as user:
        user.deadline = DEADLINE_WITH_FAULTS
        vms = await asyncio.gather(*(user.create_resized(f"lost-{number}") for number in range(REPETITIONS)))
        temporal = await stack.temporal()
        if started:  # and never finished, because the call to the cloud hangs
            await stack.sql(HANG)
        else:
            # While a workflow has a task, Temporal keeps signals out of its history. A stopped worker never ends one.
            resizes = await asyncio.gather(*(user.read(f"/operations/{vm['operation_id']}") for vm in vms))
            await asyncio.gather(*(until_idle(temporal, resize["workflow_id"]) for resize in resizes))
            stack.kill("worker", signal.SIGSTOP)
        reverts = await asyncio.gather(*(user.act(vm["id"], "revert-resize") for vm in vms))
        waiting = NOT_STARTED if started else NOT_DELIVERED
        await poll(lambda: stack.sql(waiting, ids(reverts)), lambda rows: not rows)
        await asyncio.gather(*(forget_signals(temporal, revert["workflow_id"]) for revert in reverts))
        await stack.sql("DELETE FROM mock_cloud.faults")
        stack.kill("worker", signal.SIGCONT)
        for vm in vms:
            assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["flavor_id"] == (await user.flavors())[0]
    assert len(await stack.sql(SENT_AGAIN, ids(reverts))) == REPETITIONS
    assert await differences(stack) == []


def ids(operations: list[dict[str, Any]]) -> list[str]:
    return [operation["id"] for operation in operations]


async def until_idle(temporal: Client, workflow_id: str) -> None:
    """Wait until a workflow has nothing to do but wait."""
    handle = temporal.get_workflow_handle(workflow_id)
    await poll(handle.describe, lambda found: not found.raw_description.HasField("pending_workflow_task"))


async def forget_signals(temporal: Client, workflow_id: str) -> None:
    """Reset a resize workflow to the task before its first signal, and drop all signals since then."""
    history = await temporal.get_workflow_handle(workflow_id).fetch_history()

    def ids_of(event_type: EventType.ValueType) -> list[int]:
        return [event.event_id for event in history.events if event.event_type == event_type]

    first_signal = ids_of(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)[0]
    last = max(id for id in ids_of(EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED) if id < first_signal)
    await temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=temporal.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            reason="lose a signal",
            workflow_task_finish_event_id=last,
            request_id=str(uuid4()),
            reset_reapply_exclude_types=[ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL],
        )
    )
