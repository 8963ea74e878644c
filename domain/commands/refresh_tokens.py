"""Commands on the refresh tokens of a login: give one, exchange one, end the login.

A token works once. Using it later shows that two parties have it, so the login ends. There is one exception: the answer
to the first use may be lost, and the client then sends the token again. So the same client may use it again within
LOST_ANSWER, as long as no token that was given for it has been used: then an answer has arrived.

A login keeps the tokens of two generations. An older one is not known any more, and using it ends the login, too. So a
login has few rows, however often it is refreshed.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from domain.data.accounts import RefreshToken

LOST_ANSWER: Final = timedelta(seconds=30)
_MOST_DELETED: Final = 1_000  # rows in one exchange; logins of earlier versions may have many more

_later = aliased(RefreshToken)
_HAS_SUCCESSOR: Final = exists().where(
    _later.family_id == RefreshToken.family_id,
    _later.generation > RefreshToken.generation,
    _later.used_at.is_not(None),
)
_IS_RECENT: Final = RefreshToken.used_at > func.now() - LOST_ANSWER


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new token stands in its login: its generation, and how long the login lasts from now on."""

    generation: int
    login_lasts: timedelta


async def give(tx: AsyncConnection, user_id: UUID, session_id: UUID, place: Place, lifetime: timedelta) -> UUID:
    """Record a new token of the login, and return its id."""
    token_id = uuid4()
    row = {"id": token_id, "family_id": session_id, "user_id": user_id, "generation": place.generation}
    times = {"expires_at": func.now() + lifetime, "login_ends_at": func.now() + place.login_lasts}
    await tx.execute(insert(RefreshToken).values(row | times))
    return token_id


async def exchange(
    tx: AsyncConnection, token_id: UUID, session_id: UUID, origin: str, longest: timedelta
) -> Place | None:
    """Use a token for a client from this origin, and return the place of the one to give for it.

    None if it may not be used. `end_login` has to follow then, because the token may be stolen. A login that an earlier
    version began lasts `longest` from now on.
    """
    await _lock_session(tx, session_id)
    usable = (RefreshToken.id == token_id, RefreshToken.revoked_at.is_(None), RefreshToken.expires_at > func.now())
    has_successor, is_recent = _HAS_SUCCESSOR.label("has_successor"), _IS_RECENT.label("is_recent")
    # In the database's time, in which the end was written: it stays the same however often the token is exchanged.
    lasts = (func.coalesce(RefreshToken.login_ends_at, func.now() + longest) - func.now()).label("lasts")
    token = (await tx.execute(select(RefreshToken, has_successor, is_recent, lasts).where(*usable))).one_or_none()
    if token is None:
        return None
    if token.used_at is not None:
        is_repetition = token.is_recent and token.used_from == origin and not token.has_successor
        return Place(token.generation + 1, token.lasts) if is_repetition else None
    of_session = RefreshToken.family_id == session_id
    generation = token.generation
    if generation is None:  # an earlier version has given the token
        generation = 1 + (await tx.scalar(select(func.max(RefreshToken.generation)).where(of_session)) or 0)
    same = (of_session, or_(RefreshToken.id == token_id, RefreshToken.generation == generation))
    first_use = {"used_at": func.now(), "used_from": origin, "generation": generation}
    await tx.execute(update(RefreshToken).where(*same).values(first_use))
    await _forget_before(tx, session_id, generation)
    return Place(generation + 1, token.lasts)


async def _forget_before(tx: AsyncConnection, session_id: UUID, generation: int) -> None:
    earlier = (RefreshToken.family_id == session_id, RefreshToken.generation < generation)
    some = select(RefreshToken.id).where(*earlier).limit(_MOST_DELETED)
    await tx.execute(delete(RefreshToken).where(RefreshToken.id.in_(some)))


async def end_login(tx: AsyncConnection, session_id: UUID) -> bool:
    """Revoke all tokens of the login; False if there was none that is not revoked."""
    await _lock_session(tx, session_id)
    family = (RefreshToken.family_id == session_id, RefreshToken.revoked_at.is_(None))
    revoked = await tx.execute(update(RefreshToken).where(*family).values(revoked_at=func.now()))
    return revoked.rowcount > 0


async def _lock_session(tx: AsyncConnection, session_id: UUID) -> None:
    """Serialise exchange and end of one login, so that no new token is added while the login is being ended."""
    await tx.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(str(session_id), 0))))
