"""Where the tokens of a login are kept between requests."""

from typing import Protocol

from vmctl.client.models import TokenPair


class TokenStore(Protocol):
    """Keeps the tokens of one login.

    A refresh token works once, so only one client at a time may use it. The lock keeps others out, also those in other
    processes if they share the store.
    """

    def read(self) -> TokenPair | None:
        """Return the tokens, if there are any."""

    def write(self, tokens: TokenPair) -> None:
        """Replace the tokens."""

    def try_lock(self) -> bool:
        """Take the lock and return True, or return False at once."""

    def unlock(self) -> None:
        """Give the lock back."""


class MemoryTokens:
    """Keeps the tokens of one client."""

    def __init__(self) -> None:
        self._tokens: TokenPair | None = None

    def read(self) -> TokenPair | None:
        """Return the tokens, if there are any."""
        return self._tokens

    def write(self, tokens: TokenPair) -> None:
        """Replace the tokens."""
        self._tokens = tokens

    def try_lock(self) -> bool:
        """Return True: nobody else has this store."""
        return True

    def unlock(self) -> None:
        """Do nothing."""
