# Generated from aio/accounts.py by `python -m tests.vmctl.generated`.

"""Accounts, logins, tokens for programs and SSH keys."""

from collections.abc import Iterator
from typing import Unpack

from vmctl.client.errors import answer_of
from vmctl.client.models import CreatedToken, SSHKey, Token, TokenPair, User
from vmctl.client.requests import NewSSHKey, NewToken, PasswordChange, Registration
from vmctl.client.service import name_in_path
from vmctl.client.sync.collections import Collection, Id
from vmctl.client.sync.transport import Transport


class Account:
    """The caller's account."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, **fields: Unpack[Registration]) -> User:
        """Make an account. Log in afterwards."""
        response = self._transport.send("POST", "/auth/register", body=fields)
        return answer_of(response, User)

    def log_in(self, username: str, password: str) -> TokenPair:
        """Get tokens for the requests that follow. They are renewed when they expire."""
        body = {"username": username, "password": password}
        response = self._transport.send("POST", "/auth/login", body=body)
        tokens = answer_of(response, TokenPair)
        self._transport.tokens.write(tokens)
        return tokens

    def log_out(self) -> None:
        """End the login: its tokens cannot be renewed any more."""
        self._transport.send("POST", "/auth/logout")

    def log_out_everywhere(self) -> None:
        """End all logins of the user. Tokens for programs go on."""
        self._transport.send("POST", "/auth/logout-all")

    def change_password(self, **fields: Unpack[PasswordChange]) -> None:
        """Change the password, and end all logins. Log in again afterwards."""
        self._transport.send("POST", "/auth/password", body=fields)

    def me(self) -> User:
        """Read the caller's profile."""
        return self._transport.get("/auth/me", User)


class Tokens(Collection[Token]):
    """Your tokens for programs."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/tokens", Token)

    def create(self, *, idempotency_key: str | None = None, **fields: Unpack[NewToken]) -> CreatedToken:
        """Make a token. Only this answer has its text."""
        response = self.transport.send("POST", "/tokens", body=fields, key=idempotency_key)
        return answer_of(response, CreatedToken)

    def delete(self, id: Id) -> None:
        """Delete a token. It stops at once."""
        self.transport.send("DELETE", f"/tokens/{id}")


class SSHKeys:
    """Your public keys, by name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[SSHKey]:
        """Yield all keys."""
        return self._transport.items("/ssh-keys", SSHKey, {})

    def get(self, name: str) -> SSHKey:
        """Read one key."""
        return self._transport.get(f"/ssh-keys/{name_in_path(name)}", SSHKey)

    def add(self, **fields: Unpack[NewSSHKey]) -> SSHKey:
        """Keep a public key, for VMs that are created later."""
        response = self._transport.send("POST", "/ssh-keys", body=fields)
        return answer_of(response, SSHKey)

    def delete(self, name: str) -> None:
        """Forget a key."""
        self._transport.send("DELETE", f"/ssh-keys/{name_in_path(name)}")
