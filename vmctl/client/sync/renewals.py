# Generated from aio/renewals.py by `python -m tests.vmctl.generated`.

"""Renews the tokens of a login."""

from collections.abc import Callable
from math import inf
from threading import Lock
from time import monotonic, sleep

from vmctl.client.errors import ClientError, UnreachableError
from vmctl.client.models import TokenPair
from vmctl.client.tokens import TokenStore
from vmctl.client.unbroken import unbroken


class Renewals:
    """Renews tokens, once for all callers that need it at the same time.

    The service takes a refresh token again for some seconds only, in case its answer was lost. So a renewal that has
    begun is carried through: one that is cut off would end the login.
    """

    def __init__(self, tokens: TokenStore, patience: float, ask: Callable[[str], TokenPair]) -> None:
        self._tokens = tokens
        self._patience = patience
        self._ask = ask  # asks the service for new tokens with a refresh token
        self._lock = Lock()
        self._failure: ClientError | None = None  # of the last renewal
        self._failed_at = -inf

    def renew(self, stale: str) -> str:
        """Return an access token that is newer than the stale one. If the caller is stopped, the renewal goes on."""
        return unbroken(self._renew, stale, monotonic())

    def finish(self) -> None:
        """Wait until a renewal that goes on is done."""
        with self._lock:
            pass

    def _renew(self, stale: str, asked_at: float) -> str:
        with self._lock:
            if self._failure and self._failed_at > asked_at:  # of one that this caller has waited for
                raise self._failure
            try:
                return self._renew_alone(stale)
            except ClientError as error:
                self._failure, self._failed_at = error, monotonic()
                raise

    def _renew_alone(self, stale: str) -> str:
        self._lock_tokens()
        try:
            kept = self._tokens.read()
            if kept is None or kept.access_token != stale:  # others have renewed it in the meantime
                return kept.access_token if kept else stale
            new = self._ask(kept.refresh_token)
            if self._tokens.read() == kept:  # if not, somebody has logged in or out meanwhile
                self._tokens.write(new)
            return new.access_token
        finally:
            self._tokens.unlock()

    def _lock_tokens(self) -> None:
        give_up_at = monotonic() + self._patience
        while not self._tokens.try_lock():
            if monotonic() > give_up_at:
                raise UnreachableError("Another program has been renewing this login for too long. Try again.")
            sleep(0.05)
