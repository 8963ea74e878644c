"""The bodies of requests about accounts."""

from typing import Annotated

from pydantic import AfterValidator, Field

from api.routes.requests.base import Request, is_absent, unique
from api.web.fields import WHOLE, Email, Name, NewPassword, Password, Secret, Text, Username
from api.web.guest_fields import KeyName, PublicKeyLine
from domain.rules.scopes import Scope

LONGEST_LIFE = 3650  # days


class Registration(Request):
    """A new user."""

    username: Username = Field(examples=["ada"])
    email: Email = Field(examples=["ada@example.com"])
    password: NewPassword = Field(examples=["Correct-horse-1"])


class Credentials(Request):
    """A username and its password."""

    username: Text = Field(examples=["ada"])
    password: Password = Field(examples=["Correct-horse-1"])


class RefreshRequest(Request):
    """The refresh token of the last login or refresh."""

    refresh_token: Secret = Field(max_length=4096)


class NewToken(Request):
    """The token to make for a program."""

    name: Name = Field(description="A name that none of your other tokens has.", examples=["backup-robot"])
    scopes: Annotated[list[Scope], AfterValidator(unique)] = Field(
        min_length=1,
        max_length=len(Scope),
        json_schema_extra={"uniqueItems": True},
        description="`read` is every GET. `write` is everything that you may do, reading included.",
        examples=[["read"]],
    )
    expires_in_days: Annotated[int, Field(ge=1, le=LONGEST_LIFE, strict=True), WHOLE] | None = Field(
        default=None,
        description="After so many days the token stops. Without this it never does.",
        examples=[90],
        exclude_if=is_absent,
    )


class NewSSHKey(Request):
    """The public key to keep, as one line in the format of OpenSSH."""

    name: KeyName = Field(examples=["laptop"])
    public_key: PublicKeyLine = Field(
        examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILtVUMcDwHPeMXvUiiGYGdZ9TzBuIeOHkAtxcvjsJdLR ada@laptop"]
    )
