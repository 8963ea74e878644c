"""Create, restore and delete snapshots."""

from dataclasses import replace
from types import NoneType

from temporalio import workflow

from domain.rules.cloud import ImageState, server_status_of
from domain.rules.messages import Activity, CheckFlavorInput, OperationInput
from domain.rules.table import Residue
from workflows.outcomes import Aftermath
from workflows.steps import OperationWorkflow


@workflow.defn
class CreateSnapshot(OperationWorkflow):
    """Saves a VM's disk as an image. After a failure the image is removed."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a snapshot operation."""
        async with self.carrying_out(operation, after_failure=self._undo) as outcome:
            await self.step(Activity.CREATE_SERVER_IMAGE, operation, "Begin to save the disk as an image")
            await self.step(Activity.UPLOAD_IMAGE, operation, "Check that the image is being saved")
            summary = "Wait for the image to be saved"
            outcome.is_recorded = await self.wait(Activity.WAIT_FOR_IMAGE, replace(operation, combines=True), summary)

    async def _undo(self, operation: OperationInput, _code: str) -> Aftermath:
        await self.run_until_done(Activity.UNDO_IMAGE, operation, "Remove the unfinished image", NoneType)
        return Aftermath()


@workflow.defn
class RestoreVM(OperationWorkflow):
    """Rebuilds a VM's server from a snapshot."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a restore operation."""
        status = server_status_of(operation.previous)
        async with self.carrying_out(operation, after_failure=self._check_whether_restored):
            await self.step(Activity.REBUILD_SERVER, operation, "Rebuild the server from the snapshot")
            await self.wait_for_server(operation, status, f"Wait for the server to be {status}")
            await self.step(Activity.CHECK_FLAVOR, CheckFlavorInput(operation), "Check the server's size")

    async def _check_whether_restored(self, operation: OperationInput, _code: str) -> Aftermath:
        status = await self.observe_server(operation)
        summary = "Check whether the server is as in the snapshot"
        is_restored = await self.run_until_done(Activity.IS_RESTORED, operation, summary, bool)
        return Aftermath(status, Residue.APPLIED if is_restored else Residue.UNKNOWN)


@workflow.defn
class DeleteSnapshot(OperationWorkflow):
    """Deletes a snapshot and its image."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a delete-snapshot operation."""
        async with self.carrying_out(operation, after_failure=self._observe_image, success_state=ImageState.GONE):
            await self.step(Activity.DELETE_IMAGE, operation, "Delete the image")

    async def _observe_image(self, operation: OperationInput, _code: str) -> Aftermath:
        summary = "Check whether the image is still there"
        state = await self.run_until_done(Activity.SETTLE_IMAGE, operation, summary, ImageState)
        return Aftermath(state, Residue.STILL_THERE if state is ImageState.ACTIVE else Residue.UNKNOWN)
