"""The tokens that the caller has made for programs."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from fastapi import Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from api import PREFIX
from api.routes import answers, requests, router
from api.web import openapi, program_tokens
from api.web.dependencies import CurrentUser, Process, ProcessState
from api.web.idempotency import OnceOrTrial, OncePerKey
from api.web.lists import Order
from api.web.models import FieldError
from api.web.pages import WantedPage
from api.web.problems import ProblemError
from api.web.security import Caller, ProgramCaller
from domain.commands import audit
from domain.commands import program_tokens as commands
from domain.commands.acceptance import Requester
from domain.data import queries
from domain.data.accounts import ProgramToken
from domain.rules import scopes
from domain.rules.accounts import Event
from domain.rules.errors import NotFoundError

routes = router("/tokens", "tokens")

_BY_NAME = Order("name", (ProgramToken.name,))


@routes.post(
    "",
    status_code=201,
    response_model=answers.CreatedToken,
    responses=openapi.headers(201, "Location"),
    openapi_extra=openapi.problems("name_taken", "quota_exceeded"),
)
async def create_token(caller: CurrentUser, process: Process, once: OnceOrTrial, body: requests.NewToken) -> Response:
    """Make a token for a program. The answer shows it, and nothing shows it again. A user has at most 100."""
    lifetime = timedelta(days=body.expires_in_days) if body.expires_in_days else None
    _refuse_longer_life(caller, lifetime)

    async def create(tx: AsyncConnection, requester: Requester) -> Response:
        token = program_tokens.new()
        new = commands.NewToken(body.name, program_tokens.digest(token), scopes.granted(body.scopes), lifetime)
        row = await commands.add_token(tx, requester, new)
        scopes_of = sorted(new.scopes)
        await audit.record(tx, Event.CREATE_TOKEN, requester, target=row.name, id=str(row.id), scopes=scopes_of)
        # What is kept of this answer, for a repetition of the request, must not have the token as it is.
        hidden = program_tokens.masked(process.signing.secret, row.id, token)
        created = answers.CreatedToken(**answers.Token.model_validate(row).model_dump(), token=hidden)
        location = {"Location": f"{PREFIX}/tokens/{row.id}"}
        return Response(created.model_dump_json(), 201, location, "application/json")

    answer = await once(create, body)
    return answer if once.validate_only else await _with_token_shown(answer, process)


@routes.get("")
async def list_tokens(caller: CurrentUser, page: WantedPage) -> answers.TokenPage:
    """Your tokens for programs, by name, and when each was last used. One that has ended stays for 30 days."""
    mine = select(ProgramToken).where(ProgramToken.owner_id == caller.id)
    return await page.fetch(mine, _BY_NAME, answers.TokenPage)


@routes.get("/{token_id}", response_model=answers.Token)
async def get_token(caller: CurrentUser, process: Process, token_id: UUID) -> ProgramToken:
    """One token for programs."""
    statement = select(ProgramToken).where(ProgramToken.owner_id == caller.id, ProgramToken.id == token_id)
    async with process.autocommit.connect() as connection:
        token = await queries.fetch_one(connection, statement)
    if token is None:
        raise NotFoundError("token", token_id)
    return token


@routes.delete("/{token_id}", status_code=204, response_class=Response)
async def delete_token(once: OncePerKey, token_id: UUID) -> Response:
    """Delete a token for programs. It stops at once."""

    async def delete(tx: AsyncConnection, requester: Requester) -> Response:
        name = await commands.delete_token(tx, requester, token_id)
        await audit.record(tx, Event.DELETE_TOKEN, requester, target=name, id=str(token_id))
        return Response(status_code=204)

    return await once(delete)


def _refuse_longer_life(caller: Caller, lifetime: timedelta | None) -> None:
    """ProblemError if the caller is a program whose token ends before the new one would."""
    if not isinstance(caller, ProgramCaller) or caller.expires_at is None:
        return
    if lifetime is None or datetime.now(UTC) + lifetime > caller.expires_at:
        detail = f"A token that this token makes must end before it does, at {caller.expires_at:%Y-%m-%dT%H:%M:%SZ}."
        error = FieldError(code="insufficient_scope", detail=detail, pointer="#/expires_in_days")
        raise ProblemError("insufficient_scope", detail, [error])


async def _with_token_shown(answer: Response, process: ProcessState) -> Response:
    created = answers.CreatedToken.model_validate_json(bytes(answer.body))
    token = await program_tokens.unmasked(process.signing, process.autocommit, created.id, created.token)
    shown = created.model_copy(update={"token": token})
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return Response(shown.model_dump_json(), answer.status_code, headers)
