"""The floor of `bench.operations`: a workflow that runs activities that do nothing, and a worker for it."""

import asyncio
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    import worker as ours
    from domain.workflow_sandbox import sandbox

QUEUE = "bench-bare"


@workflow.defn
class BareWorkflow:
    """Runs so many activities, one after the other."""

    @workflow.run
    async def run(self, activities: int) -> None:
        """Run them, with the limits that a step has."""
        for number in range(activities):
            await workflow.execute_activity(
                do_nothing,
                number + 1 == activities,
                start_to_close_timeout=timedelta(seconds=150),
                heartbeat_timeout=timedelta(seconds=3),
            )


@activity.defn
async def do_nothing(is_last: bool) -> None:  # noqa: FBT001 - Temporal passes arguments by position
    """Tell the parent process that a workflow has run its last activity."""
    if is_last:
        sys.stdout.write("\n")
        sys.stdout.flush()


async def work(address: str) -> None:
    """Work with the options of our own worker until killed."""
    client = await Client.connect(address)
    await Worker(
        client,
        task_queue=QUEUE,
        workflows=[BareWorkflow],
        activities=[do_nothing],
        workflow_runner=sandbox(),
        max_concurrent_workflow_tasks=ours.MAX_CONCURRENT_WORKFLOW_TASKS,
        workflow_task_poller_behavior=ours.WORKFLOW_POLLERS,
        nonsticky_to_sticky_poll_ratio=ours.NEW_WORKFLOW_POLLER_RATIO,
        max_concurrent_activities=ours.MAX_CONCURRENT_ACTIVITIES,
        sticky_queue_schedule_to_start_timeout=ours.STICKY_TIMEOUT,
        max_heartbeat_throttle_interval=ours.HEARTBEAT_THROTTLE,
    ).run()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
