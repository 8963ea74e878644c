"""The tokens of programs: who sends one, and what it may do. Their text is `vma_` and 64 hexadecimal digits.

Each request looks its token up, so a token that is deleted stops at once, in every process.
"""

import asyncio
import contextlib
import hashlib
import math
import re
import secrets
import time
from collections import OrderedDict
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, LargeBinary, Row, any_, bindparam, func, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background.token_epochs import TokenEpochs
from api.background.token_uses import TokenUses
from api.web.oidc import ProviderCaller
from api.web.security import Caller, InvalidTokenError, LoginCaller, ProgramCaller, Signing, mask
from domain.commands.program_tokens import USE_INTERVAL
from domain.data import outages
from domain.data.accounts import ProgramToken, User
from domain.rules.scopes import Scope

PREFIX: Final = "vma_"
LOOKS: Final = 2  # at once; a second one, because the first may meet a connection that hangs
REMEMBERED: Final = 4096  # tokens of which a process knows the owner
_SECRET_SIZE: Final = 32  # bytes
_FORM: Final = re.compile(rf"{PREFIX}[0-9a-f]{{{2 * _SECRET_SIZE}}}")
_Found = dict[bytes, Row[*tuple[Any, ...]]]  # by digest
_ROWS: Final = (
    select(
        ProgramToken.id,
        ProgramToken.digest,
        ProgramToken.owner_id,
        ProgramToken.scopes,
        ProgramToken.expires_at,
        User.username,
        User.disabled_at.is_not(None).label("is_disabled"),
        or_(ProgramToken.expires_at <= func.now(), User.disabled_at.is_not(None)).label("has_ended"),
        or_(ProgramToken.last_used_at.is_(None), ProgramToken.last_used_at <= func.now() - USE_INTERVAL).label(
            "is_due"
        ),
    )
    .join(User, User.id == ProgramToken.owner_id)
    .where(ProgramToken.digest == any_(bindparam("digests", type_=ARRAY(LargeBinary))))
)


def _reason(found: Row[*tuple[Any, ...]] | None) -> str:
    """Why a token does not work."""
    if found is None:
        return "There is no such token. It may have been deleted."
    return "The account of this token is disabled." if found.is_disabled else "The token has expired."


def new() -> str:
    """A new token."""
    return PREFIX + secrets.token_hex(_SECRET_SIZE)


def is_one(bearer: str) -> bool:
    """Whether this is to be a token of a program, and not an access token."""
    return bearer.startswith(PREFIX)


def digest(token: str) -> bytes:
    """What is kept of a token. A fast hash will do, because nobody can try all secrets of 256 random bits."""
    return hashlib.sha256(token.encode()).digest()


def masked(key: str, token_id: UUID, token: str) -> str:
    """A token that only who has the key can read, or, given that, the token."""
    secret = bytes.fromhex(token.removeprefix(PREFIX))
    return PREFIX + mask(key, f"program token {token_id}", secret).hex()


async def unmasked(signing: Signing, autocommit: AsyncEngine, token_id: UUID, hidden: str) -> str:
    """The token that was hidden with one of the keys, by this process or another."""
    candidates = [masked(key, token_id, hidden) for key in signing.accepted]
    if len(candidates) == 1:
        return candidates[0]
    # What was hidden does not say with which key: earlier versions, which may run beside this one, expect its form.
    async with autocommit.connect() as connection:
        kept = await connection.scalar(select(ProgramToken.digest).where(ProgramToken.id == token_id))
    # Of a token that was deleted nothing is kept. Which key is right does not matter then: it works no more.
    return next((token for token in candidates if digest(token) == kept), candidates[0])


def login_has_ended(epochs: TokenEpochs, caller: Caller) -> bool:
    """Whether the login of a caller that was found before has ended, as far as this process knows."""
    if isinstance(caller, LoginCaller):
        return epochs.is_void(caller.id, caller.epoch)
    # A user of the identity provider has no login here. What changes of the account is whether it is disabled.
    return isinstance(caller, ProviderCaller) and epochs.has_changed_since(caller.id, caller.read_at)


def seconds_left(caller: Caller) -> float:
    """The seconds until the caller's token ends. Tokens of programs are looked up instead."""
    return caller.expires_at - time.time() if isinstance(caller, LoginCaller | ProviderCaller) else math.inf


class ProgramTokens:
    """Finds the callers of a process that send tokens of programs."""

    def __init__(self, autocommit: AsyncEngine, uses: TokenUses, epochs: TokenEpochs) -> None:
        self._autocommit = autocommit
        self._epochs = epochs
        self._uses = uses
        self._owners: OrderedDict[bytes, Caller] = OrderedDict()
        self._wanted = set[bytes]()
        self._next: asyncio.Task[_Found] | None = None
        self._turns = asyncio.Semaphore(LOOKS)

    def owner(self, token: str) -> Caller | None:
        """The owner of a token that this process has found before; whether the token still works is another matter."""
        return self._owners.get(digest(token))

    async def find(self, token: str) -> ProgramCaller:
        """The caller with this token; InvalidTokenError if it does not work."""
        key = digest(token)
        found = await self._look(key) if _FORM.fullmatch(token) else None
        if found is None or found.has_ended:
            self._owners.pop(key, None)
            raise InvalidTokenError(_reason(found))
        if found.is_due:
            self._uses.note(found.id)
        self._owners[key] = Caller(found.owner_id, found.username)
        self._owners.move_to_end(key)
        if len(self._owners) > REMEMBERED:
            self._owners.popitem(last=False)
        scopes = frozenset(map(Scope, found.scopes))
        return ProgramCaller(found.owner_id, found.username, key, scopes, found.expires_at)

    async def works(self, caller: Caller) -> bool:
        """Whether a caller that was found before may go on; False, too, if the database cannot tell."""
        with contextlib.suppress(DBAPIError, *outages.UNREACHABLE):
            return not await self.has_ended(caller)
        return False

    async def has_ended(self, caller: Caller) -> bool:
        """Whether the token of a caller that was found before has ended, or the caller's login.

        Only a program's token is looked up: this process knows whether the login of an access token has ended.
        """
        if not isinstance(caller, ProgramCaller):
            return login_has_ended(self._epochs, caller)
        found = await self._look(caller.digest)
        return found is None or found.has_ended

    async def _look(self, key: bytes) -> Row[*tuple[Any, ...]] | None:
        """The row of a token, read together with those of other requests that wait for a look."""
        self._wanted.add(key)
        if self._next is None:
            self._next = asyncio.create_task(self._look_together())
        found = await asyncio.shield(self._next)  # a request that goes away must not cancel the look of the others
        return found.get(key)

    async def _look_together(self) -> _Found:
        async with self._turns:
            # Requests that come from now on wait for a later look: this one may not see what was deleted before them.
            wanted, self._wanted, self._next = self._wanted, set(), None
            async with self._autocommit.connect() as connection:
                rows = await connection.execute(_ROWS, {"digests": list(wanted)})
                return {row.digest: row for row in rows}
