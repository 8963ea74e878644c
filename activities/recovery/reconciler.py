"""Repairs the differences between the cloud and the database, or reports them to admins. Runs in every worker.

Where they differ, the cloud is right about what exists: the database is changed to match it, and an operation records
the change. What the database has deleted is removed from the cloud. What the database has never known may belong to
somebody else, so it is only reported.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError

from activities.backends.protocol import BackendError, ComputeBackend, Token
from activities.backends.resources import Ref
from activities.recovery import drift_detection
from activities.steps import find_flavor, read_ref
from domain.commands import acceptance
from domain.commands.reset_state import reset_state
from domain.commands.resize_decisions import latest_resize
from domain.data import advisory_locks, database, outages, queries
from domain.data.models import VM, Attachment, Interface, Snapshot, Volume
from domain.data.parameters import ResetState
from domain.rules.cloud import ServerStatus, vm_status_of
from domain.rules.resources import Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action
from domain.upkeep import findings
from domain.upkeep.findings import GONE, Difference, Drift

logger = logging.getLogger(__name__)

INTERVAL = 15.0  # seconds between two comparisons
# A finding is repaired only if a later comparison finds it unchanged. Clouds are eventually consistent, and a single
# wrong answer must not cost a VM. Different workers may compare within the same second, which proves no more than one
# comparison. So the time between the two comparisons must be at least this part of INTERVAL.
CONFIRM_AFTER_INTERVALS = 0.6
# If more resources than this are gone at once, the answer is probably wrong: credentials of another project, or a cloud
# that is partly down. The findings are shown to admins, but nothing is marked as gone.
MAX_GONE = 50
ACTOR: Final = "@reconcile"  # usernames do not begin with @

_FAULT_MESSAGES: Final = {
    Drift.SERVER_GONE: "The server disappeared from the cloud, although no delete was requested.",
    Drift.SERVER_ERROR: "The cloud reports the server in status ERROR, although no operation was running.",
}


class Confirmed(NamedTuple):
    """A difference that an earlier comparison has seen too: its finding, and the operation that last held it."""

    difference: Difference
    finding_id: UUID
    held_by: UUID


class Reconciler:
    """Compares and repairs periodically; an error ends one comparison, never the loop."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend, client: Client) -> None:
        self._engine = engine
        self._backend = backend
        self._client = client

    async def run(self) -> None:
        """Reconcile every INTERVAL until canceled. Skip a round if another worker is reconciling."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self._reconcile_unless_locked()
            except Exception as error:  # noqa: BLE001 - the loop must survive every error
                if outages.is_outage(error):
                    outages.log.failed(error)
                else:
                    logger.warning("Could not compare the cloud with the database: %s", outages.describe(error))
            else:
                outages.log.succeeded()

    async def _reconcile_unless_locked(self) -> None:
        # The lock ends with its transaction, and the transaction with the connection if the worker dies.
        async with self._engine.begin() as tx:
            if await queries.try_long_lock(tx, advisory_locks.RECONCILIATION):
                await self.reconcile()

    async def reconcile(self) -> None:
        """Record all present differences, and repair those that an earlier comparison has seen too."""
        began = await self._database_time()
        gone_count, gone = 0, list[Confirmed]()
        async for differences in drift_detection.find_drift(self._engine, self._backend):
            confirmed = await self._record(differences, began)
            gone_count += sum(found.drift in GONE for found in differences)
            # Only when the comparison is complete is it known whether too many resources are gone.
            gone += [found for found in confirmed if found.difference.drift in GONE][: MAX_GONE - len(gone)]
            await self._repair(found for found in confirmed if found.difference.drift not in GONE)
        async with self._engine.begin() as tx:
            await findings.resolve_unseen(tx, began)
        if gone_count > MAX_GONE:
            logger.error("%d resources are gone at once; they are reported, not marked as gone", gone_count)
        else:
            await self._repair(gone)

    async def _database_time(self) -> datetime:
        async with database.autocommit(self._engine).connect() as connection:
            now: datetime = (await connection.execute(select(func.now()))).scalar_one()
            return now

    async def _record(self, differences: Sequence[Difference], began: datetime) -> list[Confirmed]:
        """Record differences, and return those that may be repaired."""
        if not differences:
            return []
        async with self._engine.begin() as tx:
            finding_ids = await findings.record(tx, differences, began, CONFIRM_AFTER_INTERVALS * INTERVAL)
        found = [(difference, finding_ids.get((difference.drift, difference.id))) for difference in differences]
        # Only an operation in the database proves that the resource belongs to this service.
        return [Confirmed(difference, id, difference.held_by) for difference, id in found if id and difference.held_by]

    async def _repair(self, confirmed: Iterable[Confirmed]) -> None:
        for found in confirmed:
            await self._repair_one(found.difference, found.finding_id, found.held_by)

    async def _repair_one(self, found: Difference, finding_id: UUID, held_by: UUID) -> None:
        try:
            resolution = await self._remove_orphan(found, held_by) or await self._adopt(found)
            if resolution:
                logger.warning("%s %s had the finding %s: %s", found.kind, found.id, found.drift, resolution)
                async with self._engine.begin() as tx:
                    await findings.resolve(tx, finding_id, resolution)
        except Exception as error:
            if outages.is_outage(error):
                raise  # it would stop the other repairs, too
            # Any other error is of this finding alone, and must not stop the repairs behind it.
            reason = error if isinstance(error, BackendError) else outages.describe(error)
            logger.warning("%s %s still has the finding %s: %s", found.kind, found.id, found.drift, reason)

    async def _remove_orphan(self, found: Difference, held_by: UUID) -> str | None:
        """Remove an orphan from the cloud. Return a sentence for the finding, or None if it is no orphan."""
        # The operation that deleted it may be revoked, so the token must compensate.
        token = Token(held_by, f"reconcile/{found.id}", compensates=True)
        orphan = Ref(found.id, found.seen.get("cloud_id"))
        match found.drift, found.kind:
            case ((Drift.ORPHAN_SERVER | Drift.ORPHAN_PORT), Kind.VM):
                await self._backend.purge(orphan)
            case Drift.ORPHAN_VOLUME, _:
                await self._backend.delete_volume(token, orphan)
            case Drift.ORPHAN_IMAGE, _:
                await self._backend.delete_image(token, orphan)
            case _:
                return None
        return "It was removed from the cloud, because it had been deleted."

    async def _adopt(self, found: Difference) -> str | None:
        """Change the database to match the cloud. Return a sentence for the finding, or None if nothing changed.

        A row is changed only if the operation that held it during the comparison still holds it. If not, a newer
        request has claimed the row and takes precedence. Other kinds of drift need a person's decision.
        """
        match found.drift:
            case Drift.SERVER_GONE | Drift.SERVER_ERROR | Drift.POWER_STATE | Drift.RESIZE_DECIDED:
                return await self._adopt_server(found)
            case Drift.VOLUME_GONE | Drift.VOLUME_DETACHED:
                return await self._adopt_volume(found)
            case Drift.VOLUME_SIZE:
                return await self._adopt_size(found)
            case Drift.INTERFACE_GONE:
                return await self._adopt_interface(found)
            case Drift.IMAGE_GONE:
                return await self._adopt_image(found)
        return None

    async def _adopt_server(self, found: Difference) -> str | None:
        status = vm_status_of(ServerStatus(found.seen["server"]))
        message = _FAULT_MESSAGES.get(found.drift)
        fault = {"code": found.drift.value, "message": message} if message else None
        # Before the transaction, so that no lock is held while the cloud answers.
        ref = await read_ref(self._engine, VM, found.id)
        server = (await self._backend.list_servers([ref])).get(found.id)
        async with self._engine.begin() as tx:
            vm = await queries.lock_vm(tx, found.id)
            if vm is None or vm.operation_id != found.held_by or vm.task_state is not None or vm.attaching:
                return None
            decided = found.drift is Drift.RESIZE_DECIDED
            flavor_id = (await find_flavor(tx, vm.id, server) if decided and server else None) or vm.flavor_id
            reset = _reset_operation(found, status)
            await reset_state(tx, vm, status, reset, fault, flavor_id=flavor_id)
            resize = await latest_resize(tx, vm.id) if decided else None
        if resize is not None:
            await self._cancel_workflow(resize.workflow_id)
        return f"The VM became {status}, to match the cloud."

    async def _cancel_workflow(self, workflow_id: str) -> None:
        """Cancel the workflow that still waits for the decision on a resize that was decided in the cloud."""
        try:
            await self._client.get_workflow_handle(workflow_id).cancel()
        except RPCError as error:  # harmless: the workflow keeps waiting for a signal that never comes
            logger.warning("Could not cancel the workflow %s: %s", workflow_id, error)

    async def _adopt_volume(self, found: Difference) -> str | None:
        status = VolumeStatus.ERROR if found.drift is Drift.VOLUME_GONE else VolumeStatus.AVAILABLE
        reset = _reset_operation(found, status)
        async with self._engine.begin() as tx:
            vm = await _lock_vm_of(tx, found)
            held = update(Volume).where(Volume.id == found.id, Volume.operation_id == found.held_by)
            changed = held.values(status=status, operation_id=reset.id)
            volume = await queries.fetch_one(tx, changed.returning(Volume))
            if volume is None:
                return None
            # The volume before its attachment. Every transaction locks in this order: VM, volume, attachment, address.
            await tx.execute(delete(Attachment).where(Attachment.volume_id == found.id))
            await acceptance.record_done(tx, reset, volume.owner_id, vm.id if vm else None)
        return f"The volume became {volume.status}, to match the cloud."

    async def _adopt_size(self, found: Difference) -> str | None:
        size_gb, reset = found.seen["size_gb"], _reset_operation(found, found.seen["status"])
        async with self._engine.begin() as tx:
            vm = await _lock_vm_of(tx, found)
            held = update(Volume).where(Volume.id == found.id, Volume.operation_id == found.held_by)
            changed = held.values(size_gb=size_gb, operation_id=reset.id)
            volume = await queries.fetch_one(tx, changed.returning(Volume))
            if volume is None:
                return None
            await acceptance.record_done(tx, reset, volume.owner_id, vm.id if vm else None)
        return f"The volume has {size_gb} GiB now, to match the cloud."

    async def _adopt_interface(self, found: Difference) -> str | None:
        reset = _reset_operation(found, "gone")
        async with self._engine.begin() as tx:
            vm = await _lock_vm_of(tx, found)
            held = (Interface.id == found.id, Interface.operation_id == found.held_by)
            if vm is None or not (await tx.execute(delete(Interface).where(*held))).rowcount:
                return None
            await acceptance.record_done(tx, reset, vm.owner_id, vm.id)
        return "The interface was detached and its addresses were released, to match the cloud."

    async def _adopt_image(self, found: Difference) -> str | None:
        reset = _reset_operation(found, SnapshotStatus.ERROR)
        async with self._engine.begin() as tx:
            vm = await _lock_vm_of(tx, found)
            held = update(Snapshot).where(Snapshot.id == found.id, Snapshot.operation_id == found.held_by)
            changed = held.values(status=SnapshotStatus.ERROR, operation_id=reset.id)
            if vm is None or not (await tx.execute(changed)).rowcount:
                return None
            await acceptance.record_done(tx, reset, vm.owner_id, vm.id)
        return "The snapshot became ERROR, because the cloud no longer has its image."


async def _lock_vm_of(tx: AsyncConnection, found: Difference) -> VM | None:
    """Lock the VM that the resource belongs to and return it; None if it belongs to none.

    Every transaction locks the VM before its volumes, attachments and interfaces. One that locked a volume first could
    deadlock with a delete of the VM, which takes over all of them.
    """
    vm_id = found.seen.get("vm_id")
    return await queries.lock_vm(tx, UUID(vm_id)) if vm_id else None


def _reset_operation(found: Difference, status: str) -> acceptance.NewOperation:
    """Return the operation that records the repair."""
    reset = ResetState(status, because=found.drift.value, seen=found.seen)
    return acceptance.NewOperation(
        Action.RESET_STATE, ACTOR, "reconcile", reset, resource_type=found.kind, resource_id=found.id
    )
