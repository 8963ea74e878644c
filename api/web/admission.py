"""Admission of requests: the limits of their callers, the slots that they need, and how refusals are held back."""

import asyncio
import contextlib
import logging
import re
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.background.provider_keys import ProviderAwayError
from api.background.token_epochs import TokenEpochs
from api.web import oidc, problems, program_tokens
from api.web.middleware import HEALTH_PATHS, LOGIN_PATHS
from api.web.oidc import IdentityProvider
from api.web.origin import origin_of
from api.web.program_tokens import ProgramTokens
from api.web.rate_limits import Counted, RateLimitedError, RateLimits
from api.web.security import Caller, InvalidTokenError, Signing, verify
from api.web.slots import NoSlotError, Slots
from domain import logs
from domain.data import outages

logger = logging.getLogger(__name__)

_SEARCH = re.compile(rb"(?:^|&)(?:name|labels)(?:=|&|$)")  # parameters of lists
# How long the answer to a refused request is held back; meanwhile the request holds no slot. Many clients retry at
# once, and refusing them again and again without a delay would keep a whole processor busy.
REFUSAL_DELAY = 0.5  # seconds, or longer if many are held back
REFUSALS_PER_SECOND = 100  # of all callers; one costs a few milliseconds
LONGEST_REFUSAL_DELAY = 30.0  # seconds
_REFUSALS = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_STRANGER, _USER = 0.0, -1.0  # ranks: strangers at many addresses must not fill the queue for users


class Admission:
    """Let a request pass within its callers' rate limits when it gets a slot, and refuse it otherwise.

    Health checks have no limits and need no slot. The slot is released when the answer starts. No route uses the
    database after that, and a client that reads its answer slowly would otherwise hold the slot as long as it likes. A
    request that waits for a change gives it back with `scope["release_slot"]()` before, and takes one again with `await
    scope["take_slot"]()` for what it reads after that. `scope["slot_caller"]` is whom the slot is for, with the rank. A
    search takes one of the few slots of `searches` first: it can take seconds, so searches must not hold all of the
    others.
    """

    def __init__(self, app: ASGIApp, *, slots: Slots, searches: Slots, signing: Signing, limits: RateLimits) -> None:
        self.app = app
        self.slots = slots
        self.searches = searches
        self.signing = signing
        self.limits = limits
        self._held_back = 0  # refusals that wait until they are sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in HEALTH_PATHS:
            await self.app(scope, receive, send)
            return
        with contextlib.ExitStack() as slot:
            admitted = _Admitted(slot, Counted(self.limits, scope["method"]), _is_search(scope))

            async def release_and_send(message: Message) -> None:
                admitted.give_back()
                if message["type"] == "http.response.start":
                    if message["status"] in _REFUSALS:
                        scope["is_refused"] = True  # for api/server: the client can do without this answer
                        await self._hold_back(receive)
                    free = self.slots.free_of(admitted.caller)
                    told = admitted.counted.headers(self.slots.most_of_caller, free)
                    message["headers"] = [*message["headers"], *told]
                await send(message)

            try:
                await self._admit(scope, admitted)
            except NoSlotError as error:
                await problems.refusal(error.code, scope["path"])(scope, receive, release_and_send)
                return
            except RateLimitedError as error:
                logs.has_line.set(False)  # there are lines about it already
                answer = problems.rate_limited(error.limit.name, error.limit.quota, error.retry_after, scope["path"])
                await answer(scope, receive, release_and_send)
                return
            scope["slot_caller"] = admitted.caller, admitted.rank
            # For requests that wait: they hold no slot meanwhile, and need one again if they read more after that.
            scope["release_slot"] = admitted.give_back
            scope["take_slot"] = partial(self._take_again, admitted)
            await self.app(scope, receive, release_and_send)

    async def _hold_back(self, receive: Receive) -> None:
        """Drop the request's body. Then wait as long as a refusal is held back, or until its client leaves."""
        self._held_back += 1
        delay = max(REFUSAL_DELAY, self._held_back / REFUSALS_PER_SECOND)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(delay, LONGEST_REFUSAL_DELAY)):
                    while (await receive())["type"] != "http.disconnect":
                        pass
        finally:
            self._held_back -= 1

    async def _admit(self, scope: Scope, admitted: "_Admitted") -> None:
        """Count the request and take a slot, for its user if it has a valid token, else for its origin."""
        # Logins and registrations count for their address, whoever's token they come with.
        token = "" if scope["path"] in LOGIN_PATHS else _bearer(scope)
        finder = await _finder(scope, token)
        if finder is None:
            user = _named(_logged_in(scope, token, self.signing))
            caller = user or origin_of(scope)
            admitted.counted.count(("user" if user else "address", caller))
            await self._take(caller, admitted, _USER if user else _STRANGER)
            return
        owner = ""
        with contextlib.suppress(InvalidTokenError, ProviderAwayError):  # the route will see it, too
            owner = _named(finder.owner(token))
        if not owner:
            # Only the database knows whose token it is. Asking it takes a slot and counts, too: tokens may be made up.
            origin = origin_of(scope)
            admitted.counted.count(("address", origin))
            await self._take(origin, admitted, _STRANGER)
            with contextlib.suppress(InvalidTokenError, ProviderAwayError, DBAPIError, *outages.UNREACHABLE):
                owner = _named(await _find(finder, token, scope))
            if not owner:
                return
            admitted.give_back()
        if program_tokens.is_one(token):
            admitted.counted.count(("token", program_tokens.digest(token).hex()), ("user", owner))
        else:
            admitted.counted.count(("user", owner))
        await self._take(owner, admitted, _USER)

    async def _take(self, caller: str, admitted: "_Admitted", rank: float) -> None:
        admitted.caller, admitted.rank = caller, rank
        if admitted.is_search:
            await self.searches.acquire(caller, rank)
            admitted.slot.callback(self.searches.release, caller)
        await self.slots.acquire(caller, rank)
        admitted.slot.callback(self.slots.release, caller)
        admitted.is_served = True

    async def _take_again(self, admitted: "_Admitted") -> None:
        """Take the slot that the request has given back, if it has; NoSlotError."""
        if not admitted.is_served:
            await self._take(admitted.caller, admitted, admitted.rank)


@dataclass(slots=True)
class _Admitted:
    """The slots that a request holds, the limits that it counts for, and the caller that both are of, with its rank."""

    slot: contextlib.ExitStack
    counted: Counted
    is_search: bool
    caller: str = ""
    rank: float = _STRANGER
    is_served: bool = False

    def give_back(self) -> None:
        """Release the slots, if the request holds them."""
        self.is_served = False
        self.slot.close()


def _is_search(scope: Scope) -> bool:
    """Whether the request has a filter by names or labels. It is not counted yet, so its query is not parsed."""
    return scope["method"] == "GET" and bool(_SEARCH.search(unquote_to_bytes(scope["query_string"])))


async def _finder(scope: Scope, token: str) -> ProgramTokens | IdentityProvider | None:
    """Who knows the callers with tokens of this kind; None for our own access tokens, which say it themselves."""
    state = scope["app"].state.vmapi
    provider: IdentityProvider | None = state.provider
    if provider and oidc.is_signed(token):
        await provider.prepare(token)  # before the request has a slot: the provider may be slow
        return provider
    tokens: ProgramTokens = state.program_tokens
    return tokens if program_tokens.is_one(token) else None


async def _find(finder: ProgramTokens | IdentityProvider, token: str, scope: Scope) -> Caller:
    return await (finder.find(token, scope) if isinstance(finder, IdentityProvider) else finder.find(token))


def _bearer(scope: Scope) -> str:
    # Split as the routes do it. A token that only they find would be counted for its address, and not for its user.
    kind, token = get_authorization_scheme_param(Headers(scope=scope).get("authorization"))
    return token if kind.lower() == "bearer" else ""


def _logged_in(scope: Scope, token: str, signing: Signing) -> Caller | None:
    try:
        caller = verify(signing, "access", token).caller
    except InvalidTokenError:
        return None
    # The token of a login that has ended must not use up what its user may send.
    epochs: TokenEpochs = scope["app"].state.vmapi.epochs
    return None if epochs.is_void(caller.id, caller.epoch) else caller


def _named(user: Caller | None) -> str:
    """The id of a user, whose name goes into the log; empty if there is none."""
    if user is None:
        return ""
    logs.user.set(user.username)
    return str(user.id)
