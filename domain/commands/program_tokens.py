"""Commands on the tokens that users make for their programs."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, delete, func, literal, nulls_last, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Requester
from domain.data.accounts import ProgramToken, User
from domain.data.queries import insert_row
from domain.rules.errors import NameTakenError, NotFoundError, QuotaExceededError
from domain.rules.scopes import Scope

MOST_TOKENS: Final = 100  # of one user, those that have ended included
USE_INTERVAL: Final = timedelta(minutes=1)  # the last use of a token is written no more often


@dataclass(frozen=True, slots=True)
class NewToken:
    """The token to add; `digest` is the SHA-256 of its text. Without a lifetime it never ends."""

    name: str
    digest: bytes
    scopes: Collection[Scope]
    lifetime: timedelta | None


async def add_token(tx: AsyncConnection, requester: Requester, new: NewToken) -> ProgramToken:
    """Add a token; NameTakenError or QuotaExceededError if that cannot be.

    A token that has ended gives way: if it has the name, or if it is the oldest of too many.
    """
    # The lock makes two requests of one user count one after the other. It holds up nothing else.
    await tx.execute(select(User.id).where(User.id == requester.user_id).with_for_update(key_share=True))
    ended = (ProgramToken.expires_at <= func.now()).label("ended")
    tokens = select(ProgramToken.id, ProgramToken.name, ended).where(ProgramToken.owner_id == requester.user_id)
    rows = (await tx.execute(tokens.order_by(nulls_last(ProgramToken.expires_at)))).all()
    going = [row.id for row in rows if row.ended and row.name == new.name]
    if not going and any(row.name == new.name for row in rows):
        raise NameTakenError("token", new.name)
    if not going and len(rows) >= MOST_TOKENS:
        going = [row.id for row in rows[:1] if row.ended]
        if not going:
            raise QuotaExceededError("tokens", MOST_TOKENS, len(rows))
    await tx.execute(delete(ProgramToken).where(ProgramToken.id.in_(going)))
    return await insert_row(
        tx,
        ProgramToken,
        owner_id=requester.user_id,
        name=new.name,
        digest=new.digest,
        scopes=list(new.scopes),
        expires_at=func.now() + new.lifetime if new.lifetime else None,
    )


async def delete_token(tx: AsyncConnection, requester: Requester, token_id: UUID) -> str:
    """Delete a token, and return its name. No request that comes after the commit is accepted with it."""
    is_it = (ProgramToken.owner_id == requester.user_id, ProgramToken.id == token_id)
    name: str | None = await tx.scalar(delete(ProgramToken).where(*is_it).returning(ProgramToken.name))
    if name is None:
        raise NotFoundError("token", token_id)
    return name


async def note_uses(tx: AsyncConnection, token_ids: Collection[UUID]) -> None:
    """Write that these tokens have just been used, unless that was written less than USE_INTERVAL ago."""
    is_due = or_(ProgramToken.last_used_at.is_(None), ProgramToken.last_used_at <= func.now() - USE_INTERVAL)
    # One parameter, so that the statement is the same for any number of tokens.
    is_used = ProgramToken.id == any_(literal(list(token_ids), ARRAY(Uuid)))
    due = select(ProgramToken.id).where(is_used, is_due)
    # Several processes do this at once, and must not wait for each other's rows in different orders.
    free = due.with_for_update(skip_locked=True, key_share=True)
    await tx.execute(update(ProgramToken).where(ProgramToken.id.in_(free)).values(last_used_at=func.now()))
