"""The bodies of requests about accounts."""

from pydantic import Field

from api.routes.requests.base import Request
from api.web.fields import Email, NewPassword, Password, Secret, Text, Username
from api.web.guest_fields import KeyName, PublicKeyLine


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


class NewSSHKey(Request):
    """The public key to keep, as one line in the format of OpenSSH."""

    name: KeyName = Field(examples=["laptop"])
    public_key: PublicKeyLine = Field(
        examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILtVUMcDwHPeMXvUiiGYGdZ9TzBuIeOHkAtxcvjsJdLR ada@laptop"]
    )
