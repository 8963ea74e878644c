"""The steps on volumes and their attachments, and their undo steps."""

from temporalio import activity

from activities.backends.resources import Ref
from activities.steps import StepActivities, check_detached, image_ref, read_ref, undo_token
from domain.data.models import VM, Attachment, Volume
from domain.data.parameters import AttachVolume, CreateVolume, ExtendVolume, parameters_of
from domain.rules.messages import Activity, OperationInput


class VolumeActivities(StepActivities):
    """Steps on volumes and attachments."""

    @activity.defn(name=Activity.CREATE_VOLUME)
    async def create_volume(self, input: OperationInput) -> None:
        """Begin to create the volume."""
        operation, token = await self._record_running(input, Activity.CREATE_VOLUME)
        request = parameters_of(operation, CreateVolume)
        id, image = operation.resource_id, image_ref(request.image_id) if request.image_id else None
        cloud_id = await self._backend.create_volume(token, id, request.name, request.size_gb, image)
        await self._note_created(input, Volume, id, cloud_id=cloud_id)

    @activity.defn(name=Activity.UNDO_VOLUME)
    async def undo_volume(self, input: OperationInput) -> None:
        """Revoke the operation, then remove the volume it may have begun to create."""
        operation = await self._revoke(input)
        volume = await read_ref(self._engine, Volume, operation.resource_id)
        await self._backend.delete_volume(undo_token(input, Activity.UNDO_VOLUME), volume)

    @activity.defn(name=Activity.DELETE_VOLUME)
    async def delete_volume(self, input: OperationInput) -> None:
        """Begin to delete the volume."""
        operation, token = await self._record_running(input, Activity.DELETE_VOLUME)
        await self._backend.delete_volume(token, await read_ref(self._engine, Volume, operation.resource_id))

    @activity.defn(name=Activity.EXTEND_VOLUME)
    async def extend_volume(self, input: OperationInput) -> None:
        """Begin to make the volume larger."""
        operation, token = await self._record_running(input, Activity.EXTEND_VOLUME)
        volume = await read_ref(self._engine, Volume, operation.resource_id)
        await self._backend.extend_volume(token, volume, parameters_of(operation, ExtendVolume).size_gb)

    @activity.defn(name=Activity.IS_EXTENDED)
    async def is_extended(self, input: OperationInput) -> bool:
        """Return whether the volume has the size that the operation gives it."""
        operation = await self._revoke(input)
        volume = await read_ref(self._engine, Volume, operation.resource_id)
        listed = (await self._backend.list_volumes([volume])).get(volume.id)
        return listed is not None and listed.size_gb >= parameters_of(operation, ExtendVolume).size_gb

    @activity.defn(name=Activity.ATTACH_VOLUME)
    async def attach_volume(self, input: OperationInput) -> None:
        """Begin to attach the volume to the VM's server, as the device that the API chose, if it did."""
        operation, token = await self._record_running(input, Activity.ATTACH_VOLUME)
        device = parameters_of(operation, AttachVolume).device
        vm, volume = await self._vm_and_volume(input)
        chosen = await self._backend.attach_volume(token, vm, volume, device)
        if chosen != device:
            await self._note_created(input, Attachment, volume.id, device=chosen)

    @activity.defn(name=Activity.UNDO_ATTACH)
    async def undo_attach(self, input: OperationInput) -> None:
        """Revoke the operation, then detach the volume from the VM's server, attached or not.

        The activity is retried until the cloud shows the volume as released. The failure is recorded afterwards, and
        from then on the API promises that the volume is available.
        """
        await self._revoke(input)
        vm, volume = await self._vm_and_volume(input)
        await self._backend.detach_volume(undo_token(input, Activity.UNDO_ATTACH), vm, volume)
        await check_detached(self._backend, vm, volume)

    @activity.defn(name=Activity.DETACH_VOLUME)
    async def detach_volume(self, input: OperationInput) -> None:
        """Begin to detach the volume from the VM's server."""
        _, token = await self._record_running(input, Activity.DETACH_VOLUME)
        vm, volume = await self._vm_and_volume(input)
        await self._backend.detach_volume(token, vm, volume)

    async def _vm_and_volume(self, input: OperationInput) -> tuple[Ref, Ref]:
        vm = await read_ref(self._engine, VM, input.vm)
        return vm, await read_ref(self._engine, Volume, input.resource)
