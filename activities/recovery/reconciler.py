"""Reconciles the database with the cloud, in every worker: what differs is repaired, or shown to the admins.

The cloud is right about what there is: the database follows it, and writes that down as an operation. What the database
has deleted is removed from the cloud. What it has never known may be anybody's, and is only shown.
"""

import asyncio
import logging
from typing import Final
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError

from activities.backends.protocol import BackendError, ComputeBackend, Token
from activities.recovery import drift_detection
from activities.steps import flavor_of
from domain.commands import acceptance
from domain.commands.reset_state import reset_state
from domain.commands.resize_decisions import undecided_resize
from domain.data import database, queries
from domain.data.models import VM, Attachment, Interface, Snapshot, Volume
from domain.data.parameters import ResetState
from domain.rules.cloud import ServerStatus
from domain.rules.resources import Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status
from domain.upkeep import findings
from domain.upkeep.findings import GONE, Difference, Drift

logger = logging.getLogger(__name__)

INTERVAL = 15.0  # seconds between looks; what is done about a difference is done after the second that sees it
RIPE = 0.6  # of it lie between the looks: workers take turns in looking, and two may look one right after the other
MOST_GONE = 50  # more at once are rather an answer of another project's, or of half a cloud
ACTOR: Final = "@reconcile"  # no username begins like this
_LOCK: Final = 7_166_401_205  # of the one worker that looks

_FAULTS: Final = {
    Drift.SERVER_GONE: "The cloud no longer has the server, and nobody had asked to delete it.",
    Drift.SERVER_ERROR: "The cloud shows the server in ERROR, though nothing was asked of it.",
}


class Reconciler:
    """Looks from `run` until cancelled; nothing that goes wrong ends it in between."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend, client: Client) -> None:
        self._engine = engine
        self._backend = backend
        self._client = client

    async def run(self) -> None:
        """Look every INTERVAL, unless another worker does."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self._look_alone()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next look is due all the same
                logger.warning("could not compare the cloud with the database: %s", error)

    async def _look_alone(self) -> None:
        async with database.autocommit(self._engine).connect() as connection:
            if not await connection.scalar(select(func.pg_try_advisory_lock(_LOCK))):
                return
            try:
                await self.look()
            finally:
                await connection.execute(select(func.pg_advisory_unlock(_LOCK)))

    async def look(self) -> None:
        """Write down what differs now, and act on what differed in the look before as well."""
        found = await drift_detection.find(self._engine, self._backend)
        async with self._engine.begin() as tx:
            again = await findings.record(tx, found, RIPE * INTERVAL)
        gone = sum(one.drift in GONE for one in found)
        if gone > MOST_GONE:
            logger.error("%d things are gone from the cloud at once: that is shown to admins and not believed", gone)
            found = [one for one in found if one.drift not in GONE]
        for one in found:
            finding_id = again.get((one.drift, one.id))
            if finding_id is not None and one.held_by is not None:
                await self._repair(one, finding_id, one.held_by)

    async def _repair(self, found: Difference, finding_id: UUID, held_by: UUID) -> None:
        try:
            how = await self._remove(found, held_by) or await self._follow(found)
        except BackendError as error:
            logger.warning("%s %s is %s and stays: %s", found.kind, found.id, found.drift, error)
            return
        if how:
            logger.warning("%s %s was %s: %s", found.kind, found.id, found.drift, how)
            async with self._engine.begin() as tx:
                await findings.resolve(tx, finding_id, how)

    async def _remove(self, found: Difference, held_by: UUID) -> str | None:
        """Remove from the cloud what the database has deleted."""
        token = Token(held_by, f"reconcile/{found.id}", compensates=True)
        match found.drift, found.kind:
            case ((Drift.ORPHAN_SERVER | Drift.ORPHAN_PORT), Kind.VM):
                await self._backend.purge(found.id)
            case Drift.ORPHAN_VOLUME, _:
                await self._backend.delete_volume(token, found.id)
            case Drift.ORPHAN_IMAGE, _:
                await self._backend.delete_image(token, found.id)
            case _:
                return None
        return "It was removed from the cloud, as it had been deleted."

    async def _follow(self, found: Difference) -> str | None:
        """Have the database follow the cloud, unless something was asked meanwhile."""
        match found.drift:
            case Drift.SERVER_GONE | Drift.SERVER_ERROR | Drift.POWER_STATE | Drift.RESIZE_DECIDED:
                return await self._follow_server(found)
            case Drift.VOLUME_GONE | Drift.VOLUME_DETACHED:
                return await self._follow_volume(found)
            case Drift.INTERFACE_GONE:
                return await self._follow_interface(found)
            case Drift.IMAGE_GONE:
                return await self._follow_image(found)
        return None

    async def _follow_server(self, found: Difference) -> str | None:
        seen = ServerStatus(found.seen["server"])
        status = Status(seen.value) if seen in {ServerStatus.ACTIVE, ServerStatus.SHUTOFF} else Status.ERROR
        message = _FAULTS.get(found.drift)
        fault = {"code": found.drift.value, "message": message} if message else None
        server = (await self._backend.list_servers([found.id])).get(found.id)
        async with self._engine.begin() as tx:
            vm = await queries.lock_vm(tx, found.id)
            if vm is None or vm.operation_id != found.held_by or vm.task_state is not None or vm.attaching:
                return None
            decided = found.drift is Drift.RESIZE_DECIDED
            flavor_id = (await flavor_of(tx, vm.id, server) if decided and server else None) or vm.flavor_id
            asked = _asked(found, status)
            await reset_state(tx, vm, status, asked, fault, flavor_id=flavor_id)
            resize = await undecided_resize(tx, vm.id) if decided else None
        if resize is not None:
            await self._let_go(resize.workflow_id)
        return f"The VM became {status}, as the cloud has it."

    async def _let_go(self, workflow_id: str) -> None:
        """Cancel the workflow of a resize that waits to be decided, and was."""
        try:
            await self._client.get_workflow_handle(workflow_id).cancel()
        except RPCError as error:  # it waits on, and disturbs nobody
            logger.warning("could not cancel %s: %s", workflow_id, error)

    async def _follow_volume(self, found: Difference) -> str | None:
        status = VolumeStatus.ERROR if found.drift is Drift.VOLUME_GONE else VolumeStatus.AVAILABLE
        asked = _asked(found, status)
        async with self._engine.begin() as tx:
            vm = await _lock_vm(tx, found)
            held = update(Volume).where(Volume.id == found.id, Volume.operation_id == found.held_by)
            changed = held.values(status=status, operation_id=asked.id)
            volume = await queries.fetch_one(tx, changed.returning(Volume))
            if volume is None:
                return None
            await tx.execute(delete(Attachment).where(Attachment.volume_id == found.id))
            await acceptance.record_done(tx, asked, volume.owner_id, vm.id if vm else None)
        return f"The volume became {volume.status}, as the cloud has it."

    async def _follow_interface(self, found: Difference) -> str | None:
        asked = _asked(found, "gone")
        async with self._engine.begin() as tx:
            vm = await _lock_vm(tx, found)
            held = (Interface.id == found.id, Interface.operation_id == found.held_by)
            if vm is None or not (await tx.execute(delete(Interface).where(*held))).rowcount:
                return None
            await acceptance.record_done(tx, asked, vm.owner_id, vm.id)
        return "The interface was detached, as the cloud has it, and its addresses were given back."

    async def _follow_image(self, found: Difference) -> str | None:
        asked = _asked(found, SnapshotStatus.ERROR)
        async with self._engine.begin() as tx:
            vm = await _lock_vm(tx, found)
            held = update(Snapshot).where(Snapshot.id == found.id, Snapshot.operation_id == found.held_by)
            changed = held.values(status=SnapshotStatus.ERROR, operation_id=asked.id)
            if vm is None or not (await tx.execute(changed)).rowcount:
                return None
            await acceptance.record_done(tx, asked, vm.owner_id, vm.id)
        return "The snapshot became ERROR, as the cloud no longer has its image."


async def _lock_vm(tx: AsyncConnection, found: Difference) -> VM | None:
    """The VM that it is of, if it is of one, which is locked before what it has."""
    vm_id = found.seen.get("vm_id")
    return await queries.lock_vm(tx, UUID(vm_id)) if vm_id else None


def _asked(found: Difference, status: str) -> acceptance.NewOperation:
    reset = ResetState(status, because=found.drift.value, seen=found.seen)
    return acceptance.NewOperation(
        Action.RESET_STATE, ACTOR, "reconcile", reset, resource_type=found.kind, resource_id=found.id
    )
