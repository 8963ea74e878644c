"""The view of a workflow in the Temporal Web UI: its current details and the search attribute WaitsFor."""

import asyncio
from typing import Any

from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError

from domain import search_attributes
from domain.rules.messages import Activity, FailedAttemptInput, OperationInput
from domain.rules.states import Action, Status
from tests.workflows.resizing import waiting
from tests.workflows.stories import failure_of
from tests.workflows.world import HANG, SLOW, World, failed, new_operation


async def details_of(handle: WorkflowHandle[Any, Any]) -> str:
    """Return the current details, as the Web UI queries them."""
    metadata: WorkflowMetadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return metadata.current_details


async def cancel(handle: WorkflowHandle[Any, Any]) -> None:
    """Cancel the workflow and wait for its end: the time-skipping server skips no time while one is open."""
    await handle.cancel()
    await failure_of(handle)


async def waits_for(handle: WorkflowHandle[Any, Any]) -> list[str | None]:
    """Return all values that the search attribute WaitsFor has had."""
    name, values = search_attributes.WAITS_FOR.name, []
    async for event in handle.fetch_history_events():
        attributes = event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
        if name in attributes:
            values.append(attributes[name].data.decode().strip('"'))
    return [None if value in {"", "null", "[]"} else value for value in values]


async def until_details(handle: WorkflowHandle[Any, Any], text: str) -> str:
    """Wait until the current details contain the text, and return them."""
    async with asyncio.timeout(10):
        while text not in (details := await details_of(handle)):  # noqa: ASYNC110 - the server offers no event
            await asyncio.sleep(0.02)
    return details


async def test_a_step_shows_the_operation_the_vm_and_the_requester(world: World) -> None:
    world.script(Activity.RESIZE_SERVER, HANG)
    handle = await world.start(Action.RESIZE)
    details = await until_details(handle, "resize_migrating")
    assert "**Now:** Move the server to the new flavor" in details
    assert "### resize VM `web-1` from a to b" in details
    assert "**For:** `ada`" in details
    assert "**State:** RESIZING, resize_migrating" in details
    assert "**Last error:** none" in details
    assert handle.id.split("-", 1)[1][:36] in details
    await cancel(handle)


async def test_a_waiting_resize_shows_what_it_waits_for_and_its_deadline(world: World) -> None:
    handle = await waiting(world, window=86_400)
    details = await until_details(handle, "waits for confirm-resize or revert-resize")
    assert "**State:** VERIFY_RESIZE, no task state" in details
    assert "UTC, then it is confirmed" in details
    await handle.signal("revert", new_operation(Action.REVERT_RESIZE))
    await handle.result()
    assert "### revert-resize VM `web-1`" in await details_of(handle)
    assert "has ended" in await details_of(handle)
    assert await waits_for(handle) == ["confirmation", None]


async def test_a_resize_without_a_window_shows_no_deadline(world: World) -> None:
    handle = await waiting(world)
    await until_details(handle, "**Until:** somebody decides")
    await cancel(handle)


async def test_a_failed_attempt_is_shown(world: World) -> None:
    world.script(Activity.STOP_SERVER, HANG)
    handle = await world.start(Action.STOP)
    await world.reached[Activity.STOP_SERVER].wait()
    await handle.signal("note_failed_attempt", FailedAttemptInput("stop_server", 2, "no `answer`"))
    assert "**Last error:** `attempt 2: no 'answer'`" in await until_details(handle, "attempt 2")
    assert await waits_for(handle) == ["retry"]
    await cancel(handle)


async def test_waits_for_is_cleared_once_a_retry_succeeds(world: World) -> None:
    world.script(Activity.STOP_SERVER, SLOW)
    world.script(Activity.WAIT_FOR_SERVER, failed("busy"))
    handle = await world.start(Action.STOP)
    await world.reached[Activity.STOP_SERVER].wait()
    await handle.signal("note_failed_attempt", FailedAttemptInput("stop_server", 1, "busy"))
    await handle.result()
    assert await waits_for(handle) == ["retry", None]


async def test_a_failed_attempt_of_an_earlier_activity_is_not_shown(world: World) -> None:
    handle = await waiting(world)
    await until_details(handle, "waits for confirm-resize or revert-resize")
    await handle.signal("note_failed_attempt", FailedAttemptInput("resize_server", 1, "busy"))
    assert "**Last error:** none" in await details_of(handle)
    assert await waits_for(handle) == ["confirmation"]
    await cancel(handle)


async def test_the_error_of_a_failed_operation_stays_visible(world: World) -> None:
    world.script(Activity.START_SERVER, ApplicationError("broken", type="broken", non_retryable=True))
    handle = await world.start(Action.START, Status.SHUTOFF)
    await failure_of(handle)
    details = await details_of(handle)
    assert "**Last error:** `broken`" in details
    assert "**State:** SHUTOFF, no task state" in details


async def test_a_workflow_started_by_an_older_version_is_shown_without_a_status(world: World) -> None:
    world.script(Activity.STOP_SERVER, SLOW)
    old = new_operation(Action.STOP)
    handle = await world.start_with(OperationInput(old.operation_id, old.vm_id, old.action))
    assert "**State:**" not in await until_details(handle, "Shut the server down")
    state = await handle.query("state")
    assert (state["status"], state["task_state"]) == (None, "powering_off")
    await handle.result()
