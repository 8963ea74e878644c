"""The bodies of answers about accounts."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from api.web.models import Answer, Page
from domain.rules.scopes import Scope


class User(Answer):
    """A user's profile. A user of the identity provider has no `email` here."""

    id: UUID
    username: str
    email: str | None
    role: Literal["user", "admin"]
    created_at: datetime


class Account(User):
    """A user, as admins see it. A disabled one can neither log in nor use a token."""

    disabled_at: datetime | None


class AccountPage(Page[Account]):
    """Users."""


class TokenPair(Answer):
    """The tokens of a login; `expires_in` is the lifetime of the access token in seconds."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - a type of token, not a secret
    expires_in: int


class Token(Answer):
    """A token for programs. `last_used_at` is a minute old at most; a token without `expires_at` never ends."""

    id: UUID
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class CreatedToken(Token):
    """A new token for programs; `token` is its text, which no other answer shows."""

    token: str = Field(examples=["vma_" + "0123456789abcdef" * 4])


class TokenPage(Page[Token]):
    """Tokens for programs."""


class SSHKey(Answer):
    """A public SSH key; `fingerprint` is the one that `ssh-keygen -l` shows."""

    name: str
    type: str = Field(examples=["ssh-ed25519"])
    fingerprint: str
    public_key: str
    created_at: datetime


class SSHKeyPage(Page[SSHKey]):
    """SSH keys."""
