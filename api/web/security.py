"""Passwords, tokens and cursors: bcrypt for the first, signatures with the secret key for the others."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID

import bcrypt
import jwt

ISSUER = "openstack-vm-api"
TokenType = Literal["access", "refresh"]

_CLAIMS = ["iss", "type", "jti", "sub", "username", "sid", "exp"]
_COST = 12
# Nobody's: checking it makes an unknown user's login take as long as a known one's.
_NOBODY = "$2b$12$kl5D8HOrRAmz13ChIWzmjexOzVAdP1p3nbLB6ap5S.0lQ5EKxk3bC"
_SEAL_SIZE = 16  # bytes


@dataclass(frozen=True, slots=True)
class Signing:
    """What tokens and cursors are signed with."""

    secret: str = field(repr=False)
    algorithm: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, as a token says; `session_id` is the login it comes from, a family of refresh tokens."""

    id: UUID
    username: str
    session_id: UUID


@dataclass(frozen=True, slots=True)
class Claims:
    """What a genuine token says; `expires_at` in seconds since 1970."""

    token_id: UUID
    caller: Caller
    expires_at: int


class InvalidTokenError(Exception):
    """Not a token of ours, not of the wanted type, or no longer valid."""


async def hash_password(password: str) -> str:
    """A salted hash of a password of any length; takes a quarter of a second, in a thread."""
    return (await asyncio.to_thread(bcrypt.hashpw, _digest(password), bcrypt.gensalt(_COST))).decode()


async def verify_password(password: str, password_hash: str | None) -> bool:
    """Whether the password is the one that was hashed; without a hash False, just as slowly."""
    right = await asyncio.to_thread(bcrypt.checkpw, _digest(password), (password_hash or _NOBODY).encode())
    return right and password_hash is not None


def _digest(password: str) -> bytes:
    # bcrypt reads 72 bytes and stops at a NUL; these are 44 without one.
    return base64.b64encode(hashlib.sha256(password.encode()).digest())


def sign(signing: Signing, type: TokenType, caller: Caller, token_id: UUID, lifetime: timedelta) -> str:
    """A token of `type` for the caller."""
    now = datetime.now(UTC)
    claims = {
        "iss": ISSUER,
        "type": type,
        "jti": str(token_id),
        "sub": str(caller.id),
        "username": caller.username,
        "sid": str(caller.session_id),
        "iat": now,
        "exp": now + lifetime,
    }
    return jwt.encode(claims, signing.secret, signing.algorithm)


def verify(signing: Signing, type: TokenType, token: str) -> Claims:
    """What the token says; InvalidTokenError unless it is ours, of `type`, and has not expired."""
    claims = _decode(signing, type, token)
    if claims.expires_at <= time.time():
        raise InvalidTokenError("The token has expired.")
    return claims


@lru_cache(maxsize=4096)  # a client sends the same token with every request, and its signature stays as good as it was
def _decode(signing: Signing, type: TokenType, token: str) -> Claims:
    try:
        claims = jwt.decode(
            token,
            signing.secret,
            algorithms=[signing.algorithm],
            issuer=ISSUER,
            options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
        )
    except jwt.InvalidTokenError:
        raise InvalidTokenError("The token is not valid.") from None
    if claims["type"] != type:
        raise InvalidTokenError(f"This needs a token of type {type}.")
    caller = Caller(UUID(claims["sub"]), claims["username"], UUID(claims["sid"]))
    return Claims(UUID(claims["jti"]), caller, claims["exp"])


def seal(signing: Signing, value: Any) -> str:
    """The JSON value as text that `unseal` recognises as ours."""
    payload = json.dumps(value, ensure_ascii=False).encode()  # an escape would be three times as long
    return base64.urlsafe_b64encode(_seal(signing, payload) + payload).decode()


def unseal(signing: Signing, text: str) -> Any:
    """The value that was sealed; None where the text is not from `seal`."""
    try:
        content = base64.urlsafe_b64decode(text)
    except ValueError:
        return None
    payload = content[_SEAL_SIZE:]
    return json.loads(payload) if hmac.compare_digest(content[:_SEAL_SIZE], _seal(signing, payload)) else None


def _seal(signing: Signing, payload: bytes) -> bytes:
    return hmac.digest(signing.secret.encode(), b"seal" + payload, "sha256")[:_SEAL_SIZE]
