"""Changes as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Each event has a resource as it is then. The id of an event is the position in the database's changes that a client has
reached with it, so any process can go on from there. A client that missed some changes of a resource gets the last.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from functools import lru_cache
from itertools import chain

from fastapi.responses import StreamingResponse

from api.background.changes import TooManyWaitingError
from api.background.listeners import Change, News, Stream
from api.web import security
from api.web.dependencies import ProcessState
from api.web.program_tokens import seconds_left
from api.web.security import Caller, ProgramCaller, Signing
from api.web.waiting import too_many_waiting
from domain.data.changes import Position

KEEP_ALIVE = 15.0  # seconds between two signs of life
LONGEST_STREAM = 900.0  # seconds; then the client comes back, and its access is checked again
LONGEST_ABSENCE = 3600.0  # seconds after which a client has to read its resources anew
CHECK_AGAIN = 1.0  # seconds between two looks at a program's token while events go to a slow client
PART = 16 * 1024  # bytes that are sent together; an event that is larger is a part of its own
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
    parts = _parts(process, caller, last_id, render, concerns)
    try:
        first = await anext(parts)
    except TooManyWaitingError as error:
        raise too_many_waiting(error) from None

    async def all_parts() -> AsyncIterator[bytes]:
        yield first
        async with aclosing(parts):
            async for part in parts:
                yield part

    # nginx would keep the events until it has many.
    return EventStream(all_parts(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def _parts(
    process: ProcessState, caller: Caller, last_id: str | None, render: Render, concerns: Callable[[Change], bool]
) -> AsyncGenerator[bytes]:
    signing = process.signing
    last, knows = (None, None) if last_id is None else _reached(signing, last_id)
    is_unknown = last_id is not None and last is None
    end = time.monotonic() + min(LONGEST_STREAM, seconds_left(caller))
    # A client whose own login has not ended comes back, and has missed nothing.
    with process.changes.follow(caller.id, last, knows) as stream, process.epochs.calling(caller.id, stream.end):
        yield f"retry: {_RECONNECT_AFTER}\n\n".encode()
        quiet_since = time.monotonic()
        while (now := time.monotonic()) < end:
            news = await stream.next(max(min(quiet_since + KEEP_ALIVE, end) - now, 0.0))
            if news is None:
                return
            events = _events(signing, news, render, concerns, is_unknown=is_unknown)
            is_unknown = is_unknown and not news
            # There may be changes at any time that are not of the one VM that this client follows.
            is_due = time.monotonic() >= quiet_since + KEEP_ALIVE
            if not any(each.changes for each in news) or (is_due and not _concern(news, concerns)):
                events = chain(events, [_sign_of_life(signing, stream)])
            checked = -math.inf
            async for part in _in_turn(process.changes.sending, _joined(events)):
                # It may be long since the changes came, if the client reads slowly.
                if time.monotonic() >= end:
                    return
                # A token that was deleted stops at once. A client that may go on comes back, and has missed nothing.
                if _is_to_be_checked(caller, part, checked):
                    checked = time.monotonic()
                    if not await process.program_tokens.works(caller):
                        return
                yield part
                quiet_since = time.monotonic()
            del news, events  # a stream that waits keeps no change


def _is_to_be_checked(caller: Caller, part: bytes, checked: float) -> bool:
    """Whether the caller's right to a part has to be looked up; `checked` is when it was last, since the changes came.

    A comment is worth no query, and only the token of a program needs one.
    """
    if not isinstance(caller, ProgramCaller):
        return True
    return not part.startswith(_COMMENT) and time.monotonic() - checked > CHECK_AGAIN


async def _in_turn(turns: asyncio.Semaphore, parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Make each part when this stream has its turn, so that other requests go on between those of many streams.

    A client that does not read takes no turns: uvicorn's `send` waits for it.
    """
    while True:
        async with turns:
            part = next(parts, None)
            await asyncio.sleep(0)
        if part is None:
            return
        yield part


def _joined(events: Iterable[bytes]) -> Iterator[bytes]:
    """Small events together, because each send costs much more than its bytes."""
    waiting, size = list[bytes](), 0
    for event in events:
        if waiting and size + len(event) > PART:
            yield b"".join(waiting)
            waiting, size = [], 0
        waiting.append(event)
        size += len(event)
    if waiting:
        yield b"".join(waiting)


def _events(
    signing: Signing,
    news: Iterable[News],
    render: Render,
    concerns: Callable[[Change], bool],
    *,
    is_unknown: bool,
) -> Iterator[bytes]:
    """The events of the news. Of changes that were seen together, only the last has an id: then a client has all."""
    for each in news:
        if each.is_reset or is_unknown:
            is_unknown = False
            yield _with_id(_event("reset", b"{}"), _id(signing, each.knows, each.position))
        concerning = [change for change in each.changes if concerns(change)]
        for number, change in enumerate(concerning, 1):
            event = _event_of(change, render)
            yield event if number < len(concerning) else _with_id(event, _id(signing, each.knows, each.position))


def _concern(news: Iterable[News], concerns: Callable[[Change], bool]) -> bool:
    return any(concerns(change) for each in news for change in each.changes)


def _sign_of_life(signing: Signing, stream: Stream) -> bytes:
    """A comment, with the position of the client: it stays able to come back, however long nothing happens."""
    id = f"id: {_id(signing, stream.knows, stream.position)}\n" if stream.position else ""
    return _COMMENT + f" still here\n{id}\n".encode()


def _event_of(change: Change, render: Render) -> bytes:
    """The event of a change without an id; it is made once for all that follow it."""
    if not change.rendered:
        change.rendered.append(_event(change.kind, render(change)))
    return change.rendered[0]


def _event(kind: str, data: bytes) -> bytes:
    return b"".join([b"event: ", kind.encode(), b"\ndata: ", data, b"\n\n"])


def _with_id(event: bytes, id: str) -> bytes:
    return b"".join([b"id: ", id.encode(), b"\n", event])


def _id(signing: Signing, knows: str | None, position: Position) -> str:
    return _sealed(signing, knows, position, int(time.time()))


@lru_cache(maxsize=64)
def _sealed(signing: Signing, knows: str | None, position: Position, now: int) -> str:
    """The id of a position; many streams of a user reach the same one in the same second."""
    # Sealed, because a made-up position could make PostgreSQL read all rows of all tables.
    return security.seal(signing, [now, position.timeline, position.snapshot, knows])


def _reached(signing: Signing, id: str) -> tuple[Position | None, str | None]:
    """The position of an event's id, and what the client knew then; None if the id is none of ours, or too old.

    Ids of earlier versions do not say what the client knew.
    """
    match security.unseal(signing, id):
        case [int(issued_at), str(timeline), str(snapshot), *knows] if time.time() - issued_at < LONGEST_ABSENCE:
            return Position(timeline, snapshot), knows[0] if knows else None
    return None, None
