"""The end of an operation in the activity that has waited for its server: the last checks, and the record.

A record after the wait would need an activity of its own, with the same guarantees: it is fenced and can be repeated.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Final, TypeVar

from sqlalchemy import BindParameter, bindparam, exists, select
from temporalio import activity

from activities import ports
from activities.backends.resources import Ref, Server
from activities.steps import StepActivities, check_size
from domain.data import queries
from domain.data.models import VM, Attachment, Interface, Operation
from domain.data.models import Volume as VolumeRow
from domain.data.parameters import target_flavor
from domain.data.prepared import Prepared
from domain.progress import quick_records, step_records
from domain.rules.messages import OperationInput
from domain.rules.states import Action, OperationStatus, TaskState

T = TypeVar("T")

_OF_VM: Final[BindParameter[Any]] = bindparam("of_vm")
_CREATED: Final = (Attachment.vm_id == _OF_VM, Attachment.operation_id == bindparam("of_operation"))
_NEW_SERVER: Final = Prepared(
    select(
        select(VM.cloud_id).where(VM.id == _OF_VM).scalar_subquery().label("cloud_id"),
        exists().where(Interface.vm_id == _OF_VM, Interface.cloud_id.is_(None)).label("has_ports"),
        exists().where(*_CREATED, Attachment.device.is_(None)).label("has_devices"),
    )
)
_CHANGES_FLAVOR = {Action.RESIZE, Action.CONFIRM_RESIZE, Action.REVERT_RESIZE}


class EndingActivities(StepActivities):
    """The base of the activities that wait for a server. It ends their operations."""

    async def _end_if(self, input: OperationInput, *, records: bool) -> bool:
        """Record the success if the wait is to do that; return whether it has."""
        if records:
            await until_done(self._record(input, None))
        return records

    async def _end(self, input: OperationInput, server: Server | None) -> None:
        """Do the last checks and record the success; SupersededError if another operation has taken over the VM."""
        if input.action in _CHANGES_FLAVOR:
            await self._check_flavor(input, server)
        # A cancel that comes now is too late. It must not leave open whether the success was recorded.
        await until_done(self._record(input, server))

    async def _check_flavor(self, input: OperationInput, server: Server | None) -> None:
        """Check that the server has the flavor that the operation gives it. Its status does not show that."""
        if input.action is Action.RESIZE:
            async with self._engine.begin() as tx:
                attempt = activity.info().attempt
                vm, operation = await step_records.enter_step(tx, input, TaskState.RESIZE_FINISH, attempt)
        else:
            vm, operation = await self._check_holds_vm(input)
        check_size(server, await self._server_spec(vm, target_flavor(operation)))

    async def _record(self, input: OperationInput, server: Server | None) -> None:
        zone = server.availability_zone if server and input.action is Action.CREATE else None
        if await quick_records.finish(self._engine, input, zone):
            return
        if zone:
            async with self._autocommit.connect() as connection:
                await step_records.note_zone(connection, input, zone)
        async with self._engine.begin() as tx:
            await step_records.finish(tx, input)

    async def _has_ended(self, input: OperationInput) -> bool:
        """Whether an earlier attempt has recorded the success, and only its answer was lost.

        The cloud may have changed again since then.
        """
        if activity.info().attempt == 1:
            return False
        is_it = (Operation.id == input.operation_id, Operation.epoch == input.epoch)
        succeeded = select(exists().where(*is_it, Operation.status == OperationStatus.SUCCEEDED))
        async with self._autocommit.connect() as connection:
            return bool(await connection.scalar(succeeded))

    async def _new_server(self, input: OperationInput) -> tuple[Ref, bool, bool]:
        """Return the server of a create, and whether the cloud chooses any of its ports, and any of its devices."""
        ids = {"of_vm": input.vm, "of_operation": input.operation_id}
        (found,) = await _NEW_SERVER.fetch(self._engine, ids)
        return Ref(input.vm, found.cloud_id), found.has_ports, found.has_devices

    async def _note_new_ports(self, input: OperationInput, vm: Ref) -> None:
        """Keep what the cloud has chosen for interfaces whose ports it has made together with the server."""
        of_vm = select(Interface).where(Interface.vm_id == vm.id)
        async with self._autocommit.connect() as connection:
            interfaces = await queries.fetch_all(connection, of_vm)
        unknown = {interface.id for interface in interfaces if interface.cloud_id is None}
        if unknown:
            found = ports.by_interface(await self._backend.list_ports([vm]), interfaces)
            await self._note_ports(input, {id: port for id, port in found.items() if id in unknown})

    async def _note_devices(self, input: OperationInput) -> None:
        """Keep the devices of the volumes that the server was built with, if the cloud has chosen them."""
        created = (Attachment.vm_id == input.vm, Attachment.operation_id == input.operation_id)
        unknown = select(VolumeRow.id, VolumeRow.cloud_id).join(Attachment, Attachment.volume_id == VolumeRow.id)
        async with self._autocommit.connect() as connection:
            found = await connection.execute(unknown.where(*created, Attachment.device.is_(None)))
            refs = [Ref(id, cloud_id) for id, cloud_id in found]
        for volume in (await self._backend.list_volumes(refs)).values() if refs else ():
            if volume.device:
                await self._note_created(input, Attachment, volume.id, device=volume.device)


async def until_done(work: Awaitable[T]) -> T:
    """Return the result of some work that a cancel of this activity does not interrupt. It must end soon by itself."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
