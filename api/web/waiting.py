"""Requests that wait until resources have changed as their clients want.

A request that waits holds no slot of Admission and no database connection. The task that looks for changes
(api/background/changes.py) tells it of them.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request

from api.background.changes import TooManyWaitingError
from api.background.listeners import Watch
from api.web.dependencies import ProcessState
from api.web.fields import PLAIN_DIGITS
from api.web.models import FieldError
from api.web.oidc import ProviderCaller
from api.web.problems import ProblemError
from api.web.program_tokens import login_has_ended
from api.web.security import Caller, ProgramCaller

LONGEST_WAIT = 60  # seconds
# A resource comes from these into another status only if somebody asks for it.
_ENDS = {"ERROR", "DELETED"}

Rows = Mapping[UUID, Any]
"""Rows by id."""

Wait = Annotated[
    int,
    Query(
        ge=0,
        le=LONGEST_WAIT,
        description="The most seconds to wait until no operation changes the resource any more. The answer comes as "
        "soon as that is so, or else after this time with the resource as it is then.",
    ),
    PLAIN_DIGITS,
]


@dataclass(frozen=True, slots=True)
class Until:
    """What a request waits for, and how many seconds: one of the statuses or, without them, that the resource rests."""

    seconds: int = 0
    statuses: frozenset[str] = frozenset()

    def has_come(self, row: Any, *, is_at_rest: bool) -> bool:
        """Whether it has come."""
        if not self.statuses or row.status in _ENDS:
            return is_at_rest
        return row.status in self.statuses


def until(wait: int, statuses: Collection[str]) -> Until:
    """What a request waits for; ProblemError if it names statuses and no time."""
    if statuses and not wait:
        detail = "`for` says what to wait for. Send `wait` with it: the most seconds to wait."
        raise ProblemError("validation_failed", detail, [FieldError(code="required", detail=detail, parameter="wait")])
    return Until(wait, frozenset(statuses))


async def wait_for(  # noqa: PLR0913, PLR0917 - who waits, for what, and how to tell
    process: ProcessState,
    request: Request,
    user_id: UUID,
    seconds: int,
    ids: Collection[UUID],
    read: Callable[[], Awaitable[Rows]],
    is_over: Callable[[Rows], bool],
) -> Rows:
    """Wait until `is_over` the rows, or the time, or the process stops, or the client goes away; return the rows."""
    try:
        with process.changes.watch(user_id, ids) as watch, _ending(process, request.scope["caller"], watch) as ended:
            rows = await read()  # once it is watched, so that no change falls between
            deadline = asyncio.get_running_loop().time() + seconds
            request.scope["release_slot"]()
            leaving = asyncio.create_task(_client_leaves(request))
            leaving.add_done_callback(lambda _: watch.end())
            try:
                has_waited = False
                while not is_over(rows) and not watch.is_over:
                    has_waited = True
                    left = deadline - asyncio.get_running_loop().time()
                    if left <= 0:
                        break
                    changed = await watch.next(left)
                    # What the first read did not find is somebody else's, and must not end or prolong the wait.
                    news = {id: row for id, row in (changed or {}).items() if id in rows}
                    rows = await _read_with_slot(request, read) if changed is None else {**rows, **news}
            finally:
                leaving.cancel()
            caller = request.scope["caller"]
            # Of a user of the identity provider, only a disabled account ends anything. A program's token may have been
            # deleted meanwhile, which nobody is told.
            is_due = ended or (has_waited and isinstance(caller, ProgramCaller))
            if is_due and isinstance(caller, ProgramCaller):
                await request.scope["take_slot"]()
            if is_due and (isinstance(caller, ProviderCaller) or await process.program_tokens.has_ended(caller)):
                raise ProblemError("invalid_token", "This login has ended; log in again.")
            # While PostgreSQL is away nobody is told anything.
            is_known = is_over(rows) or process.changes.is_current()
            return rows if is_known else await _read_with_slot(request, read)
    except TooManyWaitingError as error:
        raise too_many_waiting(error) from None


async def _read_with_slot(request: Request, read: Callable[[], Awaitable[Rows]]) -> Rows:
    """Read anew. Many waits may end at the same moment, so each has its turn like any other request; NoSlotError."""
    await request.scope["take_slot"]()
    rows = await read()
    request.scope["release_slot"]()
    return rows


@contextlib.contextmanager
def _ending(process: ProcessState, caller: Caller, watch: Watch) -> Iterator[list[bool]]:
    """End the wait when logins of the user end; the list is empty until then."""
    ended: list[bool] = []

    def end() -> None:
        ended.append(True)
        watch.end()

    with process.epochs.calling(caller.id, end):
        # It may have ended since the request came.
        if login_has_ended(process.epochs, caller):
            end()
        yield ended


def too_many_waiting(error: TooManyWaitingError) -> ProblemError:
    """The answer to a user who has as many requests that wait, or streams of events, as one may have."""
    detail = f"You have {error.most} {error.what} in this process. Wait until some of them have ended."
    return ProblemError("too_many_waiting", detail)


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
