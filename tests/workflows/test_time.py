"""Workflows that take long. They need the time-skipping server; on the dev server they are skipped."""

import pytest
from temporalio.exceptions import ApplicationError

from domain.rules.messages import Activity
from domain.rules.states import Action
from tests.workflows.stories import failure_of
from tests.workflows.world import World, failed

pytestmark = pytest.mark.skips_time


async def test_a_step_that_never_succeeds_fails_after_half_an_hour(world: World) -> None:
    world.script(Activity.STOP_SERVER, *[failed("mock_transient")] * 1000)
    cause = await failure_of(await world.start(Action.STOP))
    assert isinstance(cause, ApplicationError)
    assert cause.type == "retries_exhausted"
    assert cause.message.endswith("Last error: mock_transient, for now")
    assert world.called()[-1] is Activity.FAIL_OPERATION
    assert world.called().count(Activity.STOP_SERVER) == 63  # 1, 2, 4, 8, 16, then 30 s apart


async def test_a_delete_waits_for_the_workflows_it_canceled(world: World) -> None:
    world.script(Activity.PREEMPT_OPERATIONS, ["create-a", "reboot-b"])
    world.script(Activity.LIST_OPEN_WORKFLOWS, ["create-a", "reboot-b"], ["reboot-b"], [])
    await (await world.start(Action.DELETE)).result()
    checks = [input["workflow_ids"] for name, input in world.calls if name is Activity.LIST_OPEN_WORKFLOWS]
    assert checks == [["create-a", "reboot-b"], ["create-a", "reboot-b"], ["reboot-b"]]
    assert Activity.TERMINATE_WORKFLOWS not in world.called()


async def test_a_delete_terminates_workflows_that_ignore_their_cancel_for_a_minute(world: World) -> None:
    world.script(Activity.PREEMPT_OPERATIONS, ["create-a"])
    world.script(Activity.LIST_OPEN_WORKFLOWS, *[["create-a"]] * 1000)
    await (await world.start(Action.DELETE)).result()
    assert world.last_input(Activity.TERMINATE_WORKFLOWS)["workflow_ids"] == ["create-a"]
    after = world.called()[world.called().index(Activity.TERMINATE_WORKFLOWS) + 1 :]
    assert after == [Activity.DELETE_SERVER, Activity.WAIT_FOR_SERVER, Activity.FINISH_OPERATION]
