"""Changes as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Each event has a resource as it is then. The id of an event is the position in the database's changes that a client has
reached with it, so any process can go on from there. A client that missed some changes of a resource gets the last.
"""

import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

from fastapi.responses import StreamingResponse

from api.background.changes import TooManyWaitingError
from api.background.listeners import Change, Stream
from api.web import security
from api.web.dependencies import ProcessState
from api.web.oidc import ProviderCaller
from api.web.security import Caller, LoginCaller, Signing
from api.web.waiting import too_many_waiting
from domain.data.changes import Position

KEEP_ALIVE = 15.0  # seconds between two signs of life
LONGEST_STREAM = 900.0  # seconds; then the client comes back, and its access is checked again
LONGEST_ABSENCE = 3600.0  # seconds after which a client has to read its resources anew
_RECONNECT_AFTER = 1000  # milliseconds
_COMMENT = b":"

Render = Callable[[Change], bytes]
"""Returns the JSON of a change's resource."""


class EventStream(StreamingResponse):
    """An answer that goes on for as long as the client listens."""

    media_type = "text/event-stream"


async def follow(
    process: ProcessState, caller: Caller, last_id: str | None, render: Render, concerns: Callable[[Change], bool]
) -> EventStream:
    """Answer with the changes of the caller's resources that `concerns` lets through, after the event with `last_id`.

    ProblemError if the caller follows too much already.
    """
    events = _events(process, caller, last_id, render, concerns)
    try:
        first = await anext(events)
    except TooManyWaitingError:
        raise too_many_waiting() from None

    async def all_events() -> AsyncIterator[bytes]:
        yield first
        async with aclosing(events):
            async for event in events:
                # A token that was deleted stops at once. A client that may go on comes back, and has missed nothing.
                # A comment is worth no query, and a login needs none.
                is_checked = isinstance(caller, LoginCaller) or not event.startswith(_COMMENT)
                if is_checked and not await process.program_tokens.works(caller):
                    return
                yield event

    # nginx would keep the events until it has many.
    return EventStream(all_events(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def _events(
    process: ProcessState, caller: Caller, last_id: str | None, render: Render, concerns: Callable[[Change], bool]
) -> AsyncGenerator[bytes]:
    signing = process.signing
    last = None if last_id is None else _position(signing, last_id)
    is_unknown = last_id is not None and last is None
    end = time.monotonic() + min(LONGEST_STREAM, _life(caller))
    # A client whose own login has not ended comes back, and has missed nothing.
    with process.changes.follow(caller.id, last) as stream, process.epochs.calling(caller.id, stream.end):
        yield f"retry: {_RECONNECT_AFTER}\n\n".encode()
        while (left := end - time.monotonic()) > 0 and (news := await stream.next(min(KEEP_ALIVE, left))) is not None:
            for each in news:
                concerning = [change for change in each.changes if concerns(change)]
                id = _id(signing, each.position)
                if each.is_reset or is_unknown:
                    is_unknown = False
                    yield _event("reset", b"{}", id)
                if concerning:
                    yield _render_all(concerning, render, id)
            if not any(each.changes for each in news):
                yield _sign_of_life(signing, stream)


def _life(caller: Caller) -> float:
    """The seconds until the caller's token ends. Tokens of programs are looked up before each event."""
    return caller.expires_at - time.time() if isinstance(caller, LoginCaller | ProviderCaller) else math.inf


def _sign_of_life(signing: Signing, stream: Stream) -> bytes:
    """A comment, with the position of the client: it stays able to come back, however long nothing happens."""
    id = f"id: {_id(signing, stream.position)}\n" if stream.position else ""
    return _COMMENT + f" still here\n{id}\n".encode()


def _render_all(changes: Sequence[Change], render: Render, id: str) -> bytes:
    """The events of changes that were seen together. Only with the last has a client reached their position."""
    *others, last = changes
    return b"".join([*(_event(other.kind, render(other)) for other in others), _event(last.kind, render(last), id)])


def _event(kind: str, data: bytes, id: str | None = None) -> bytes:
    return b"".join([f"id: {id}\n".encode() if id else b"", f"event: {kind}\ndata: ".encode(), data, b"\n\n"])


def _id(signing: Signing, position: Position) -> str:
    # Sealed, because a made-up position could make PostgreSQL read all rows of all tables.
    return security.seal(signing, [int(time.time()), position.timeline, position.snapshot])


def _position(signing: Signing, id: str) -> Position | None:
    """The position of an event's id; None if it is none of ours, or too old."""
    match security.unseal(signing, id):
        case [int(issued_at), str(timeline), str(snapshot)] if time.time() - issued_at < LONGEST_ABSENCE:
            return Position(timeline, snapshot)
    return None
