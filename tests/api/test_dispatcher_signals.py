"""Operations that another workflow waits for: signalled, and given a workflow of their own where it is gone."""

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
from tests.api.test_dispatcher import Recorder, dispatching, make_due, until
from tests.support.rows import add_operation, add_user, add_vm, claim, read_operation

GONE = RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b"")
AWAY = RPCError("nobody is there", RPCStatusCode.UNAVAILABLE, b"")


class Waiting(Recorder):
    """A Temporal client whose workflows can be signalled; while `refusal` is set they refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.signalled: list[tuple[str, str, OperationInput]] = []
        self.inputs: list[OperationInput] = []
        self.refusal: Exception | None = None

    def get_workflow_handle(self, workflow_id: str) -> Any:
        """Something that can be signalled."""
        client = self

        class Handle:
            async def signal(self, name: str, input: OperationInput, **_options: Any) -> None:
                if client.refusal:
                    raise client.refusal
                client.signalled.append((workflow_id, name, input))

        return Handle()

    async def start_workflow(self, _workflow: str, _input: OperationInput, *, id: str, **options: Any) -> None:
        """Remember the input too."""
        self.inputs.append(_input)
        await super().start_workflow(_workflow, _input, id=id, **options)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again soon."""
    monkeypatch.setattr(dispatcher, "PAUSE", 0.05)


async def decided(engine: AsyncEngine, action: Action = Action.CONFIRM_RESIZE) -> tuple[Operation, Operation]:
    """A resize that waits, and the decision that was accepted; only the latter is in the outbox."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx), status=Status.VERIFY_RESIZE)
        done = OperationStatus.SUCCEEDED
        resize = await add_operation(tx, vm, Action.RESIZE, status=done, previous_status=Status.SHUTOFF)
        return resize, await claim(tx, vm.id, action)


@pytest.mark.parametrize(
    ("action", "signal", "about"),
    [
        (Action.CONFIRM_RESIZE, "confirm", "to m1.medium"),
        (Action.REVERT_RESIZE, "revert", "back to m1.small"),
    ],
)
async def test_the_resize_that_waits_is_signalled(engine: AsyncEngine, action: Action, signal: str, about: str) -> None:
    resize, decision = await decided(engine, action)
    client = Waiting()
    async with dispatching(engine, client):
        await until(lambda: client.signalled)
    [(workflow_id, name, input)] = client.signalled
    assert (workflow_id, name) == (resize.workflow_id, signal)
    assert (input.operation_id, input.action, input.previous_status) == (decision.id, action, Status.SHUTOFF)
    assert (input.vm_name, input.actor, input.about) == ("test-vm", "test", about)
    assert client.started == []
    assert (await read_operation(engine, decision.id)).deliveries == 1


async def test_where_the_resize_is_gone_a_workflow_of_its_own_is_started(engine: AsyncEngine) -> None:
    resize, decision = await decided(engine)
    client = Waiting()
    client.refusal = GONE
    async with dispatching(engine, client):
        await until(lambda: client.started)
    own = f"confirm-resize-{decision.vm_id}-{decision.id}"
    assert client.started == [own]
    assert client.inputs[0].previous_status is Status.SHUTOFF
    rerouted = await read_operation(engine, decision.id)
    assert (rerouted.workflow_id, rerouted.deliveries) == (own, 1)
    assert resize.workflow_id != own


async def test_its_row_names_the_workflow_before_it_is_started(engine: AsyncEngine) -> None:
    """Else a delete at that moment would not find what to cancel; a start that fails is repeated without a signal."""
    _, decision = await decided(engine)
    client = Waiting()
    client.refusal, client.error = GONE, AWAY
    own = f"confirm-resize-{decision.vm_id}-{decision.id}"
    async with dispatching(engine, client):
        await until(lambda: client.inputs)
        assert (await read_operation(engine, decision.id)).workflow_id == own
        client.refusal, client.error = None, None
        await make_due(engine)
        await until(lambda: client.started)
    assert (client.started, client.signalled) == ([own], [])


async def test_a_decision_that_was_received_meanwhile_gets_no_workflow_of_its_own(engine: AsyncEngine) -> None:
    """The signal arrived though its answer was lost, and the resize has carried it out and ended."""
    resize, decision = await decided(engine)

    class Slow(Waiting):
        def get_workflow_handle(self, workflow_id: str) -> Any:
            handle = super().get_workflow_handle(workflow_id)
            signal = handle.signal

            async def receive_then_refuse(*arguments: Any, **options: Any) -> None:
                async with engine.begin() as tx:
                    begun = {"status": OperationStatus.RUNNING, "started_at": Operation.created_at}
                    await tx.execute(update(Operation).where(Operation.id == decision.id).values(begun))
                await signal(*arguments, **options)

            handle.signal = receive_then_refuse
            return handle

    client = Slow()
    client.refusal = GONE
    async with dispatching(engine, client):
        await until_delivered_to(engine, decision)
    assert client.started == []
    assert (await read_operation(engine, decision.id)).workflow_id == resize.workflow_id


async def until_delivered_to(engine: AsyncEngine, decision: Operation) -> None:
    """Wait until the decision counts as delivered."""
    async with asyncio.timeout(10):
        while (await read_operation(engine, decision.id)).deliveries < 1:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def test_a_signal_that_fails_is_sent_again_and_starts_nothing(engine: AsyncEngine) -> None:
    _, decision = await decided(engine)
    client = Waiting()
    client.refusal = AWAY
    async with dispatching(engine, client):
        await asyncio.sleep(0.1)
        client.refusal = None
        await make_due(engine)
        await until(lambda: client.signalled)
    assert client.started == []
    assert client.signalled[0][2].operation_id == decision.id
