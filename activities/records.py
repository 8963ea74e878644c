"""The activities that end an operation: VM state, fault and result are written in one transaction."""

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from domain.progress import step_records
from domain.rules.messages import Activity, FailOperationInput, OperationInput


class RecordActivities:
    """Activities that write only the service's own tables."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @activity.defn(name=Activity.FINISH_OPERATION)
    async def finish_operation(self, input: OperationInput) -> None:
        """Record that the operation succeeded; SupersededError if it no longer holds its VM."""
        async with self._engine.begin() as tx:
            await step_records.finish(tx, input)

    @activity.defn(name=Activity.FAIL_OPERATION)
    async def fail_operation(self, input: FailOperationInput) -> None:
        """Record why the operation failed; SupersededError if it no longer holds its VM."""
        async with self._engine.begin() as tx:
            await step_records.fail(tx, input)
