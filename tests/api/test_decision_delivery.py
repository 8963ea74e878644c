"""The delivery of a confirm or revert: a signal to the waiting resize, or a workflow of its own if that is gone."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.service import RPCError, RPCStatusCode

from api.background import dispatcher
from domain.data.models import Operation
from domain.rules.messages import OperationInput
from domain.rules.states import Action, OperationStatus, Status
from tests.api.dispatching import UNAVAILABLE, Recorder, dispatching, make_due, until
from tests.support.rows import add_operation, add_user, add_vm, claim, read_operation

NOT_FOUND = RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b"")


class SignalRecorder(Recorder):
    """A Temporal client that also records signals; while `signal_error` is set, signals raise that."""

    def __init__(self) -> None:
        super().__init__()
        self.signals: list[tuple[str, str, OperationInput]] = []
        self.inputs: list[OperationInput] = []
        self.signal_error: Exception | None = None

    def get_workflow_handle(self, workflow_id: str) -> Any:
        """A handle that can be signaled."""
        client = self

        class Handle:
            async def signal(self, name: str, input: OperationInput, **_options: Any) -> None:
                if client.signal_error:
                    raise client.signal_error
                client.signals.append((workflow_id, name, input))

        return Handle()

    async def start_workflow(self, _workflow: str, _input: OperationInput, *, id: str, **options: Any) -> None:
        """Record the input too."""
        self.inputs.append(_input)
        await super().start_workflow(_workflow, _input, id=id, **options)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll the outbox often."""
    monkeypatch.setattr(dispatcher, "PAUSE", 0.05)


async def decide(engine: AsyncEngine, action: Action = Action.CONFIRM_RESIZE) -> tuple[Operation, Operation]:
    """A resize that waits, and the accepted decision on it; only the decision is in the outbox."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        succeeded = OperationStatus.SUCCEEDED
        resize = await add_operation(tx, vm, Action.RESIZE, status=succeeded, previous_status=Status.SHUTOFF)
        return resize, await claim(tx, vm.id, action)


@pytest.mark.parametrize(
    ("action", "signal", "about"),
    [
        (Action.CONFIRM_RESIZE, "confirm", "to m1.medium"),
        (Action.REVERT_RESIZE, "revert", "back to m1.small"),
    ],
)
async def test_a_decision_signals_the_waiting_resize(
    engine: AsyncEngine, action: Action, signal: str, about: str
) -> None:
    resize, decision = await decide(engine, action)
    client = SignalRecorder()
    async with dispatching(engine, client):
        await until(lambda: client.signals)
    [(workflow_id, name, input)] = client.signals
    assert (workflow_id, name) == (resize.workflow_id, signal)
    assert (input.operation_id, input.action, input.previous_status) == (decision.id, action, Status.SHUTOFF)
    assert (input.vm_name, input.actor, input.about) == ("test-vm", "", about)
    assert client.started == []
    assert (await read_operation(engine, decision.id)).deliveries == 1


async def test_a_decision_gets_its_own_workflow_if_the_resize_is_gone(engine: AsyncEngine) -> None:
    resize, decision = await decide(engine)
    client = SignalRecorder()
    client.signal_error = NOT_FOUND
    async with dispatching(engine, client):
        await until(lambda: client.started)
    own_id = f"confirm-resize-{decision.vm_id}-{decision.id}"
    assert client.started == [own_id]
    assert client.inputs[0].previous_status is Status.SHUTOFF
    after = await read_operation(engine, decision.id)
    assert (after.workflow_id, after.deliveries) == (own_id, 1)
    assert resize.workflow_id != own_id


async def test_the_row_names_the_own_workflow_before_it_starts(engine: AsyncEngine) -> None:
    """So a delete finds the workflow to cancel; if the start fails, it is repeated without another signal."""
    _, decision = await decide(engine)
    client = SignalRecorder()
    client.signal_error, client.error = NOT_FOUND, UNAVAILABLE
    own_id = f"confirm-resize-{decision.vm_id}-{decision.id}"
    async with dispatching(engine, client):
        await until(lambda: client.inputs)
        assert (await read_operation(engine, decision.id)).workflow_id == own_id
        client.signal_error, client.error = None, None
        await make_due(engine)
        await until(lambda: client.started)
    assert (client.started, client.signals) == ([own_id], [])


async def test_a_decision_that_began_meanwhile_gets_no_own_workflow(engine: AsyncEngine) -> None:
    """An earlier signal arrived although its answer was lost; the resize has carried it out and ended."""
    resize, decision = await decide(engine)

    class BeginsFirst(SignalRecorder):
        def get_workflow_handle(self, workflow_id: str) -> Any:
            handle = super().get_workflow_handle(workflow_id)
            signal = handle.signal

            async def begin_then_signal(*arguments: Any, **options: Any) -> None:
                async with engine.begin() as tx:
                    begun = {"status": OperationStatus.RUNNING, "started_at": Operation.created_at}
                    await tx.execute(update(Operation).where(Operation.id == decision.id).values(begun))
                self.signals.append((workflow_id, "attempted", arguments[1]))
                await signal(*arguments, **options)

            handle.signal = begin_then_signal
            return handle

    client = BeginsFirst()
    client.signal_error = NOT_FOUND
    async with dispatching(engine, client):
        await until(lambda: client.signals)
    assert client.started == []
    after = await read_operation(engine, decision.id)
    assert (after.deliveries, after.workflow_id) == (1, resize.workflow_id)


async def test_a_signal_that_fails_is_sent_again_and_starts_no_workflow(engine: AsyncEngine) -> None:
    _, decision = await decide(engine)
    client = SignalRecorder()
    client.signal_error = UNAVAILABLE
    async with dispatching(engine, client):
        await asyncio.sleep(0.1)
        client.signal_error = None
        await make_due(engine)
        await until(lambda: client.signals)
    assert client.started == []
    assert client.signals[0][2].operation_id == decision.id
