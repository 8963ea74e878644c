"""Volumes: made, deleted, attached to a VM and detached from it."""

from dataclasses import replace
from types import NoneType

from temporalio import workflow

from domain.rules.cloud import VolumeState
from domain.rules.messages import Activity, OperationInput, WaitForVolumeInput
from workflows.steps import Left, OperationWorkflow


class _OnVolume(OperationWorkflow):
    async def wait_for_volume(self, operation: OperationInput, state: VolumeState) -> None:
        """Wait until the cloud shows the volume in `state`."""
        input = WaitForVolumeInput(operation, state)
        await self.wait(Activity.WAIT_FOR_VOLUME, input, f"Wait for the volume to be {state}")

    async def see_volume(self, operation: OperationInput, _code: str) -> Left:
        """Let the cloud end what it is at, and see what then shows."""
        seen = await self.look(Activity.SETTLE_VOLUME, operation, "See how the volume settles", VolumeState)
        return Left(seen, intact=seen is VolumeState.AVAILABLE)


@workflow.defn
class CreateVolume(_OnVolume):
    """Makes a volume; one that fails is removed from the cloud."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one create-volume operation."""
        async with self.carrying_out(operation, aftermath=self._undo):
            await self.step(Activity.CREATE_VOLUME, operation, "Make the volume")
            await self.wait_for_volume(operation, VolumeState.AVAILABLE)

    async def _undo(self, operation: OperationInput, _code: str) -> Left:
        await self.insist(Activity.UNDO_VOLUME, operation, "Remove the half-made volume", NoneType)
        return Left()


@workflow.defn
class DeleteVolume(_OnVolume):
    """Deletes a volume."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one delete-volume operation."""
        async with self.carrying_out(operation, aftermath=self.see_volume, arrives=VolumeState.GONE):
            await self.step(Activity.DELETE_VOLUME, operation, "Delete the volume")
            await self.wait_for_volume(operation, VolumeState.GONE)


@workflow.defn
class AttachVolume(_OnVolume):
    """Attaches a volume to a VM's server; one that fails is free again, unless the cloud refuses to let it go."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one attach-volume operation."""
        async with self.carrying_out(operation, aftermath=self._undo, arrives=VolumeState.IN_USE):
            await self.step(Activity.ATTACH_VOLUME, operation, "Attach the volume")
            await self.wait_for_volume(operation, VolumeState.IN_USE)

    async def _undo(self, operation: OperationInput, code: str) -> Left:
        refusal = await self.undo(Activity.UNDO_ATTACH, operation, "Take the volume from the server")
        return replace(await self.see_volume(operation, code), refusal=refusal) if refusal else Left()


@workflow.defn
class DetachVolume(_OnVolume):
    """Detaches a volume from a VM's server; one that fails stays attached."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one detach-volume operation."""
        async with self.carrying_out(operation, aftermath=self.see_volume, arrives=VolumeState.AVAILABLE):
            await self.step(Activity.DETACH_VOLUME, operation, "Detach the volume")
            await self.wait_for_volume(operation, VolumeState.AVAILABLE)
