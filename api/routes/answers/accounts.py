"""The bodies of answers about accounts."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from api.web.models import Answer, Page


class User(Answer):
    """A user's profile."""

    id: UUID
    username: str
    email: str
    created_at: datetime


class TokenPair(Answer):
    """The tokens of a login; `expires_in` is the lifetime of the access token in seconds."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - a type of token, not a secret
    expires_in: int


class SSHKey(Answer):
    """A public SSH key; `fingerprint` is the one that `ssh-keygen -l` shows."""

    name: str
    type: str = Field(examples=["ssh-ed25519"])
    fingerprint: str
    public_key: str
    created_at: datetime


class SSHKeyPage(Page[SSHKey]):
    """SSH keys."""
