"""The steps on volumes and their attachments, and the undoing of what is half done."""

from temporalio import activity

from activities.steps import StepActivities, check_free, undoing
from domain.rules.messages import Activity, OperationInput


class VolumeActivities(StepActivities):
    """Steps on volumes."""

    @activity.defn(name=Activity.CREATE_VOLUME)
    async def create_volume(self, input: OperationInput) -> None:
        """Begin to make the volume."""
        operation, token = await self._begin(input, Activity.CREATE_VOLUME)
        asked = operation.input
        await self._backend.create_volume(token, operation.resource_id, asked["name"], asked["size_gb"])

    @activity.defn(name=Activity.UNDO_VOLUME)
    async def undo_volume(self, input: OperationInput) -> None:
        """Remove a half-made volume, after making sure that none of the operation's calls can still take effect."""
        operation = await self._revoke(input)
        await self._backend.delete_volume(undoing(input, Activity.UNDO_VOLUME), operation.resource_id)

    @activity.defn(name=Activity.DELETE_VOLUME)
    async def delete_volume(self, input: OperationInput) -> None:
        """Begin to delete the volume."""
        operation, token = await self._begin(input, Activity.DELETE_VOLUME)
        await self._backend.delete_volume(token, operation.resource_id)

    @activity.defn(name=Activity.ATTACH_VOLUME)
    async def attach_volume(self, input: OperationInput) -> None:
        """Begin to attach the volume to the VM's server, as the device that it was promised."""
        operation, token = await self._begin(input, Activity.ATTACH_VOLUME)
        await self._backend.attach_volume(token, input.vm, operation.resource_id, operation.input["device"])

    @activity.defn(name=Activity.UNDO_ATTACH)
    async def undo_attach(self, input: OperationInput) -> None:
        """Take the volume from the VM's server, whether or not it got there, and see that it is free."""
        operation = await self._revoke(input)
        token = undoing(input, Activity.UNDO_ATTACH)
        await self._backend.detach_volume(token, input.vm, operation.resource_id)
        await check_free(self._backend, input.vm, operation.resource_id)

    @activity.defn(name=Activity.DETACH_VOLUME)
    async def detach_volume(self, input: OperationInput) -> None:
        """Begin to take the volume from the VM's server."""
        operation, token = await self._begin(input, Activity.DETACH_VOLUME)
        await self._backend.detach_volume(token, input.vm, operation.resource_id)
