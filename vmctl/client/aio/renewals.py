"""Renews the tokens of a login."""

from asyncio import Lock, sleep
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic

from vmctl.client.errors import ClientError, UnreachableError
from vmctl.client.models import TokenPair
from vmctl.client.tokens import TokenStore
from vmctl.client.unbroken import async_unbroken


class Renewals:
    """Renews tokens, once for all callers that need it at the same time.

    The service takes a refresh token again for some seconds only, in case its answer was lost. So a renewal that has
    begun is carried through: one that is cut off would end the login.
    """

    def __init__(self, tokens: TokenStore, patience: float, ask: Callable[[str], Awaitable[TokenPair]]) -> None:
        self._tokens = tokens
        self._patience = patience
        self._ask = ask  # asks the service for new tokens with a refresh token
        self._lock = Lock()
        self._failure: ClientError | None = None  # of the last renewal
        self._failed_at = -inf

    async def renew(self, stale: str) -> str:
        """Return an access token that is newer than the stale one. If the caller is stopped, the renewal goes on."""
        return await async_unbroken(self._renew, stale, monotonic())

    async def finish(self) -> None:
        """Wait until a renewal that goes on is done."""
        async with self._lock:
            pass

    async def _renew(self, stale: str, asked_at: float) -> str:
        async with self._lock:
            if self._failure and self._failed_at > asked_at:  # of one that this caller has waited for
                raise self._failure
            try:
                return await self._renew_alone(stale)
            except ClientError as error:
                self._failure, self._failed_at = error, monotonic()
                raise

    async def _renew_alone(self, stale: str) -> str:
        await self._lock_tokens()
        try:
            kept = self._tokens.read()
            if kept is None or kept.access_token != stale:  # others have renewed it in the meantime
                return kept.access_token if kept else stale
            new = await self._ask(kept.refresh_token)
            if self._tokens.read() == kept:  # if not, somebody has logged in or out meanwhile
                self._tokens.write(new)
            return new.access_token
        finally:
            self._tokens.unlock()

    async def _lock_tokens(self) -> None:
        give_up_at = monotonic() + self._patience
        while not self._tokens.try_lock():
            if monotonic() > give_up_at:
                raise UnreachableError("Another program has been renewing this login for too long. Try again.")
            await sleep(0.05)
