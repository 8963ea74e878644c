"""Events: what changes, as it happens."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Header

from api.background.listeners import Change
from api.routes import router
from api.routes.resources import BY_KIND
from api.web import openapi
from api.web.dependencies import CurrentUser, Process, ReadableVM
from api.web.event_stream import EventStream, follow

routes = router("", "events")

LastEventID = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=4096,
        description="The id of the last event that you got. The stream goes on after it, without loss for an hour. "
        "After a longer time it begins with the event `reset`: read your resources anew.",
    ),
]
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"description": "Events, for as long as you listen."}}


@routes.get(
    "/events", response_class=EventStream, responses=_EVENTS, openapi_extra=openapi.problems("too_many_waiting")
)
async def follow_events(caller: CurrentUser, process: Process, last_event_id: LastEventID = None) -> EventStream:
    """Follow all your VMs, volumes, snapshots and operations.

    The stream has an event whenever one of them changes: `vm`, `volume`, `snapshot` or `operation`, with the whole
    resource as JSON. A comment every 15 seconds shows that the stream is alive.
    """
    return await follow(process, caller, last_event_id, render, lambda _: True)


@routes.get(
    "/vms/{vm_id}/events",
    response_class=EventStream,
    responses=_EVENTS,
    openapi_extra=openapi.problems("too_many_waiting"),
)
async def follow_vm_events(
    caller: CurrentUser, process: Process, vm: ReadableVM, last_event_id: LastEventID = None
) -> EventStream:
    """Follow one VM, its operations and snapshots, and the volumes that are attached to it."""
    return await follow(process, caller, last_event_id, render, lambda change: _vm_of(change) == vm.id)


def render(change: Change) -> bytes:
    """The resource of a change as JSON."""
    return BY_KIND[change.kind].render(change.row)


def _vm_of(change: Change) -> UUID | None:
    vm_id: UUID | None = change.row.id if change.kind == "vm" else change.row.vm_id
    return vm_id
