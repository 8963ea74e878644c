"""The steps that build, power and delete servers, and the undo step of a build."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from sqlalchemy import bindparam, select
from temporalio import activity

from activities import ports
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import DataVolume, Port, PortSpec, Ref
from activities.steps import (
    RecordedStep,
    StepActivities,
    check_detached,
    check_released,
    find_flavor,
    groups_of,
    port_spec,
    read_ref,
    ref_of,
)
from domain.data import database, queries
from domain.data.models import VM, Attachment, Interface, Snapshot, Volume
from domain.data.parameters import CreateVM, parameters_of
from domain.data.prepared import Prepared
from domain.progress import quick_records, resource_claims, step_records
from domain.rules.messages import ENTERS, Activity, LeftoversResult, OperationInput

_INTERFACES: Final = Prepared(
    select(Interface).where(Interface.vm_id == bindparam("of_vm")).order_by(Interface.created_at)
)


class ComputeActivities(StepActivities):
    """Steps on a VM's server."""

    @activity.defn(name=Activity.SCHEDULE_SERVER)
    async def schedule_server(self, input: OperationInput) -> bool:
        """Record the step: the cloud itself finds a host when it builds the server.

        With `combines`, create the ports and begin to build the server, and return true. An attempt then goes on with
        the step to which the one before has come. The VM is in the first step since the request.
        """
        if not input.combines:
            await self._record_step(input, Activity.SCHEDULE_SERVER)
            return False
        step = await self._record_first_of(input, Activity.CREATE_PORTS, Activity.SPAWN_SERVER)
        if step.vm.task_state is ENTERS[Activity.CREATE_PORTS]:
            wanted, created = await self._make_ports(input, step)
            step = await self._record_step(input, Activity.SPAWN_SERVER, created)
            await self._spawn(input, step, [_with_port(port, created) for port in wanted])
        else:
            await self._spawn(input, step, await self._wanted_ports(step))
        return True

    @activity.defn(name=Activity.CREATE_PORTS)
    async def create_ports(self, input: OperationInput) -> None:
        """Create those ports of the VM's interfaces that must exist before the server."""
        _, created = await self._make_ports(input, await self._record_step(input, Activity.CREATE_PORTS))
        await self._note_ports(input, created)

    async def _make_ports(
        self, input: OperationInput, step: RecordedStep
    ) -> tuple[Sequence[PortSpec], Mapping[UUID, Port]]:
        """Return the ports that the server should have, and those that now exist, by the interface's id."""
        interfaces = await self._interfaces(input.vm)
        wanted = [port_spec(interface, groups_of(step.vm)) for interface in interfaces]
        created = await self._backend.create_ports(step.token, ref_of(step.vm), wanted)
        return wanted, ports.by_interface(created, interfaces)

    @activity.defn(name=Activity.SPAWN_SERVER)
    async def spawn_server(self, input: OperationInput) -> None:
        """Begin to build the VM's server."""
        step = await self._record_step(input, Activity.SPAWN_SERVER)
        await self._spawn(input, step, await self._wanted_ports(step))

    async def _wanted_ports(self, step: RecordedStep) -> Sequence[PortSpec]:
        return [port_spec(interface, groups_of(step.vm)) for interface in await self._interfaces(step.vm.id)]

    async def _spawn(self, input: OperationInput, step: RecordedStep, wanted: Sequence[PortSpec]) -> None:
        spec, user_data = await self._server_spec_and_user_data(step.vm)
        spec = replace(spec, user_data=user_data, volumes=await self._data_volumes(step))
        cloud_id = await self._backend.create_server(step.token, spec, wanted)
        if not await quick_records.note_server(self._engine, input, cloud_id):
            await self._note_created(input, VM, input.vm, cloud_id=cloud_id)

    @activity.defn(name=Activity.START_SERVER)
    async def start_server(self, input: OperationInput) -> None:
        """Begin to power the server on."""
        step = await self._record_step(input, Activity.START_SERVER)
        await self._backend.start_server(step.token, ref_of(step.vm))

    @activity.defn(name=Activity.STOP_SERVER)
    async def stop_server(self, input: OperationInput) -> None:
        """Begin to shut the server down."""
        step = await self._record_step(input, Activity.STOP_SERVER)
        await self._backend.stop_server(step.token, ref_of(step.vm))

    @activity.defn(name=Activity.REBOOT_SERVER)
    async def reboot_server(self, input: OperationInput) -> None:
        """Begin a soft reboot: the guest shuts itself down first."""
        step = await self._record_step(input, Activity.REBOOT_SERVER)
        await self._backend.reboot_server(step.token, ref_of(step.vm), hard=False)

    @activity.defn(name=Activity.REBOOT_SERVER_HARD)
    async def reboot_server_hard(self, input: OperationInput) -> None:
        """Begin a hard reboot: a power cycle without the guest's help."""
        step = await self._record_step(input, Activity.REBOOT_SERVER_HARD)
        await self._backend.reboot_server(step.token, ref_of(step.vm), hard=True)

    @activity.defn(name=Activity.DELETE_SERVER)
    async def delete_server(self, input: OperationInput) -> bool:
        """Begin to delete the server and its ports; return whether RELEASE_RESOURCES has anything to do."""
        step = await self._record_step(input, Activity.DELETE_SERVER)
        await self._backend.delete_server(step.token, ref_of(step.vm))
        attachments, snapshots = await self._claimed(step)
        return bool(attachments or snapshots)

    @activity.defn(name=Activity.RELEASE_RESOURCES)
    async def release_resources(self, input: OperationInput) -> None:
        """Detach the VM's volumes, delete those that end with the VM, and delete its unfinished images.

        A volume or image that the cloud refuses to delete is marked ERROR, and the user can delete it separately. It
        does not keep the VM from being deleted.
        """
        step = await self._record_step(input, Activity.RELEASE_RESOURCES)
        attachments, snapshots = await self._claimed(step)
        ending = []
        for attachment in attachments:
            volume = await read_ref(self._engine, Volume, attachment.volume_id)
            await self._backend.detach_volume(_token(step, "release", volume.id), ref_of(step.vm), volume)
            await check_detached(self._backend, ref_of(step.vm), volume)
            ending += [volume] if attachment.delete_on_termination else []
        for snapshot in snapshots:
            deletion = self._backend.delete_image(_token(step, "release", snapshot.id), ref_of(snapshot))
            await self._delete_or_mark(input, Snapshot, snapshot.id, deletion)
        # Only after every volume is detached: a cloud does not delete a volume that is attached.
        for volume in ending:
            deletion = self._backend.delete_volume(_token(step, "delete", volume.id), volume)
            await self._delete_or_mark(input, Volume, volume.id, deletion)

    async def _delete_or_mark(
        self, input: OperationInput, model: type[Snapshot | Volume], id: UUID, deletion: Awaitable[None]
    ) -> None:
        """Carry out the deletion; if the cloud refuses it for good, mark the row as ERROR instead."""
        try:
            await deletion
        except BackendError as error:
            if error.retryable:
                raise
            async with self._engine.begin() as tx:
                await resource_claims.mark_undeletable(tx, model, id, input.operation_id)

    @activity.defn(name=Activity.SETTLE_REMAINS)
    async def settle_remains(self, input: OperationInput) -> LeftoversResult:
        """After a failed delete, delete the VM's unfinished images and return what else the cloud still has of it."""
        async with self._engine.begin() as tx:
            vm, _ = await step_records.check_holds(tx, input)
            assert vm is not None  # noqa: S101 - a delete has a VM
            of_vm = select(Attachment.volume_id).where(Attachment.vm_id == input.vm)
            attached = select(Volume).where(Volume.id.in_(of_vm))
            unfinished = select(Snapshot).where(Snapshot.vm_id == input.vm, Snapshot.operation_id == input.operation_id)
            volumes, snapshots = await queries.fetch_all(tx, attached), await queries.fetch_all(tx, unfinished)
        for snapshot in snapshots:
            # SETTLE_SERVER, which runs before, has revoked the operation, so these tokens must compensate.
            token = Token(input.operation_id, f"remove/{snapshot.id}", compensates=True)
            deletion = self._backend.delete_image(token, ref_of(snapshot))
            await self._delete_or_mark(input, Snapshot, snapshot.id, deletion)
        listed = (await self._backend.list_volumes([ref_of(volume) for volume in volumes])).values()
        plugged = await self._backend.list_ports([ref_of(vm)])
        return LeftoversResult(
            ports=tuple(ports.by_interface(plugged, await self._interfaces(vm.id))),
            attached=tuple(volume.id for volume in listed if volume.vm_id == vm.id),
            free=tuple(volume.id for volume in listed if volume.vm_id != vm.id),
            flavor_id=await self._flavor_of_server(ref_of(vm)),
        )

    async def _flavor_of_server(self, vm: Ref) -> UUID | None:
        server = (await self._backend.list_servers([vm])).get(vm.id)
        if server is None:
            return None
        async with database.autocommit(self._engine).connect() as connection:
            return await find_flavor(connection, vm.id, server)

    async def _interfaces(self, vm_id: UUID) -> Sequence[Interface]:
        """Return the VM's interfaces in the order of the request."""
        return await _INTERFACES.fetch(self._engine, {"of_vm": vm_id})

    async def _claimed(self, step: RecordedStep) -> tuple[Sequence[Attachment], Sequence[Snapshot]]:
        """Return the attachments and snapshots of the VM that the operation has claimed."""
        vm_id, operation_id = step.vm.id, step.operation.id
        attachments = select(Attachment).where(Attachment.vm_id == vm_id, Attachment.operation_id == operation_id)
        snapshots = select(Snapshot).where(Snapshot.vm_id == vm_id, Snapshot.operation_id == operation_id)
        async with database.autocommit(self._engine).connect() as connection:
            return await queries.fetch_all(connection, attachments), await queries.fetch_all(connection, snapshots)

    @activity.defn(name=Activity.UNDO_CREATE)
    async def undo_create(self, input: OperationInput) -> None:
        """Revoke the operation, then remove the server and the ports that the failed build made."""
        await self._revoke(input)
        vm = await self._fetch(select(VM).where(VM.id == input.vm))
        await self._backend.purge(ref_of(vm))
        volumes = [ref_of(volume) for volume, _ in await self._claimed_volumes(input.vm, input.operation_id)]
        if volumes:
            # The failure is recorded afterwards, and from then on the API promises that the volumes are available.
            await check_released(self._backend, ref_of(vm), volumes)

    async def _data_volumes(self, step: RecordedStep) -> tuple[DataVolume, ...]:
        """Return the volumes that the create attaches beside what the VM boots from, in the order of the request."""
        wanted = parameters_of(step.operation, CreateVM).volume_ids or ()
        if not wanted:
            return ()
        claimed = await self._claimed_volumes(step.vm.id, step.operation.id)
        found = {volume.id: DataVolume(ref_of(volume), device) for volume, device in claimed}
        # A delete of the VM may just have taken them over. Then it also removes what this step builds.
        return tuple(found[id] for id in wanted if id in found)

    async def _claimed_volumes(self, vm_id: UUID, operation_id: UUID) -> Sequence[tuple[Volume, str | None]]:
        """Return the volumes that the operation attaches to the VM, each with its device if we choose that."""
        claimed = (Attachment.vm_id == vm_id, Attachment.operation_id == operation_id)
        of_vm = select(Attachment.volume_id, Attachment.device).where(*claimed)
        async with database.autocommit(self._engine).connect() as connection:
            devices = {row.volume_id: row.device for row in await connection.execute(of_vm)}
            volumes = await queries.fetch_all(connection, select(Volume).where(Volume.id.in_(devices)))
        return [(volume, devices[volume.id]) for volume in volumes]


def _token(step: RecordedStep, verb: str, id: UUID) -> Token:
    """Return the token of one of several calls in a step. With a shared token, only the first would take effect."""
    return Token(step.operation.id, f"{verb}/{id}")


def _with_port(wanted: PortSpec, created: Mapping[UUID, Port]) -> PortSpec:
    """Return the spec with what the cloud has chosen, if the port exists already."""
    port = created.get(wanted.interface.id)
    if port is None:
        return wanted
    interface = Ref(wanted.interface.id, port.cloud_id)
    return replace(wanted, interface=interface, ip_address=port.ip_address, mac_address=port.mac_address)
