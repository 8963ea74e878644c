"""Repairs one difference between the cloud and the database that two comparisons have found.

The cloud is right about what exists: the database is changed to match it, and an operation records the change. What the
database has deleted is removed from the cloud.
"""

import logging
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError

from activities.backends.protocol import ComputeBackend, Token
from activities.backends.resources import Ref, Server
from activities.recovery import returns
from activities.steps import find_flavor, read_ref
from domain.commands import acceptance
from domain.commands.reset_state import reset_state
from domain.commands.resize_decisions import latest_resize, record_resize
from domain.data import queries
from domain.data.models import VM, Attachment, Interface, Snapshot, Volume
from domain.data.parameters import ResetState
from domain.rules.cloud import ServerStatus, vm_status_of
from domain.rules.resources import AttachmentStatus, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status
from domain.upkeep.findings import ACTOR, Difference, Drift

logger = logging.getLogger(__name__)

REQUEST_ID: Final = "reconcile"
_OF_SERVERS: Final = {
    Drift.SERVER_GONE,
    Drift.SERVER_ERROR,
    Drift.SERVER_RECOVERED,
    Drift.POWER_STATE,
    Drift.RESIZED,
    Drift.RESIZE_DECIDED,
    Drift.SERVER_SIZE,
    Drift.SERVER_IMAGE,
}
_FAULT_MESSAGES: Final = {
    Drift.SERVER_GONE: "The server disappeared from the cloud, although no delete was requested.",
    Drift.SERVER_ERROR: "The cloud reports the server in status ERROR, although no operation was running.",
}


class Repairs:
    """Repairs differences, one at a time."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend, client: Client) -> None:
        self._engine = engine
        self._backend = backend
        self._client = client

    async def repair(self, found: Difference, held_by: UUID) -> str | None:
        """Repair a difference. Return a sentence for its finding, or None if nothing changed.

        `held_by` is the operation that last held the resource.
        """
        return await self._remove_orphan(found, held_by) or await self._adopt(found)

    async def _remove_orphan(self, found: Difference, held_by: UUID) -> str | None:
        """Remove an orphan from the cloud. Return a sentence for the finding, or None if it is no orphan."""
        # The operation that deleted it may be revoked, so the token must compensate.
        cloud_id = found.seen.get("cloud_id")
        token = Token(held_by, f"reconcile/{cloud_id or found.id}", compensates=True)
        orphan = Ref(found.id, cloud_id)
        if found.seen.get("of_operation") and found.kind is Kind.VM and cloud_id:
            # The VM is live, so its ports and its own server stay: only this server is meant.
            await self._backend.purge(Ref(UUID(cloud_id), cloud_id))
            return "It was removed from the cloud, because it was left over from the build."
        match found.drift, found.kind:
            case ((Drift.ORPHAN_SERVER | Drift.ORPHAN_PORT), Kind.VM):
                await self._backend.purge(orphan)
            case Drift.ORPHAN_VOLUME, _:
                await self._backend.delete_volume(token, orphan)
            case Drift.ORPHAN_IMAGE, _:
                await self._backend.delete_image(token, orphan)
            case Drift.ORPHAN_PORT, Kind.INTERFACE if found.held_by:
                vm = await read_ref(self._engine, VM, UUID(found.seen["vm_id"]))
                await self._backend.delete_server_interface(token, vm, orphan)
            case _:
                return None
        return "It was removed from the cloud, because nothing here has it any more."

    async def _adopt(self, found: Difference) -> str | None:
        """Change the database to match the cloud. Return a sentence for the finding, or None if nothing changed.

        A row is changed only if the operation that held it during the comparison still holds it. If not, a newer
        request has claimed the row and takes precedence. Other kinds of drift need a person's decision.
        """
        match found.drift:
            case drift if drift in _OF_SERVERS:
                adopt = self._adopt_server
            case Drift.VOLUME_GONE | Drift.VOLUME_ERROR | Drift.VOLUME_DETACHED | Drift.VOLUME_RECOVERED:
                adopt = self._adopt_volume
            case Drift.VOLUME_SIZE:
                adopt = self._adopt_size
            case Drift.INTERFACE_GONE:
                adopt = self._adopt_interface
            case Drift.INTERFACE_RECOVERED:
                adopt = self._adopt_port
            case Drift.IMAGE_GONE | Drift.IMAGE_RECOVERED:
                adopt = self._adopt_image
            case _:
                return None
        return await adopt(found)

    async def _adopt_server(self, found: Difference) -> str | None:
        # Before the transaction, so that no lock is held while the cloud answers.
        ref = await read_ref(self._engine, VM, found.id)
        server = (await self._backend.list_servers([ref])).get(found.id)
        if (server.status if server else ServerStatus.GONE) != found.seen["server"]:
            return None  # it has changed again, which the next comparison sees
        async with self._engine.begin() as tx:
            vm = await queries.lock_vm(tx, found.id)
            if vm is None or vm.operation_id != found.held_by or vm.task_state is not None or vm.attaching:
                return None
            if found.drift is Drift.RESIZED:
                return await _adopt_resize(tx, vm, server)
            chosen = await _chosen_elsewhere(tx, vm, found, server)
            if chosen is None:
                return None
            status = vm_status_of(ServerStatus(found.seen["server"]))
            await reset_state(tx, vm, status, _reset_operation(found, status), _fault(found, server), **chosen)
            resize = await latest_resize(tx, vm.id) if found.drift is Drift.RESIZE_DECIDED else None
        if resize is not None and resize.workflow_id:
            await self._cancel_workflow(resize.workflow_id)
        if status is vm.status:
            return f"The VM's {' and '.join(chosen)} changed, to match the cloud."
        return f"The VM became {status}, to match the cloud."

    async def _cancel_workflow(self, workflow_id: str) -> None:
        """Cancel the workflow that still waits for the decision on a resize that was decided in the cloud."""
        try:
            await self._client.get_workflow_handle(workflow_id).cancel()
        except RPCError as error:  # harmless: the workflow keeps waiting for a signal that never comes
            logger.warning("Could not cancel the workflow %s: %s", workflow_id, error)

    async def _adopt_volume(self, found: Difference) -> str | None:
        has_vm = "vm_id" in found.seen or "cloud_vm_id" in found.seen
        is_attached = has_vm and found.drift in {Drift.VOLUME_ERROR, Drift.VOLUME_RECOVERED}
        at_rest = VolumeStatus.IN_USE if is_attached else VolumeStatus.AVAILABLE
        status = VolumeStatus.ERROR if found.drift in {Drift.VOLUME_GONE, Drift.VOLUME_ERROR} else at_rest
        if not await self._change_volume(found, status, detached=not is_attached, status=status):
            return None
        return f"The volume became {status}, to match the cloud."

    async def _adopt_size(self, found: Difference) -> str | None:
        size_gb = found.seen["size_gb"]
        if not await self._change_volume(found, found.seen["status"], size_gb=size_gb):
            return None
        return f"The volume has {size_gb} GiB now, to match the cloud."

    async def _change_volume(self, found: Difference, becomes: str, *, detached: bool = False, **values: Any) -> bool:
        """Write the values into the volume's row and record its new status; False if another operation holds it."""
        reset = _reset_operation(found, becomes)
        has_vm_again = "cloud_vm_id" in found.seen and "vm_id" not in found.seen
        async with self._engine.begin() as tx:
            vm = await _lock_vm_of(tx, found)
            if has_vm_again and (vm is None or not returns.is_idle(vm)):
                return False
            held = update(Volume).where(Volume.id == found.id, Volume.operation_id == found.held_by)
            changed = held.values(**values, operation_id=reset.id)
            volume = await queries.fetch_one(tx, changed.returning(Volume))
            if volume is None:
                return False
            # The volume before its attachment. Every transaction locks in this order: VM, volume, attachment, address.
            if detached:
                await tx.execute(delete(Attachment).where(Attachment.volume_id == found.id))
                await queries.note_vm_changed(tx, vm.id if vm else None)
            if vm and has_vm_again:
                await returns.add_attachment(tx, vm, found, reset.id)
            await acceptance.record_done(tx, reset, volume.owner_id, vm.id if vm else None)
        return True

    async def _adopt_interface(self, found: Difference) -> str | None:
        reset = _reset_operation(found, "gone")
        async with self._engine.begin() as tx:
            vm = await _lock_vm_of(tx, found)
            held = (Interface.id == found.id, Interface.operation_id == found.held_by)
            if vm is None or not (await tx.execute(delete(Interface).where(*held))).rowcount:
                return None
            await queries.note_vm_changed(tx, vm.id)
            await acceptance.record_done(tx, reset, vm.owner_id, vm.id)
        return "The interface was detached and its addresses were released, to match the cloud."

    async def _adopt_port(self, found: Difference) -> str | None:
        vm_id, cloud_id = UUID(found.seen["vm_id"]), found.seen["cloud_id"]
        # Before the transaction, so that no lock is held while the cloud answers.
        ports = await self._backend.list_ports([await read_ref(self._engine, VM, vm_id)])
        port = next((port for port in ports if port.cloud_id == cloud_id), None)
        reset = _reset_operation(found, AttachmentStatus.ATTACHED)
        async with self._engine.begin() as tx:
            vm = await _lock_vm_of(tx, found)
            if vm is None or port is None or vm.operation_id != found.held_by or not returns.is_idle(vm):
                return None
            await returns.add_interface(tx, vm, found.id, port, reset.id)
            await acceptance.record_done(tx, reset, vm.owner_id, vm.id)
        return "The interface is attached again, with the addresses of its port, to match the cloud."

    async def _adopt_image(self, found: Difference) -> str | None:
        is_gone = found.drift is Drift.IMAGE_GONE
        status = SnapshotStatus.ERROR if is_gone else SnapshotStatus.AVAILABLE
        reset = _reset_operation(found, status)
        async with self._engine.begin() as tx:
            vm = await _lock_vm_of(tx, found)
            held = update(Snapshot).where(Snapshot.id == found.id, Snapshot.operation_id == found.held_by)
            changed = held.values(status=status, operation_id=reset.id)
            if vm is None or not (await tx.execute(changed)).rowcount:
                return None
            await acceptance.record_done(tx, reset, vm.owner_id, vm.id)
        return f"The snapshot became {status}, because the cloud {'no longer has' if is_gone else 'has'} its image."


async def _adopt_resize(tx: AsyncConnection, vm: VM, server: Server | None) -> str | None:
    """Record a resize or a migration that somebody made in the cloud, so that it can be confirmed or reverted here."""
    flavor_id = await find_flavor(tx, vm.id, server) if server else None
    if flavor_id is None:
        return None  # the new size is none of the catalogue's
    await record_resize(tx, vm, flavor_id, ACTOR, REQUEST_ID)
    return "The VM became VERIFY_RESIZE, to match the cloud."


async def _chosen_elsewhere(
    tx: AsyncConnection, vm: VM, found: Difference, server: Server | None
) -> dict[str, UUID] | None:
    """Return the flavor or the image that somebody gave the server; None if the catalogue does not have it."""
    if found.drift is Drift.SERVER_IMAGE:
        return {"image_id": UUID(found.seen["image"])}
    may_differ = {Drift.RESIZE_DECIDED, Drift.SERVER_SIZE, Drift.SERVER_RECOVERED}
    flavor_id = await find_flavor(tx, vm.id, server) if server and found.drift in may_differ else None
    if found.drift is Drift.SERVER_SIZE and (flavor_id is None or vm.status is Status.VERIFY_RESIZE):
        return None
    return {"flavor_id": flavor_id} if flavor_id else {}


def _fault(found: Difference, server: Server | None) -> dict[str, Any] | None:
    """Return the fault of a VM whose server is gone or failed, with the cloud's own words if it has any."""
    message = _FAULT_MESSAGES.get(found.drift)
    if message and server and server.fault:
        message = f"{message} It says: {server.fault.message}"
    return {"code": found.drift.value, "message": message} if message else None


async def _lock_vm_of(tx: AsyncConnection, found: Difference) -> VM | None:
    """Lock the VM that the resource belongs to and return it; None if it belongs to none.

    Every transaction locks the VM before its volumes, attachments and interfaces. One that locked a volume first could
    deadlock with a delete of the VM, which takes over all of them.
    """
    vm_id = found.seen.get("vm_id") or found.seen.get("cloud_vm_id")
    return await queries.lock_vm(tx, UUID(vm_id)) if vm_id else None


def _reset_operation(found: Difference, status: str) -> acceptance.NewOperation:
    """Return the operation that records the repair."""
    reset = ResetState(status, because=found.drift.value, seen=found.seen)
    return acceptance.NewOperation(
        Action.RESET_STATE, ACTOR, REQUEST_ID, reset, resource_type=found.kind, resource_id=found.id
    )
