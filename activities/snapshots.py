"""The steps that create, restore and delete snapshots, and their undo steps."""

from dataclasses import replace

from temporalio import activity

from activities.backends.protocol import BackendError
from activities.backends.resources import Ref, ServerSpec
from activities.steps import StepActivities, read_ref, ref_of, undo_token
from domain.data.models import VM, Operation, Snapshot
from domain.data.parameters import Restore, TakeSnapshot, parameters_of
from domain.rules.cloud import ImageState
from domain.rules.messages import Activity, OperationInput


class SnapshotActivities(StepActivities):
    """Steps on the images of snapshots, and on servers that are rebuilt from one."""

    @activity.defn(name=Activity.CREATE_SERVER_IMAGE)
    async def create_server_image(self, input: OperationInput) -> None:
        """Begin to save the server's disk as an image."""
        step = await self._record_step(input, Activity.CREATE_SERVER_IMAGE)
        snapshot_id, name = step.operation.resource_id, parameters_of(step.operation, TakeSnapshot).name
        cloud_id = await self._backend.create_server_image(step.token, ref_of(step.vm), snapshot_id, name)
        await self._note_created(input, Snapshot, snapshot_id, cloud_id=cloud_id)

    @activity.defn(name=Activity.UPLOAD_IMAGE)
    async def upload_image(self, input: OperationInput) -> None:
        """Record that the image is uploading; `image_gone` if the cloud does not have it."""
        step = await self._record_step(input, Activity.UPLOAD_IMAGE)
        if not await self._backend.list_images([await read_ref(self._engine, Snapshot, step.operation.resource_id)]):
            message = "The cloud no longer has the image that it began to save."
            raise BackendError("image_gone", message, retryable=False)

    @activity.defn(name=Activity.UNDO_IMAGE)
    async def undo_image(self, input: OperationInput) -> None:
        """Revoke the operation, then remove the image it may have begun to save."""
        operation = await self._revoke(input)
        image = await read_ref(self._engine, Snapshot, operation.resource_id)
        await self._backend.delete_image(undo_token(input, Activity.UNDO_IMAGE), image)

    @activity.defn(name=Activity.DELETE_IMAGE)
    async def delete_image(self, input: OperationInput) -> None:
        """Delete a snapshot's image."""
        operation, token = await self._record_running(input, Activity.DELETE_IMAGE)
        await self._backend.delete_image(token, await read_ref(self._engine, Snapshot, operation.resource_id))

    @activity.defn(name=Activity.SETTLE_IMAGE)
    async def settle_image(self, input: OperationInput) -> ImageState:
        """Revoke the operation, then return the state of its image."""
        operation = await self._revoke(input)
        ref = await read_ref(self._engine, Snapshot, operation.resource_id)
        image = (await self._backend.list_images([ref])).get(ref.id)
        return image.state if image else ImageState.GONE

    @activity.defn(name=Activity.REBUILD_SERVER)
    async def rebuild_server(self, input: OperationInput) -> None:
        """Begin to rebuild the server from the snapshot's image, with the flavor it had then."""
        step = await self._record_step(input, Activity.REBUILD_SERVER)
        await self._backend.rebuild_server(step.token, await self._snapshot_spec(step.vm, step.operation))

    @activity.defn(name=Activity.IS_RESTORED)
    async def is_restored(self, input: OperationInput) -> bool:
        """Return whether the server has the image and the size of the snapshot."""
        vm, operation = await self._check_holds_vm(input)
        spec = await self._snapshot_spec(vm, operation)
        server = await self._server_of(spec.vm)
        image_id = spec.image.cloud_id or await self._found_id(spec.image)
        return server is not None and server.image_id == image_id and server.has_size_of(spec)

    async def _found_id(self, image: Ref) -> str | None:
        """Return the cloud's id of an image whose row does not keep it."""
        found = (await self._backend.list_images([image])).get(image.id)
        return found.cloud_id if found else None

    async def _snapshot_spec(self, vm: VM, operation: Operation) -> ServerSpec:
        spec = await self._server_spec(vm, parameters_of(operation, Restore).flavor_id)
        return replace(spec, image=await read_ref(self._engine, Snapshot, operation.resource_id))
