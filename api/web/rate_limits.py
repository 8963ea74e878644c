"""How many requests a caller may send, and the headers that tell clients what is left.

The headers are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy` has the limits of the request's
callers, and `RateLimit` what is left of each.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from api.background.rate_uses import WINDOW, RateUses, Use
from domain.settings import Settings

logger = logging.getLogger(__name__)

Kind = Literal["user", "token", "address"]
REPORT_INTERVAL: Final = 60.0  # seconds between two lines in the log about one caller
SLOTS: Final = "concurrent"  # the name of the limit of simultaneous requests (see Admission)


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """How many requests of one kind a caller may send in WINDOW seconds; `cost` is the time that one takes of it."""

    name: str
    quota: int
    cost: float


class RateLimitedError(Exception):
    """The caller has used up a limit; `retry_after` are the seconds until the next request may come."""

    def __init__(self, limit: Limit, retry_after: int) -> None:
        super().__init__(limit.name)
        self.limit = limit
        self.retry_after = retry_after


class Counted:
    """The limits that a request counts for, with what its callers have used of them."""

    __slots__ = ("_limits", "_method", "_uses", "used")

    def __init__(self, limits: "RateLimits", method: str) -> None:
        self._limits = limits
        self._method = method
        self.used: list[tuple[Limit, Use]] = []

    def count(self, *callers: tuple[Kind, str]) -> None:
        """Count the request for these callers; RateLimitedError, and nothing is counted, if one has used up a limit."""
        now = time.monotonic()
        self.used = self._limits.find(self._method, callers)
        for limit, use in self.used:
            wait = use.until - now + limit.cost - WINDOW
            if wait > 0:
                _report(use, now)
                raise RateLimitedError(limit, math.ceil(wait))
        for limit, use in self.used:
            self._limits.uses.add(use, limit.cost)

    def headers(self, slots: int, free_slots: int) -> list[tuple[bytes, bytes]]:
        """The headers of the answer; `slots` are the requests that a caller may have open at the same time."""
        now = time.monotonic()
        left = [_left(limit, use.until - now) for limit, use in self.used]
        left.append(f'"{SLOTS}";r={free_slots}')
        policy = _policy(tuple([limit for limit, _ in self.used]), slots)
        return [(b"ratelimit-policy", policy), (b"ratelimit", ", ".join(left).encode())]


class RateLimits:
    """The limits of reads and of changes, for each kind of caller."""

    def __init__(self, settings: Settings, uses: RateUses) -> None:
        quotas: dict[Kind, tuple[int, int]] = {
            "user": (settings.rate_limit_user_reads, settings.rate_limit_user_writes),
            "token": (settings.rate_limit_token_reads, settings.rate_limit_token_writes),
            "address": (settings.rate_limit_address_reads, settings.rate_limit_address_writes),
        }
        self.uses = uses
        self._limits: dict[tuple[Kind, bool], Limit] = {}
        for kind, (reads, writes) in quotas.items():
            for name, quota in (("reads", reads), ("writes", writes)):
                if quota:
                    self._limits[kind, name == "reads"] = Limit(f"{kind}-{name}", quota, WINDOW / quota)

    def find(self, method: str, callers: Sequence[tuple[Kind, str]]) -> list[tuple[Limit, Use]]:
        """The limits of these callers that a request with this method counts for, with their uses."""
        is_read = method in {"GET", "HEAD"}
        found = []
        for kind, caller in callers:
            if limit := self._limits.get((kind, is_read)):
                found.append((limit, self.uses.find(limit.name, caller, is_known=kind != "address")))
        return found


def _left(limit: Limit, ahead: float) -> str:
    left = min(limit.quota, max(0, int((WINDOW - ahead) / limit.cost)))
    seconds = max(0, math.ceil(ahead + (left + 1) * limit.cost - WINDOW))  # until there is one more
    return f'"{limit.name}";r={left};t={seconds}'


@lru_cache(maxsize=64)
def _policy(limits: tuple[Limit, ...], slots: int) -> bytes:
    policies = [f'"{limit.name}";q={limit.quota};w={WINDOW}' for limit in limits]
    return ", ".join([*policies, f'"{SLOTS}";q={slots};qu="concurrent-requests"']).encode()


def _report(use: Use, now: float) -> None:
    """Log the first refusal, and then once a minute how many there were: a flood must not fill the log."""
    use.refused += 1
    if now >= use.reported_at + REPORT_INTERVAL:
        logger.warning("too many requests: the limit %s is used up, refused %d times", use.key, use.refused)
        use.refused, use.reported_at = 0, now
