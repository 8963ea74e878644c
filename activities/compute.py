"""The steps of building, powering and deleting servers."""

from collections.abc import Awaitable, Sequence
from uuid import UUID

from sqlalchemy import select
from temporalio import activity

from activities.backends.protocol import BackendError, Token
from activities.steps import Entered, StepActivities, check_free, flavor_of, port_of
from domain.data import database, queries
from domain.data.models import Attachment, Interface, Snapshot, Volume
from domain.progress import resource_claims, step_records
from domain.rules.messages import Activity, LeftoversResult, OperationInput


class ComputeActivities(StepActivities):
    """Steps on a VM's server, and the undoing of a build."""

    @activity.defn(name=Activity.SCHEDULE_SERVER)
    async def schedule_server(self, input: OperationInput) -> None:
        """Find a host for the VM's flavor; `no_valid_host` where none can hold it."""
        entered = await self._enter(input, Activity.SCHEDULE_SERVER)
        await self._backend.select_host(entered.token, await self._spec(entered.vm, entered.vm.flavor_id))

    @activity.defn(name=Activity.CREATE_PORTS)
    async def create_ports(self, input: OperationInput) -> None:
        """Make the VM's ports on the networks that were asked for."""
        entered = await self._enter(input, Activity.CREATE_PORTS)
        async with database.autocommit(self._engine).connect() as connection:
            mine = select(Interface).where(Interface.vm_id == entered.vm.id).order_by(Interface.created_at)
            interfaces = await queries.fetch_all(connection, mine)
        await self._backend.create_ports(entered.token, entered.vm.id, [port_of(one) for one in interfaces])

    @activity.defn(name=Activity.SPAWN_SERVER)
    async def spawn_server(self, input: OperationInput) -> None:
        """Begin to build the VM's server."""
        entered = await self._enter(input, Activity.SPAWN_SERVER)
        await self._backend.create_server(entered.token, await self._spec(entered.vm, entered.vm.flavor_id))

    @activity.defn(name=Activity.START_SERVER)
    async def start_server(self, input: OperationInput) -> None:
        """Begin to power the server on."""
        entered = await self._enter(input, Activity.START_SERVER)
        await self._backend.start_server(entered.token, entered.vm.id)

    @activity.defn(name=Activity.STOP_SERVER)
    async def stop_server(self, input: OperationInput) -> None:
        """Begin to shut the server down."""
        entered = await self._enter(input, Activity.STOP_SERVER)
        await self._backend.stop_server(entered.token, entered.vm.id)

    @activity.defn(name=Activity.REBOOT_SERVER)
    async def reboot_server(self, input: OperationInput) -> None:
        """Begin to reboot the server as its guest would."""
        entered = await self._enter(input, Activity.REBOOT_SERVER)
        await self._backend.reboot_server(entered.token, entered.vm.id, hard=False)

    @activity.defn(name=Activity.REBOOT_SERVER_HARD)
    async def reboot_server_hard(self, input: OperationInput) -> None:
        """Begin to reboot the server by its power."""
        entered = await self._enter(input, Activity.REBOOT_SERVER_HARD)
        await self._backend.reboot_server(entered.token, entered.vm.id, hard=True)

    @activity.defn(name=Activity.DELETE_SERVER)
    async def delete_server(self, input: OperationInput) -> bool:
        """Begin to delete the server and everything made for the VM; whether RELEASE_RESOURCES is to follow."""
        entered = await self._enter(input, Activity.DELETE_SERVER)
        await self._backend.delete_server(entered.token, entered.vm.id)
        attachments, snapshots = await self._held(entered)
        return bool(attachments or snapshots)

    @activity.defn(name=Activity.RELEASE_RESOURCES)
    async def release_resources(self, input: OperationInput) -> None:
        """See that the VM's volumes are free, or deleted where that was asked for, and half-made images are gone.

        What the cloud refuses to delete is left in ERROR, to be deleted by itself: it keeps no VM from being deleted.
        """
        entered = await self._enter(input, Activity.RELEASE_RESOURCES)
        attachments, snapshots = await self._held(entered)
        for one in attachments:
            await self._backend.detach_volume(_part(entered, one.volume_id), entered.vm.id, one.volume_id)
            await check_free(self._backend, entered.vm.id, one.volume_id)
        for snapshot in snapshots:
            deleting = self._backend.delete_image(_part(entered, snapshot.id), snapshot.id)
            await self._unless_refused(input, Snapshot, snapshot.id, deleting)
        for volume_id in (one.volume_id for one in attachments if one.delete_on_termination):
            deleting = self._backend.delete_volume(_part(entered, volume_id, "delete"), volume_id)
            await self._unless_refused(input, Volume, volume_id, deleting)

    async def _unless_refused(
        self, input: OperationInput, model: type[Snapshot | Volume], id: UUID, deleting: Awaitable[None]
    ) -> None:
        try:
            await deleting
        except BackendError as error:
            if error.retryable:
                raise
            async with self._engine.begin() as tx:
                await resource_claims.mark_undeletable(tx, model, id, input.operation_id)

    @activity.defn(name=Activity.SETTLE_REMAINS)
    async def settle_remains(self, input: OperationInput) -> LeftoversResult:
        """Remove half-made images, and say what else the cloud still has of the VM, whose delete has failed."""
        async with self._engine.begin() as tx:
            await step_records.check_holds(tx, input)
            mine = select(Attachment.volume_id).where(Attachment.vm_id == input.vm)
            volume_ids = (await tx.scalars(mine)).all()
            held = select(Snapshot.id).where(Snapshot.vm_id == input.vm, Snapshot.operation_id == input.operation_id)
            image_ids = (await tx.scalars(held)).all()
        for id in image_ids:
            token = Token(input.operation_id, f"remove/{id}", compensates=True)
            await self._unless_refused(input, Snapshot, id, self._backend.delete_image(token, id))
        volumes = (await self._backend.list_volumes(volume_ids)).values()
        return LeftoversResult(
            tuple(await self._backend.list_ports(input.vm)),
            tuple(volume.id for volume in volumes if volume.vm_id == input.vm),
            tuple(volume.id for volume in volumes if volume.vm_id != input.vm),
            await self._flavor_of_server(input.vm),
        )

    async def _flavor_of_server(self, vm_id: UUID) -> UUID | None:
        server = (await self._backend.list_servers([vm_id])).get(vm_id)
        if server is None:
            return None
        async with database.autocommit(self._engine).connect() as connection:
            return await flavor_of(connection, vm_id, server)

    async def _held(self, entered: Entered) -> tuple[Sequence[Attachment], Sequence[Snapshot]]:
        """What the operation holds of the VM beside the server."""
        id, vm_id = entered.operation.id, entered.vm.id
        volumes = select(Attachment).where(Attachment.vm_id == vm_id, Attachment.operation_id == id)
        images = select(Snapshot).where(Snapshot.vm_id == vm_id, Snapshot.operation_id == id)
        async with database.autocommit(self._engine).connect() as connection:
            return await queries.fetch_all(connection, volumes), await queries.fetch_all(connection, images)

    @activity.defn(name=Activity.UNDO_CREATE)
    async def undo_create(self, input: OperationInput) -> None:
        """Remove what a failed build made, after making sure that none of its calls can still take effect."""
        await self._revoke(input)
        await self._backend.purge(input.vm)


def _part(entered: Entered, id: UUID, what: str = "release") -> Token:
    """A token of its own for each of the many calls of one step."""
    return Token(entered.operation.id, f"{what}/{id}")
