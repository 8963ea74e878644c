"""Everybody decides on a resize at the same moment: one wins, and the others are told so.

Few of each race run with the tests; `make races` runs fifty of each and says who won.
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
from tests.support.stack import Stack, User, log_in
from tests.support.truth import differences

MANY = 10
RACES = int(os.environ.get("RACES", "2"))
pytestmark = pytest.mark.timeout(600 + 30 * RACES)
WINDOW = 6  # seconds
AT_ONCE = 16  # VMs
AROUND = (-0.3, 0.7)  # seconds from `confirm_by`, between which decisions meet the timer

CONTESTS = {
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
    """A quick stack that confirms resizes by itself."""
    quick = {"MOCK_BUILD_DELAY": "0.1", "MOCK_RESIZE_DELAY": "0.3", "MOCK_DELETE_DELAY": "0.1"}
    stack = Stack.at(tmp_path_factory.mktemp("racing"), RESIZE_CONFIRM_WINDOW=str(WINDOW), **quick)
    stack.start()
    yield stack
    stack.stop()


async def test_one_decision_wins(racing: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    winners: dict[str, Counter[str]] = {contest: Counter() for contest in CONTESTS}
    track = asyncio.Semaphore(AT_ONCE)
    async with log_in(racing, poll_every=0.2) as user:

        async def run(contest: str) -> None:
            async with track:
                winners[contest][await race(user, contest)] += 1

        await asyncio.gather(*(run(contest) for _ in range(RACES) for contest in CONTESTS))
    assert await differences(racing) == []
    with capsys.disabled():
        lines = [f"{contest}: {dict(won.most_common())}" for contest, won in winners.items()]
        sys.stdout.write("\n".join(["", *lines, ""]))


async def race(user: User, contest: str) -> str:
    """Let everybody decide on one VM's resize at once; returns who won."""
    words, against_time = CONTESTS[contest]
    vm = await user.resized(contest)
    small, large = (await user.flavors())[:2]
    if against_time:
        begins_in = (datetime.fromisoformat(vm["confirm_by"]) - datetime.now(UTC)).total_seconds()
        await asyncio.sleep(max(begins_in + random.uniform(*AROUND), 0))
    answers = await asyncio.gather(*(decide(user, vm["id"], word) for word in random.sample(words, len(words))))
    vm = await user.until(vm["id"], "DELETED" if "delete" in words else "ACTIVE", "ERROR")
    operations = (await user.read(f"/vms/{vm['id']}/operations"))["items"]
    decided = [one for one in operations if one["action"] in {"confirm-resize", "revert-resize"}]
    assert len(decided) == 1 or (not decided and "delete" in words), f"{contest}: {operations}"
    accepted = answers.count(202)
    assert accepted == sum(one["actor"] != "@confirm-window" for one in decided)
    assert set(answers) <= {202, 204, 409}
    if "delete" in words:
        assert (vm["status"], operations[0]["action"], operations[0]["status"]) == ("DELETED", "delete", "SUCCEEDED")
        assert {one["status"] for one in decided} <= {"SUCCEEDED", "SUPERSEDED"}
        return f"{name_of(decided[0])} before delete" if decided else "delete"
    kept = small if decided[0]["action"] == "revert-resize" else large
    assert (vm["status"], vm["flavor_id"], decided[0]["status"]) == ("ACTIVE", kept, "SUCCEEDED")
    return name_of(decided[0])


def name_of(decided: dict[str, Any]) -> str:
    """Who an operation is of."""
    return "timer" if decided["actor"] == "@confirm-window" else str(decided["action"])


async def decide(user: User, vm_id: str, word: str) -> int:
    """The status code of the answer to a decision."""
    if word == "delete":
        return (await user.http.delete(f"/vms/{vm_id}", timeout=30)).status_code
    return (await user.http.post(f"/vms/{vm_id}/actions/{word}", timeout=30)).status_code


async def test_signals_that_come_twice_early_or_late_change_nothing(stack: Stack) -> None:
    temporal, track = await stack.temporal(), asyncio.Semaphore(AT_ONCE)
    async with log_in(stack, poll_every=0.2) as user:

        async def run(how: str) -> str:
            async with track:
                return await signalled(user, temporal, how)

        flavors = await asyncio.gather(*(run(how) for how in ("twice", "early", "late") for _ in range(RACES)))
        assert set(flavors) == {(await user.flavors())[0]}
    assert await differences(stack) == []


async def signalled(user: User, temporal: Client, how: str) -> str:
    """Revert a resize whose signals come as `how` says; returns the flavor of the VM when it rests."""
    vm_id = (await user.create(how))["id"]
    await user.until(vm_id, "ACTIVE")
    resize = await user.act(vm_id, "resize", flavor_id=(await user.flavors())[1])
    waiting = temporal.get_workflow_handle(resize["workflow_id"])
    await user.until(vm_id, task_state="resize_migrating")
    if how == "early":
        await waiting.signal("confirm", decision(uuid4(), vm_id, Action.CONFIRM_RESIZE))
    await user.until(vm_id, "VERIFY_RESIZE")
    revert = decision(UUID((await user.act(vm_id, "revert-resize"))["id"]), vm_id, Action.REVERT_RESIZE)
    if how == "twice":
        await waiting.signal("revert", revert)
    vm = await user.until(vm_id, "ACTIVE", "ERROR")
    await waiting.result()
    if how == "late":
        with pytest.raises(RPCError) as refused:
            await waiting.signal("revert", revert)
        assert refused.value.status is RPCStatusCode.NOT_FOUND
    return str(vm["flavor_id"])


def decision(operation_id: UUID, vm_id: str, action: Action) -> OperationInput:
    """The input of a signal."""
    return OperationInput(operation_id, UUID(vm_id), action, previous_status=Status.ACTIVE)


UNDELIVERED = "SELECT id FROM operations WHERE deliveries = 0 AND id = ANY($1::uuid[])"
UNBEGUN = "SELECT id FROM operations WHERE status = 'QUEUED' AND id = ANY($1::uuid[])"
REDELIVERED = "SELECT id FROM operations WHERE delivered_at > created_at + interval '10 s' AND id = ANY($1::uuid[])"
HANG = "INSERT INTO mock_cloud.faults (verb, mode) VALUES ('revert_server_resize', 'never-answer')"


@pytest.mark.skipif(RACES < MANY, reason="takes a minute: make races")
@pytest.mark.parametrize("begun", [False, True])
async def test_signals_that_are_lost_are_sent_again(stack: Stack, *, begun: bool) -> None:
    async with log_in(stack, poll_every=0.2) as user:
        vms = await asyncio.gather(*(user.resized(f"lost-{number}") for number in range(RACES)))
        if begun:  # and stay so
            await stack.sql(HANG)
        else:
            stack.kill("worker", signal.SIGSTOP)
        reverts = await asyncio.gather(*(user.act(vm["id"], "revert-resize") for vm in vms))
        while await stack.sql(UNBEGUN if begun else UNDELIVERED, ids(reverts)):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.2)
        temporal = await stack.temporal()
        await asyncio.gather(*(forget_signals(temporal, revert["workflow_id"]) for revert in reverts))
        await stack.sql("DELETE FROM mock_cloud.faults")
        stack.kill("worker", signal.SIGCONT)
        for vm in vms:
            assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["flavor_id"] == (await user.flavors())[0]
    redelivered = await stack.sql(REDELIVERED, ids(reverts))  # what has begun its resize is told without the outbox
    assert len(redelivered) == (0 if begun else RACES)
    assert await differences(stack) == []


def ids(operations: list[dict[str, Any]]) -> list[str]:
    return [operation["id"] for operation in operations]


async def forget_signals(temporal: Client, workflow_id: str) -> None:
    """Set a workflow that waits to be decided back to when it did not know how, without the signals since then."""
    history = await temporal.get_workflow_handle(workflow_id).fetch_history()
    told = next(e.event_id for e in history.events if e.event_type is EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
    done = (e.event_id for e in history.events if e.event_type is EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    last = max(id for id in done if id < told)
    await temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=temporal.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            reason="a signal is lost",
            workflow_task_finish_event_id=last,
            request_id=str(uuid4()),
            reset_reapply_exclude_types=[ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL],
        )
    )
