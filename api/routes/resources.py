"""The resources that clients read one by one, wait for and follow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Response
from sqlalchemy import Label, func, literal

from api.routes import answers
from api.web.dependencies import CurrentRequester, Process, ProcessState
from api.web.guards import Guard, IfMatch, IfMatchOfVM
from api.web.idempotency import Once, OnceOrTrial, OncePerKey
from api.web.single import Resource, etag
from domain.commands import changes
from domain.commands.acceptance import Requester
from domain.data.models import VM, Operation, Snapshot, Volume
from domain.data.views import View, views
from domain.rules.lifecycle import is_at_rest
from domain.rules.resources import Kind
from domain.rules.states import OPEN_STATUSES
from domain.settings import Settings

_SHORTEST_PAUSE, _LONGEST_PAUSE = 1, 30  # seconds between two requests for an operation's progress
_PATIENCE = 8  # the longer an operation has run, the longer the pause: one part in so many


def _pause(operation: Any) -> Mapping[str, str]:
    """When a client that does not wait should ask again for an operation that has not ended."""
    if operation.status not in OPEN_STATUSES:
        return {}
    now = datetime.now(UTC)
    pause = (now - operation.created_at).total_seconds() / _PATIENCE
    if operation.next_retry_at:
        pause = (operation.next_retry_at - now).total_seconds()
    return {"Retry-After": str(math.ceil(min(max(pause, _SHORTEST_PAUSE), _LONGEST_PAUSE)))}


VMS = Resource("VM", VM.__tablename__, VM.owner_id, answers.VM, lambda vm: vm.task_state is None)
VOLUMES = Resource(
    "volume",
    Volume.__tablename__,
    Volume.owner_id,
    answers.Volume,
    lambda volume: is_at_rest(Kind.VOLUME, volume.status),
)
SNAPSHOTS = Resource(
    "snapshot",
    Snapshot.__tablename__,
    Snapshot.owner_id,
    answers.Snapshot,
    lambda snapshot: is_at_rest(Kind.SNAPSHOT, snapshot.status),
)
OPERATIONS = Resource(
    "operation",
    Operation.__tablename__,
    Operation.owner_id,
    answers.Operation,
    lambda operation: operation.status not in OPEN_STATUSES,
    _pause,
)
BY_KIND = {"vm": VMS, "volume": VOLUMES, "snapshot": SNAPSHOTS, "operation": OPERATIONS}
"""By the kind of their views, which is also the name of their events."""


def temporal_url(settings: Settings) -> Label[str]:
    """The link to an operation's workflow in the Temporal Web UI; NULL if it has no workflow (reset-state)."""
    workflows = literal(f"{settings.temporal_ui_url}/namespaces/{settings.temporal_namespace}/workflows/")
    return workflows.concat(func.nullif(Operation.workflow_id, "")).label("temporal_url")


def views_of(settings: Settings) -> dict[str, View]:
    """How the resources are read, by table."""
    return views(temporal_url(settings))


def _guarded(  # noqa: PLR0913 - what a guard has
    once: Once, process: ProcessState, resource: Resource, id: UUID, condition: str | None, *, of_anybody: bool = False
) -> Once:
    if condition is None:
        return once
    view = process.changes.views[resource.table]
    return replace(once, guard=Guard(resource, view, id, condition, of_anybody=of_anybody))


async def _once_on_vm(once: OncePerKey, process: Process, vm_id: UUID, if_match: IfMatchOfVM = None) -> Once:
    return _guarded(once, process, VMS, vm_id, if_match)


async def _once_or_trial_on_vm(once: OnceOrTrial, process: Process, vm_id: UUID, if_match: IfMatchOfVM = None) -> Once:
    return _guarded(once, process, VMS, vm_id, if_match)


async def _once_on_volume(once: OncePerKey, process: Process, volume_id: UUID, if_match: IfMatch = None) -> Once:
    return _guarded(once, process, VOLUMES, volume_id, if_match)


async def _once_or_trial_on_volume(
    once: OnceOrTrial, process: Process, volume_id: UUID, if_match: IfMatch = None
) -> Once:
    return _guarded(once, process, VOLUMES, volume_id, if_match)


async def _once_on_snapshot(once: OncePerKey, process: Process, snapshot_id: UUID, if_match: IfMatch = None) -> Once:
    return _guarded(once, process, SNAPSHOTS, snapshot_id, if_match)


async def _once_or_trial_on_operation(
    once: OnceOrTrial, process: Process, operation_id: UUID, if_match: IfMatch = None
) -> Once:
    return _guarded(once, process, OPERATIONS, operation_id, if_match)


async def _once_or_trial_on_any_vm(
    once: OnceOrTrial, process: Process, vm_id: UUID, if_match: IfMatchOfVM = None
) -> Once:
    return _guarded(once, process, VMS, vm_id, if_match, of_anybody=True)


async def _once_or_trial_on_any_operation(
    once: OnceOrTrial, process: Process, operation_id: UUID, if_match: IfMatch = None
) -> Once:
    return _guarded(once, process, OPERATIONS, operation_id, if_match, of_anybody=True)


@dataclass(frozen=True, slots=True)
class Changer:
    """Changes the name or labels of one resource, if `If-Match` allows it."""

    process: Process
    requester: Requester
    if_match: str | None

    async def __call__(self, resource: Resource, id: UUID, fields: Mapping[str, Any]) -> Response:
        """Change the fields, and answer with the resource and its new ETag."""
        view = self.process.changes.views[resource.table]
        async with self.process.engine.begin() as tx:
            if self.if_match is not None:
                await Guard(resource, view, id, self.if_match).check(tx, self.requester.user_id)
            await changes.change(tx, self.requester, view.model, id, fields)
            row = (await tx.execute(view.rows.where(view.id == id))).one()
        body = resource.render(row)
        return Response(body, headers={"ETag": etag(body)}, media_type="application/json")


async def _changer(process: Process, requester: CurrentRequester, if_match: IfMatch = None) -> Changer:
    return Changer(process, requester, if_match)


ChangeOne = Annotated[Changer, Depends(_changer)]
# OncePerKey and OnceOrTrial for changes that `If-Match` may guard. Attachments and interfaces have no ETag of their
# own, so the tag is that of their VM, which shows them.
OnceOnVM = Annotated[Once, Depends(_once_on_vm)]
OnceOrTrialOnVM = Annotated[Once, Depends(_once_or_trial_on_vm)]
OnceOnVolume = Annotated[Once, Depends(_once_on_volume)]
OnceOrTrialOnVolume = Annotated[Once, Depends(_once_or_trial_on_volume)]
OnceOnSnapshot = Annotated[Once, Depends(_once_on_snapshot)]
OnceOrTrialOnOperation = Annotated[Once, Depends(_once_or_trial_on_operation)]
OnceOrTrialOnAnyVM = Annotated[Once, Depends(_once_or_trial_on_any_vm)]
OnceOrTrialOnAnyOperation = Annotated[Once, Depends(_once_or_trial_on_any_operation)]
"""For admins, also for the resources of others."""
