# Generated from aio/events.py by `python -m tests.vmctl.generated`.

"""Listens to server-sent events."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import sleep

import httpx
from httpx_sse import ServerSentEvent
from pydantic import ValidationError

from vmctl.client import retries
from vmctl.client.errors import ProblemError, UnreachableError, UnreadableError, unreadable
from vmctl.client.models import VM, Operation, Snapshot, Volume
from vmctl.client.sync.transport import OPENED, Transport

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


def listen(transport: Transport, path: str, last_event_id: str | None = None) -> Iterator[Event]:
    """Yield events for ever. A connection that is lost is made again, and continues after the last event."""
    last = last_event_id
    delays = retries.delays()
    while True:
        try:
            for sent in transport.events(path, last):
                if sent.event == OPENED and last is None:
                    yield Event("reset", None, "")
                last = sent.id or last
                delays = retries.delays()
                if sent.event in _MODELS:
                    yield Event(sent.event, _resource(path, sent), sent.id)
                elif sent.event == "reset":
                    yield Event("reset", None, sent.id)
        except UnreadableError:
            raise
        except (httpx.RequestError, UnreachableError):
            pass
        except ProblemError as error:
            if error.problem.status not in retries.BUSY:
                raise
        sleep(next(delays))


def _resource(path: str, sent: ServerSentEvent) -> Resource:
    try:
        return _MODELS[sent.event].model_validate_json(sent.data)
    except ValidationError as error:
        raise unreadable(path, error) from error
