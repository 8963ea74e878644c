"""Listens to server-sent events."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from time import monotonic

import httpx
from httpx_sse import ServerSentEvent
from pydantic import ValidationError

from vmctl.client import retries
from vmctl.client.aio.transport import Transport
from vmctl.client.errors import ProblemError, UnreachableError, is_final, unreadable
from vmctl.client.models import VM, Operation, Snapshot, Volume

Resource = VM | Volume | Snapshot | Operation
_MODELS: Mapping[str, type[Resource]] = {"vm": VM, "volume": Volume, "snapshot": Snapshot, "operation": Operation}


@dataclass(frozen=True)
class Event:
    """A resource has changed. `kind` is `vm`, `volume`, `snapshot`, `operation`, or `reset`.

    `reset` means that earlier changes may have been missed, so read what matters; later ones are not missed. It comes
    first unless the listening goes on after an earlier event, and again if the service cannot go on. It has no
    resource.
    """

    kind: str
    resource: Resource | None
    id: str


async def listen(transport: Transport, path: str, last_event_id: str | None = None) -> AsyncIterator[Event]:
    """Yield events for ever. A connection that is lost is made again, and continues after the last event."""
    last = last_event_id or None  # the id of a reset may be empty
    delays = retries.delays()
    while True:
        begun_at, is_open = monotonic(), False
        try:
            async for sent in transport.events(path, last):
                if last is None and not is_open:
                    yield Event("reset", None, "")
                is_open = True
                last = sent.id or last
                if sent.event in _MODELS or sent.event == "reset":
                    yield Event(sent.event, _resource(path, sent), sent.id)
        except (httpx.RequestError, UnreachableError, ProblemError) as error:
            if is_final(error):
                raise
            reason, wanted = transport.reason(error), getattr(error, "retry_after", 0.0)
        else:
            reason, wanted = "" if is_open else f"{path} ended before its first event", 0.0
        if monotonic() - begun_at > retries.LONGEST_DELAY:  # it was a real one, and not one of many that end at once
            delays = retries.delays()
        await transport.pause(reason, max(next(delays), wanted))


def _resource(path: str, sent: ServerSentEvent) -> Resource | None:
    if sent.event == "reset":
        return None
    try:
        return _MODELS[sent.event].model_validate_json(sent.data)
    except ValidationError as error:
        raise unreadable(path, error) from error
