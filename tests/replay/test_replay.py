"""Every recorded history replays. A change of a workflow that running executions cannot follow fails here."""

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from domain.rules.messages import OperationInput
from domain.rules.table import TABLE
from tests.replay.record import HISTORIES, NOT_UNDONE, SUCCESS
from tests.support.sandbox import sandbox
from worker import WORKFLOWS, SignalInterceptor
from workflows.build import CreateVM

RECORDED = sorted(HISTORIES.glob("*.json"))
ENDINGS = ("succeeded", "failed", "superseded", "canceled")
OF_RESIZE = (
    *("reverted", "confirmed-unasked", "reverted-at-the-last-moment", "decided-after-nonsense"),
    *("confirm-failed", "canceled-while-waiting", "put-back"),
    *("decided-by-others", "reset-when-decided", "reset-and-told-again"),
)
OF_RESOURCES = {
    *("delete-releasing", "delete-release-failed", "restore-applied", "snapshot-not-undone"),
    "extend-volume-canceled-too-late",
    *(f"{action}-canceled-too-late" for action in SUCCESS),
    *(f"{action}-not-undone" for action in NOT_UNDONE),
}


def test_every_end_of_every_workflow_is_recorded() -> None:
    expected = {f"{action}-{ending}" for action, rule in TABLE.items() if rule.workflow for ending in ENDINGS}
    expected |= {f"resize-{ending}" for ending in OF_RESIZE}
    expected |= OF_RESOURCES
    assert expected <= {path.stem for path in RECORDED}


@pytest.mark.parametrize("name", [path.stem for path in RECORDED])
async def test_history_replays(name: str) -> None:
    history = WorkflowHistory.from_json(name, (HISTORIES / f"{name}.json").read_text())
    replayer = Replayer(workflows=WORKFLOWS, workflow_runner=sandbox(), interceptors=[SignalInterceptor()])
    await replayer.replay_workflow(history)


async def test_a_changed_workflow_does_not_replay() -> None:
    history = WorkflowHistory.from_json("changed", (HISTORIES / "create-succeeded.json").read_text())
    with pytest.raises(workflow.NondeterminismError):
        await Replayer(workflows=[ChangedCreateVM], workflow_runner=UnsandboxedWorkflowRunner()).replay_workflow(
            history
        )


@workflow.defn(name=CreateVM.__name__)
class ChangedCreateVM:
    """CreateVM with a change that breaks running executions."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Sleep where the recorded workflow scheduled the server."""
        await workflow.sleep(operation.epoch + 1)
