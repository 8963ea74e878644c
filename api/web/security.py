"""Hashes passwords with bcrypt; signs tokens and cursors with the secret key, and hides secrets with it.

There may be several keys: one signs, and the others are only accepted, so that the key can be changed while logins,
cursors and hidden secrets live on. A token says in its header which key has signed it.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID

import bcrypt
import jwt

from api.web import threads
from domain.rules.scopes import Scope

ISSUER = "openstack-vm-api"
TokenType = Literal["access", "refresh"]

_CLAIMS = ["iss", "type", "jti", "sub", "username", "sid", "exp"]
LATEST = 2**53  # seconds since 1970; a float holds no larger number exactly, and of the largest none
_HIGHEST_EPOCH = 2**31 - 1  # what the database can hold
_BCRYPT_COST = 12
# The hash of a password that opens no account. Checking it makes the login of an unknown user take as long as that of a
# known one, so that the time does not tell which usernames exist.
_DUMMY_HASH = "$2b$12$kl5D8HOrRAmz13ChIWzmjexOzVAdP1p3nbLB6ap5S.0lQ5EKxk3bC"
_SIGNATURE_SIZE = 16  # bytes
_KEY_ID_SIZE = 9  # bytes


@dataclass(frozen=True, slots=True)
class Signing:
    """The key and algorithm that tokens are signed with; cursors use the key only.

    `fallbacks` are keys that sign nothing, but whatever was signed with them is accepted.
    """

    secret: str = field(repr=False)
    algorithm: str
    fallbacks: tuple[str, ...] = field(default=(), repr=False)

    @property
    def accepted(self) -> tuple[str, ...]:
        """All keys, the one that signs first."""
        return self.secret, *self.fallbacks


@dataclass(frozen=True, slots=True)
class Caller:
    """The user that a token names."""

    id: UUID
    username: str


@dataclass(frozen=True, slots=True)
class LoginCaller(Caller):
    """A user who has logged in; `session_id` is the login that the token comes from, its refresh token family.

    The token is void once the account has begun another epoch. Tokens of earlier versions have none. `expires_at` is
    in seconds since 1970.
    """

    session_id: UUID
    epoch: int = 0
    expires_at: float = math.inf


@dataclass(frozen=True, slots=True)
class ProgramCaller(Caller):
    """A program with a token that the user has made for it; `expires_at` is None if the token never ends."""

    digest: bytes  # of the token
    scopes: frozenset[Scope]
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Claims:
    """The content of a token with a valid signature."""

    token_id: UUID
    caller: LoginCaller


class InvalidTokenError(Exception):
    """The token has no valid signature, has the wrong type, or has expired."""


async def hash_password(password: str) -> str:
    """A salted hash of a password of any length. It keeps a thread busy for a quarter of a second."""
    return (await threads.call(bcrypt.hashpw, _digest(password), bcrypt.gensalt(_BCRYPT_COST))).decode()


async def verify_password(password: str, password_hash: str | None) -> bool:
    """Whether the password has this hash; False if there is no hash, after the same time."""
    matches = await threads.call(bcrypt.checkpw, _digest(password), (password_hash or _DUMMY_HASH).encode())
    return matches and password_hash is not None


def _digest(password: str) -> bytes:
    # bcrypt ignores what follows the first 72 bytes or a NUL. This digest has 44 bytes and no NUL.
    return base64.b64encode(hashlib.sha256(password.encode()).digest())


def sign(signing: Signing, type: TokenType, caller: LoginCaller, token_id: UUID, lifetime: timedelta) -> str:
    """A token of `type` for the caller."""
    now = datetime.now(UTC)
    claims = {
        "iss": ISSUER,
        "type": type,
        "jti": str(token_id),
        "sub": str(caller.id),
        "username": caller.username,
        "sid": str(caller.session_id),
        "epoch": caller.epoch,
        "iat": now,
        "exp": now + lifetime,
    }
    return jwt.encode(claims, signing.secret, signing.algorithm, headers={"kid": key_id(signing.secret)})


def verify(signing: Signing, type: TokenType, token: str) -> Claims:
    """The content of the token; InvalidTokenError if its signature or type is wrong or it has expired."""
    claims = _decode(signing, type, token)
    # Checked here and not in _decode, whose results are cached: a token that was valid then may have expired since.
    if claims.caller.expires_at <= time.time():
        raise InvalidTokenError("The token has expired.")
    return claims


# Cached because a client sends the same token with every request, and whether its signature is valid never changes.
# Errors are not cached, so forged tokens cannot push out valid ones.
@lru_cache(maxsize=4096)
def _decode(signing: Signing, type: TokenType, token: str) -> Claims:
    try:
        claims = _checked_claims(signing, token)
    except jwt.InvalidTokenError:
        raise InvalidTokenError("The token is not valid.") from None
    if claims["type"] != type:
        raise InvalidTokenError(f"The token is not of type {type}.")
    try:
        return _typed(claims)
    except ValueError:
        raise InvalidTokenError("The token is not valid.") from None


def _typed(claims: dict[str, Any]) -> Claims:
    """The claims, each of its type; ValueError if one is not. Another program with the key may sign other claims."""
    username, epoch, expires_at = claims["username"], claims.get("epoch", 0), claims["exp"]
    if not isinstance(username, str) or "\0" in username:
        raise ValueError("The username is no text that the database can hold.")
    username.encode()  # a ValueError if it has half of a surrogate pair
    if not _is_whole(epoch, _HIGHEST_EPOCH) or not _is_whole(expires_at, LATEST):
        raise ValueError("The epoch or the end is no such number.")
    user_id, session_id, token_id = (UUID(str(claims[name])) for name in ("sub", "sid", "jti"))
    return Claims(token_id, LoginCaller(user_id, username, session_id, epoch, expires_at))


def _is_whole(value: Any, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest


def _checked_claims(signing: Signing, token: str) -> dict[str, Any]:
    named = jwt.get_unverified_header(token).get("kid")
    # A token of an earlier version names no key, so any of them may have signed it.
    keys = [key for key in signing.accepted if named in {None, key_id(key)}]
    for key in keys:
        with contextlib.suppress(jwt.InvalidSignatureError):
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[signing.algorithm],  # never what the token says: it could say `none`
                issuer=ISSUER,
                options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
            )
            return claims
    raise jwt.InvalidSignatureError


@lru_cache(maxsize=64)
def key_id(secret: str) -> str:
    """A name of the key, which everybody may know: it tells nothing about the key."""
    return base64.urlsafe_b64encode(hmac.digest(secret.encode(), b"kid", "sha256")[:_KEY_ID_SIZE]).decode()


def seal(signing: Signing, value: Any) -> str:
    """The JSON value with a signature, as text; clients can read the value but not change it."""
    payload = json.dumps(value, ensure_ascii=False).encode()  # escapes would make non-ASCII names longer
    return base64.urlsafe_b64encode(_signature(signing.secret, payload) + payload).decode()


def unseal(signing: Signing, text: str) -> Any:
    """The value that `seal` was given; None if the text is not from `seal`."""
    try:
        content = base64.urlsafe_b64decode(text)
    except ValueError:
        return None
    signature, payload = content[:_SIGNATURE_SIZE], content[_SIGNATURE_SIZE:]
    is_ours = any(hmac.compare_digest(signature, _signature(key, payload)) for key in signing.accepted)
    return json.loads(payload) if is_ours else None


def mask(key: str, name: str, secret: bytes) -> bytes:
    """Hide 32 random bytes with the key; given the result, the same key and name, this returns them.

    A name is used for one secret only.
    """
    pad = hmac.digest(key.encode(), b"mask" + name.encode(), "sha256")
    return bytes(mine ^ other for mine, other in zip(pad, secret, strict=True))


def _signature(key: str, payload: bytes) -> bytes:
    # The prefix keeps these signatures apart from those of tokens, from masks and from names of keys, which have the
    # same key.
    return hmac.digest(key.encode(), b"seal" + payload, "sha256")[:_SIGNATURE_SIZE]
