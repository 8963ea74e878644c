"""Renews the tokens of a login."""

from asyncio import Lock, sleep
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic

from vmctl.client.background import Background
from vmctl.client.errors import ClientError, UnreachableError
from vmctl.client.models import TokenPair
from vmctl.client.tokens import TokenStore


class Renewals:
    """Renews tokens, once for all callers that need it at the same time.

    A renewal that is cut off would end the login: the service has used the old refresh token, and the new one is lost.
    The service takes the old one again for some seconds only, in case its answer was lost.
    """

    def __init__(self, tokens: TokenStore, patience: float, ask: Callable[[str], Awaitable[TokenPair]]) -> None:
        self._tokens = tokens
        self._patience = patience
        self._ask = ask  # asks the service for new tokens with a refresh token
        self._lock = Lock()
        self._failure: ClientError | None = None  # of the last renewal
        self._failed_at = -inf
        self.background = Background()  # asynchronous only

    async def renew(self, stale: str) -> str:
        """Return an access token that is newer than the stale one. Others may have renewed it in the meantime."""
        asked_at = monotonic()
        await self._lock.acquire()
        try:
            await self._lock_tokens()
        except BaseException:
            self._lock.release()
            raise
        return await self.background.carry(self._renew_locked(stale, asked_at))

    async def _lock_tokens(self) -> None:
        give_up_at = monotonic() + self._patience
        while not self._tokens.try_lock():
            if monotonic() > give_up_at:
                raise UnreachableError("Another program has been renewing this login for too long. Try again.")
            await sleep(0.05)

    async def _renew_locked(self, stale: str, asked_at: float) -> str:
        """Renew them, and give both locks back."""
        try:
            kept = self._tokens.read()
            if kept is None or kept.access_token != stale:
                return kept.access_token if kept else stale
            if self._failure and self._failed_at > asked_at:  # of a renewal that this caller has waited for
                raise self._failure.with_traceback(None)
            new = await self._new_tokens(kept.refresh_token)
            if self._tokens.read() == kept:  # if not, somebody has logged in or out meanwhile
                self._tokens.write(new)
            return new.access_token
        finally:
            try:
                self._tokens.unlock()
            finally:
                self._lock.release()

    async def _new_tokens(self, refresh_token: str) -> TokenPair:
        try:
            return await self._ask(refresh_token)
        except ClientError as error:
            self._failure, self._failed_at = error, monotonic()
            raise
