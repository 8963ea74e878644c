"""Access tokens of a company's identity provider (OpenID Connect): whether one is right, and whose it is.

Such a token is a JWT that the provider has signed with a key of its own. Its signature and claims are checked here; the
database is asked for the user once, and what it says is kept.
"""

import contextlib
import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import jwt
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Scope

from api.background.provider_keys import ALGORITHMS, ManyWaitError, ProviderKeys
from api.background.token_epochs import TokenEpochs
from api.web.origin import source_of
from api.web.security import LATEST, Caller, InvalidTokenError
from api.web.slots import NoSlotError
from domain import logs
from domain.commands import identities
from domain.commands.audit import Stranger
from domain.commands.identities import Subject
from domain.settings import Settings

logger = logging.getLogger(__name__)

LEEWAY: Final = 30  # seconds that the provider's clock and ours may differ
LONGEST_TOKEN: Final = 16 * 1024  # characters; one with a few hundred groups has half of that
REMEMBERED: Final = 4096  # tokens that were right, and users
LONGEST_USE: Final = 3600.0  # seconds after which the user of a token is read again
_LONGEST_HEADER: Final = 2048
_LONGEST_SUBJECT: Final = 255  # OpenID Connect Core, section 2
_TYPES: Final = {"jwt", "at+jwt", "application/jwt", "application/at+jwt"}
_REQUIRED: Final = ["iss", "aud", "sub", "exp"]
_TIMES: Final = ("exp", "nbf", "iat")
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class ProviderCaller(Caller):
    """A user with a token of the identity provider.

    `is_admin` is what the token says about that; None if the settings name no claim for it. `expires_at` is when the
    token is refused, in seconds since 1970. `read_at` is when the account was last read and not disabled, by the
    monotonic clock.
    """

    expires_at: int
    is_admin: bool | None
    read_at: float


@dataclass(frozen=True, slots=True)
class _Checked:
    """What a token with a valid signature says."""

    subject: Subject
    expires_at: int
    is_admin: bool | None


class _User(NamedTuple):
    """The user of a subject, as the database had it at the time `read_at`."""

    id: UUID
    name: str
    read_at: float


class IdentityProvider:
    """Finds the callers of a process that send tokens of the provider."""

    def __init__(
        self,
        settings: Settings,
        keys: ProviderKeys,
        engine: AsyncEngine,
        autocommit: AsyncEngine,
        epochs: TokenEpochs,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._engine = engine
        self._autocommit = autocommit
        self._epochs = epochs
        self._version = keys.version
        self._right: OrderedDict[bytes, _Checked] = OrderedDict()  # by the hash of the token
        self._users: OrderedDict[str, _User] = OrderedDict()  # by the subject

    async def prepare(self, token: str) -> None:
        """Ask the provider for the key that has signed the token, if it is a new one. The other methods ask nobody.

        NoSlotError if too many requests do so now.
        """
        try:
            with contextlib.suppress(InvalidTokenError):
                await self._keys.look_for(*_named_key(token))
        except ManyWaitError:
            raise NoSlotError("overloaded") from None

    def owner(self, token: str) -> Caller | None:
        """The caller with this token if the user is known; the errors of `find`."""
        return self._caller(self._check(token))

    async def find(self, token: str, scope: Scope) -> ProviderCaller:
        """The caller with this token; InvalidTokenError if it is not right, ProviderAwayError if nobody can tell.

        A new user's first request, which has this scope, is in the audit.
        """
        checked = self._check(token)
        caller = self._caller(checked)
        while caller is None:
            await self._look(checked.subject, scope)
            caller = self._caller(checked)
        return caller

    def _check(self, token: str) -> _Checked:
        if checked := self._remembered(token):
            return checked
        key = self._keys.find(*_named_key(token))
        if key is None:
            raise InvalidTokenError("No key of the identity provider has signed the token.")
        checked = self._checked(self._claims(token, key))
        if self._version != self._keys.version:  # a key that signed remembered tokens may have been withdrawn
            self._right.clear()
            self._version = self._keys.version
        _keep(self._right, _hash(token), checked)
        return checked

    def _remembered(self, token: str) -> _Checked | None:
        checked = self._right.get(_hash(token)) if self._version == self._keys.version else None
        if checked is not None and checked.expires_at + LEEWAY <= time.time():
            raise InvalidTokenError("The token has expired.")
        return checked

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._settings.oidc_audience,
                issuer=self._settings.oidc_issuer,
                leeway=LEEWAY,
                options={"require": _REQUIRED},
            )
        except jwt.ExpiredSignatureError:
            raise InvalidTokenError("The token has expired.") from None
        except jwt.InvalidAudienceError:
            raise InvalidTokenError("The token is for another service: its audience (aud) is not this one.") from None
        except jwt.InvalidTokenError:
            raise InvalidTokenError("The token is not valid.") from None
        return claims

    def _checked(self, claims: dict[str, Any]) -> _Checked:
        # PyJWT also takes numbers in quotes, and true for 1.
        times = [claims.get(name, 0) for name in _TIMES]
        if any(type(each) not in {int, float} or each > LATEST for each in times):
            raise InvalidTokenError("A time in the token (exp, nbf, iat) is not a number, or too large.")
        subject, issuer = claims["sub"], str(self._settings.oidc_issuer)
        if not (subject.isascii() and subject.isprintable() and 0 < len(subject) <= _LONGEST_SUBJECT):
            raise InvalidTokenError("The subject (sub) of the token is not 1 to 255 ASCII characters.")
        if "cnf" in claims:  # RFC 9449, section 7.2: whoever sends it has to prove that it has the key, too
            raise InvalidTokenError("The token is bound to a key of its owner. Get one that is not.")
        name = claims.get(self._settings.oidc_username_claim)
        return _Checked(
            Subject(issuer, subject, name if isinstance(name, str) else subject),
            int(claims["exp"]),
            self._is_admin(claims),
        )

    def _is_admin(self, claims: dict[str, Any]) -> bool | None:
        if self._settings.oidc_role_claim is None:
            return None
        roles = claims.get(self._settings.oidc_role_claim)
        return self._settings.oidc_admin_value in (roles if isinstance(roles, list) else [roles])

    def _caller(self, checked: _Checked) -> ProviderCaller | None:
        user = self._users.get(checked.subject.id)
        if user is None or self._is_doubtful(user):
            return None
        return ProviderCaller(user.id, user.name, checked.expires_at + LEEWAY, checked.is_admin, user.read_at)

    def _is_doubtful(self, user: _User) -> bool:
        """Whether the account may have been disabled since the database was asked for it."""
        is_old = time.monotonic() - user.read_at > LONGEST_USE
        return is_old or self._epochs.has_changed_since(user.id, user.read_at)

    async def _look(self, subject: Subject, scope: Scope) -> None:
        """Read the user of a subject, or make one at first sight; InvalidTokenError if the account is disabled."""
        began = time.monotonic()
        async with self._autocommit.connect() as connection:
            user = await identities.find(connection, subject)
        if user is None:
            async with self._engine.begin() as tx:
                actor = Stranger(logs.request_id.get(), source_of(scope))
                user = await identities.find_or_add(tx, subject, actor)
            logger.info("%s is the user %s of %s", user.username, subject.id, subject.issuer)
        if user.disabled_at is not None:
            raise InvalidTokenError("The account is disabled.")
        _keep(self._users, subject.id, _User(user.id, user.username, began))


def is_signed(token: str) -> bool:
    """Whether this is to be a token of an identity provider: signed with a public key, as none of our own is."""
    return not str(_header(token.partition(".")[0]).get("alg", "HS")).startswith("HS")


def _named_key(token: str) -> tuple[str | None, str]:
    """The id of the key that is to have signed the token, and the algorithm."""
    if len(token) > LONGEST_TOKEN:
        raise InvalidTokenError(f"A token of the identity provider has at most {LONGEST_TOKEN} characters.")
    header = _header(token.partition(".")[0])
    algorithm, kind = str(header.get("alg")), str(header.get("typ", "JWT")).lower()
    if algorithm not in ALGORITHMS or kind not in _TYPES:
        raise InvalidTokenError("The token is not of a kind that is accepted.")
    return header.get("kid"), algorithm


# Cached because all tokens of a key begin with the same header, and each is asked for several times in a request.
@lru_cache(maxsize=256)
def _header(encoded: str) -> dict[str, Any]:
    """The header of a token, whoever has made it; empty if it is none."""
    if len(encoded) > _LONGEST_HEADER:
        return {}
    try:
        return jwt.get_unverified_header(f"{encoded}..")
    except jwt.InvalidTokenError:
        return {}


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _keep(cache: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    cache[key] = value
    if len(cache) > REMEMBERED:
        cache.popitem(last=False)
