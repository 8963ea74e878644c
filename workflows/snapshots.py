"""Snapshots: taken, deleted, and a VM put back to one."""

from types import NoneType

from temporalio import workflow

from domain.rules.cloud import ImageState, ServerStatus
from domain.rules.messages import Activity, CheckFlavorInput, OperationInput
from workflows.steps import Left, OperationWorkflow


@workflow.defn
class CreateSnapshot(OperationWorkflow):
    """Saves a VM's disk as an image; one that fails leaves no image behind."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one snapshot operation."""
        async with self.carrying_out(operation, aftermath=self._undo):
            await self.step(Activity.CREATE_SERVER_IMAGE, operation, "Begin to save the disk as an image")
            await self.step(Activity.UPLOAD_IMAGE, operation, "See that the image is being saved")
            await self.wait(Activity.WAIT_FOR_IMAGE, operation, "Wait for the image to be saved")

    async def _undo(self, operation: OperationInput, _code: str) -> Left:
        await self.insist(Activity.UNDO_IMAGE, operation, "Remove the half-made image", NoneType)
        return Left()


@workflow.defn
class RestoreVM(OperationWorkflow):
    """Makes a VM's server what it was when a snapshot of it was taken."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one restore operation."""
        back_to = ServerStatus(str(operation.previous_status))
        async with self.carrying_out(operation, aftermath=self._see_what_it_is):
            await self.step(Activity.REBUILD_SERVER, operation, "Make the server anew from the snapshot")
            await self.wait_for_server(operation, back_to, f"Wait for the server to be {back_to}")
            await self.step(Activity.CHECK_FLAVOR, CheckFlavorInput(operation), "See that it has its old size")

    async def _see_what_it_is(self, operation: OperationInput, code: str) -> Left:
        left = await self.settle(operation, code)
        summary = "See whether it is what the snapshot holds"
        return Left(left.seen, applied=await self.insist(Activity.IS_RESTORED, operation, summary, bool))


@workflow.defn
class DeleteSnapshot(OperationWorkflow):
    """Deletes a snapshot with its image."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one delete-snapshot operation."""
        async with self.carrying_out(operation, aftermath=self._look, arrives=ImageState.GONE):
            await self.step(Activity.DELETE_IMAGE, operation, "Delete the image")

    async def _look(self, operation: OperationInput, _code: str) -> Left:
        summary = "See whether the image is still there"
        seen = await self.insist(Activity.SETTLE_IMAGE, operation, summary, ImageState)
        return Left(seen, intact=seen is ImageState.ACTIVE)
