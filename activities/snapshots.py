"""The steps of taking, restoring and deleting snapshots, and the undoing of one that is half made."""

from dataclasses import replace
from uuid import UUID

from temporalio import activity

from activities.backends.protocol import BackendError, ServerSpec
from activities.steps import StepActivities, undoing
from domain.data.models import VM, Operation
from domain.progress import step_records
from domain.rules.cloud import ImageState
from domain.rules.messages import Activity, OperationInput


class SnapshotActivities(StepActivities):
    """Steps on the images that snapshots are kept in, and on servers that are made from one."""

    @activity.defn(name=Activity.CREATE_SERVER_IMAGE)
    async def create_server_image(self, input: OperationInput) -> None:
        """Begin to save the server's disk."""
        entered = await self._enter(input, Activity.CREATE_SERVER_IMAGE)
        snapshot_id, name = entered.operation.resource_id, entered.operation.input["name"]
        await self._backend.create_server_image(entered.token, entered.vm.id, snapshot_id, name)

    @activity.defn(name=Activity.UPLOAD_IMAGE)
    async def upload_image(self, input: OperationInput) -> None:
        """See that the cloud is at it; `image_gone` where it is not."""
        entered = await self._enter(input, Activity.UPLOAD_IMAGE)
        if not await self._backend.list_images([entered.operation.resource_id]):
            raise BackendError("image_gone", "The cloud does not have the image it began to save.", retryable=False)

    @activity.defn(name=Activity.UNDO_IMAGE)
    async def undo_image(self, input: OperationInput) -> None:
        """Remove a half-made image, after making sure that none of the operation's calls can still take effect."""
        operation = await self._revoke(input)
        await self._backend.delete_image(undoing(input, Activity.UNDO_IMAGE), operation.resource_id)

    @activity.defn(name=Activity.DELETE_IMAGE)
    async def delete_image(self, input: OperationInput) -> None:
        """Delete a snapshot's image."""
        operation, token = await self._begin(input, Activity.DELETE_IMAGE)
        await self._backend.delete_image(token, operation.resource_id)

    @activity.defn(name=Activity.SETTLE_IMAGE)
    async def settle_image(self, input: OperationInput) -> ImageState:
        """Refuse the operation's further calls, and say how the image shows itself."""
        operation = await self._revoke(input)
        image = (await self._backend.list_images([operation.resource_id])).get(operation.resource_id)
        return image.state if image else ImageState.GONE

    @activity.defn(name=Activity.REBUILD_SERVER)
    async def rebuild_server(self, input: OperationInput) -> None:
        """Begin to make the server what it was when the snapshot was taken."""
        entered = await self._enter(input, Activity.REBUILD_SERVER)
        await self._backend.rebuild_server(entered.token, await self._restored(entered.vm, entered.operation))

    @activity.defn(name=Activity.IS_RESTORED)
    async def is_restored(self, input: OperationInput) -> bool:
        """Whether the server is what it was when the snapshot was taken."""
        async with self._engine.begin() as tx:
            vm, operation = await step_records.check_holds(tx, input)
        assert vm is not None  # noqa: S101 - a restore has one
        wanted = await self._restored(vm, operation)
        server = (await self._backend.list_servers([vm.id])).get(vm.id)
        return server is not None and server.image_id == wanted.image_id and server.has_size_of(wanted)

    async def _restored(self, vm: VM, operation: Operation) -> ServerSpec:
        spec = await self._spec(vm, UUID(operation.input["flavor_id"]))
        return replace(spec, image_id=operation.resource_id)
