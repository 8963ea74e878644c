"""For admins: the audit, as pages and as one file."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import ColumnElement, Select, func, select, tuple_
from sqlalchemy.exc import DBAPIError
from starlette.types import Receive, Scope, Send

from api.routes import answers, router
from api.web import openapi
from api.web.dependencies import Admin, Process, ProcessState, may_administer
from api.web.fields import IPAddress, Text, Time
from api.web.lists import Order
from api.web.origin import as_recorded
from api.web.pages import WantedPage
from api.web.program_tokens import seconds_left
from api.web.security import Caller
from domain.data import outages
from domain.data.audit import AuditEvent
from domain.rules.accounts import Event, Outcome
from domain.rules.text import in_nfc

routes = router("/admin/audit", "admin")

BATCH = 1_000  # rows that an export reads at once, and all that it holds in memory
_NEWEST_FIRST = Order("-at", (AuditEvent.at, AuditEvent.id), descending=True)
_POSITION = tuple_(AuditEvent.at, AuditEvent.id)


class _CutError(Exception):
    """The rest of an answer cannot be read."""


class Lines(StreamingResponse):
    """A JSON object in each line. If the rest cannot be read, the connection is cut: an end would look complete."""

    media_type = "application/jsonl"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        with contextlib.suppress(_CutError):  # an answer without an end makes the server cut the connection
            await super().__call__(scope, receive, send)


async def _conditions(  # noqa: PLR0913, PLR0917 - FastAPI passes every parameter
    actor: Annotated[Text | None, Query(min_length=1, description="Only what this user did, ignoring case.")] = None,
    target: Annotated[
        Text | None, Query(min_length=1, description="Only what was done to this user or thing, ignoring case.")
    ] = None,
    event: Annotated[Event | None, Query(description="Only events of this kind.")] = None,
    outcome: Annotated[Outcome | None, Query(description="Only what was done, or only what was refused.")] = None,
    address: Annotated[IPAddress | None, Query(description="Only what came from this address.")] = None,
    since: Annotated[Time | None, Query(description="Only what happened at this time or later.")] = None,
    until: Annotated[Time | None, Query(description="Only what happened before this time.")] = None,
) -> list[ColumnElement[bool]]:
    """Which events are wanted."""
    wanted: list[tuple[Any, Callable[[Any], ColumnElement[bool]]]] = [
        # PostgreSQL makes both sides lower case, because in a Turkish database it has other small letters than Python.
        (actor, lambda name: func.lower(AuditEvent.actor) == func.lower(name)),
        # Names are kept in NFC, except those with which somebody has only tried to log in.
        (target, lambda name: func.lower(AuditEvent.target).in_([func.lower(name), func.lower(in_nfc(name))])),
        (event, lambda kind: AuditEvent.event == kind),
        (outcome, lambda kind: AuditEvent.outcome == kind),
        (address, lambda value: AuditEvent.address == as_recorded(value)),
        (since, lambda time: AuditEvent.at >= time),
        (until, lambda time: AuditEvent.at < time),
    ]
    return [condition(value) for value, condition in wanted if value is not None]


Conditions = Annotated[list[ColumnElement[bool]], Depends(_conditions)]


@routes.get("", openapi_extra=openapi.problems("admin_only"))
async def list_security_events(_: Admin, page: WantedPage, conditions: Conditions) -> answers.SecurityEventPage:
    """Security events, the newest first: logins, tokens, roles, and what admins did."""
    return await page.fetch(select(AuditEvent).where(*conditions), _NEWEST_FIRST, answers.SecurityEventPage)


@routes.get(
    "/export",
    response_class=Lines,
    responses={200: {"description": "Security events, one JSON object in each line."}},
    openapi_extra=openapi.problems("admin_only"),
)
async def export_security_events(admin: Admin, process: Process, request: Request, conditions: Conditions) -> Lines:
    """All these security events in one file, the oldest first: a JSON object in each line.

    It ends with the rights or the token of the admin, however much is missing then.
    To go on later, begin a minute before the last line (`since`), and leave out the ids that you have: an event is
    visible only when its transaction has ended, which may be a little after its time.
    """
    lines = _lines(process, admin, select(AuditEvent).where(*conditions))
    first = await anext(lines)  # an error of the database is then a problem, and not half a file
    request.scope["release_slot"]()
    return Lines(_all(first, lines), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    try:
        async for lines in rest:
            yield lines
    except (DBAPIError, *outages.UNREACHABLE) as error:
        if not outages.is_outage(error):
            raise
        outages.log.failed(error)
        raise _CutError from None


async def _lines(process: ProcessState, admin: Caller, wanted: Select[AuditEvent]) -> AsyncIterator[bytes]:
    """The events in batches. No connection is held while the client reads, which may take hours."""
    batch = wanted.order_by(AuditEvent.at, AuditEvent.id).limit(BATCH)
    after = batch
    while True:
        async with process.autocommit.connect() as connection:
            rows = (await connection.execute(after)).all()
        yield b"".join(answers.SecurityEvent.model_validate(row).model_dump_json().encode() + b"\n" for row in rows)
        if len(rows) < BATCH or not await _may_go_on(process, admin):
            return
        after = batch.where((rows[-1].at, rows[-1].id) < _POSITION)


async def _may_go_on(process: ProcessState, admin: Caller) -> bool:
    has_token = seconds_left(admin) > 0 and await process.program_tokens.works(admin)
    return has_token and await may_administer(process, admin)
