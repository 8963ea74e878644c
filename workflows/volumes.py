"""Create, delete, extend, attach and detach volumes."""

from dataclasses import replace
from types import NoneType

from temporalio import workflow

from domain.rules.cloud import VolumeState
from domain.rules.messages import Activity, OperationInput, WaitForVolumeInput
from domain.rules.table import Residue
from workflows.outcomes import Aftermath
from workflows.steps import OperationWorkflow


class _VolumeWorkflow(OperationWorkflow):
    async def wait_for_volume(self, operation: OperationInput, state: VolumeState) -> bool:
        """Wait until the cloud shows the volume in `state`; return whether the success is recorded (see `wait`)."""
        input = WaitForVolumeInput(operation, state, records=True)
        return await self.wait(Activity.WAIT_FOR_VOLUME, input, f"Wait for the volume to be {state}")

    async def observe_volume(self, operation: OperationInput, _code: str) -> Aftermath:
        """Wait until the cloud has finished with the volume, and observe its state."""
        summary = "Wait until the volume is at rest"
        state = await self.observe(Activity.SETTLE_VOLUME, operation, summary, VolumeState)
        return Aftermath(state, Residue.STILL_THERE if state is VolumeState.AVAILABLE else Residue.UNKNOWN)


@workflow.defn
class CreateVolume(_VolumeWorkflow):
    """Creates a volume. After a failure the volume is removed from the cloud."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a create-volume operation."""
        async with self.carrying_out(operation, after_failure=self._undo) as outcome:
            await self.step(Activity.CREATE_VOLUME, operation, "Create the volume")
            outcome.is_recorded = await self.wait_for_volume(operation, VolumeState.AVAILABLE)

    async def _undo(self, operation: OperationInput, _code: str) -> Aftermath:
        await self.run_until_done(Activity.UNDO_VOLUME, operation, "Remove the unfinished volume", NoneType)
        return Aftermath()


@workflow.defn
class DeleteVolume(_VolumeWorkflow):
    """Deletes a volume."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a delete-volume operation."""
        end = VolumeState.GONE
        async with self.carrying_out(operation, after_failure=self.observe_volume, success_state=end) as outcome:
            await self.step(Activity.DELETE_VOLUME, operation, "Delete the volume")
            outcome.is_recorded = await self.wait_for_volume(operation, end)


@workflow.defn
class ExtendVolume(_VolumeWorkflow):
    """Makes a volume larger."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out an extend-volume operation."""
        async with self.carrying_out(operation, after_failure=self._check_whether_extended) as outcome:
            await self.step(Activity.EXTEND_VOLUME, operation, "Extend the volume")
            summary = "Wait for the volume to have its new size"
            outcome.is_recorded = await self.wait(
                Activity.WAIT_FOR_EXTENSION, replace(operation, combines=True), summary
            )

    async def _check_whether_extended(self, operation: OperationInput, code: str) -> Aftermath:
        found = await self.observe_volume(operation, code)
        summary = "Check whether the volume has its new size"
        is_extended = await self.run_until_done(Activity.IS_EXTENDED, operation, summary, bool)
        at_rest = found.observed in {VolumeState.AVAILABLE, VolumeState.IN_USE}
        residue = Residue.STILL_THERE if at_rest else Residue.UNKNOWN
        return replace(found, residue=residue, succeeded=is_extended and at_rest)


@workflow.defn
class AttachVolume(_VolumeWorkflow):
    """Attaches a volume to a VM's server. After a failure the volume is detached, unless the cloud refuses that."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out an attach-volume operation."""
        async with self.carrying_out(operation, after_failure=self._undo, success_state=VolumeState.IN_USE) as outcome:
            await self.step(Activity.ATTACH_VOLUME, operation, "Attach the volume")
            outcome.is_recorded = await self.wait_for_volume(operation, VolumeState.IN_USE)

    async def _undo(self, operation: OperationInput, code: str) -> Aftermath:
        error = await self.undo(Activity.UNDO_ATTACH, operation, "Detach the volume")
        return replace(await self.observe_volume(operation, code), undo_error=error) if error else Aftermath()


@workflow.defn
class DetachVolume(_VolumeWorkflow):
    """Detaches a volume from a VM's server. After a failure the volume stays attached."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a detach-volume operation."""
        end = VolumeState.AVAILABLE
        async with self.carrying_out(operation, after_failure=self.observe_volume, success_state=end) as outcome:
            await self.step(Activity.DETACH_VOLUME, operation, "Detach the volume")
            outcome.is_recorded = await self.wait_for_volume(operation, end)
