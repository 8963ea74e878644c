"""The bodies of requests about accounts."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from api.routes.requests.base import Request, is_absent, unique
from api.web.fields import WHOLE, Email, Name, NewPassword, Password, Secret, Text, Username
from api.web.guest_fields import KeyName, PublicKeyLine
from domain.rules.accounts import Role
from domain.rules.passwords import OWN_NAME, is_obvious, names_of
from domain.rules.scopes import Scope

LONGEST_LIFE = 3650  # days


class Registration(Request):
    """A new user."""

    username: Username = Field(examples=["ada"])
    email: Email = Field(examples=["ada@example.com"])
    password: NewPassword = Field(examples=["Correct-horse-1"])

    @field_validator("password")
    @classmethod
    def _refuse_own_names(cls, password: SecretStr, info: ValidationInfo) -> SecretStr:
        # A name that is wrong itself has an error already, and is missing here.
        names = names_of(info.data.get("username", ""), info.data.get("email", ""))
        if is_obvious(password.get_secret_value(), names):
            raise PydanticCustomError("password_too_common", OWN_NAME)
        return password


class Credentials(Request):
    """A username and its password."""

    username: Text = Field(examples=["ada"])
    password: Password = Field(examples=["Correct-horse-1"])


class PasswordChange(Request):
    """The password that you have, and the one to have from now on."""

    current_password: Password = Field(examples=["Correct-horse-1"])
    new_password: NewPassword = Field(examples=["Correct-horse-2"])


class RoleChange(Request):
    """The role that a user is to have."""

    role: Role = Field(description="An `admin` may use everything under /admin.", examples=["admin"])


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
