"""Failed logins: how long the next attempt must wait, and who goes first when passwords are to be hashed.

The tables are in the memory of the process, and only an attempt that was hashed adds to them. A refused attempt costs
and changes nothing. So nobody can fill the tables, or push others out of them, faster than passwords are hashed.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")

FREE_FAILURES = 5  # with an account, before a delay; people mistype
FREE_FAILURES_OF_ORIGIN = 10  # with all accounts, before a delay; people share an address
LONGEST_DELAY = 300.0  # seconds
LONGEST_DELAY_BY_ACCOUNT = 30.0  # seconds; failures of others must not keep the owner out
MEMORY = 3600.0  # seconds without a failure after which it is forgotten
USE_HALVES_AFTER = 300.0  # seconds
KNOWN_CREDIT = 8.0  # hashes of one account's owner; a script that logs in once a minute stays below it
SHARED_CREDIT = 64.0  # hashes of all owners behind one address; nobody gets more with many accounts
CAPACITY = 50_000  # entries in each table


@dataclass(slots=True)
class _Count:
    value: float
    at: float


class _Counts(Generic[K]):
    """Counts by key, the longest unchanged first; these are forgotten after MEMORY or when the table is full."""

    def __init__(self) -> None:
        self._counts: OrderedDict[K, _Count] = OrderedDict()

    def get(self, key: K) -> _Count | None:
        count = self._counts.get(key)
        return count if count and count.at > time.monotonic() - MEMORY else None

    def set(self, key: K, value: float) -> None:
        self._counts[key] = _Count(value, time.monotonic())
        self._counts.move_to_end(key)
        while len(self._counts) > CAPACITY or next(iter(self._counts.values())).at <= time.monotonic() - MEMORY:
            self._counts.popitem(last=False)

    def subtract(self, key: K, value: float) -> None:
        """Lower a count. It is forgotten no later than without this."""
        if count := self._counts.get(key):
            count.value -= value
            if count.value <= 0:
                del self._counts[key]

    def __len__(self) -> int:
        return len(self._counts)


class Logins:
    """The failures of each origin, of each account, and of each pair of both; the hashes that each origin has used."""

    def __init__(self) -> None:
        self._origins: _Counts[str] = _Counts()
        self._accounts: _Counts[str] = _Counts()
        self._pairs: _Counts[tuple[str, str]] = _Counts()
        self._uses: _Counts[tuple[str, str]] = _Counts()  # of each origin, and of each owner there
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def delay(self, origin: str, account: str) -> float:
        """The seconds until this origin may try this account; 0 for now.

        Each delay begins with the origin's own last failure. So an attack from elsewhere delays nobody who has not
        failed, and one who has failed gets a try after LONGEST_DELAY_BY_ACCOUNT, however long the attack goes on.
        """
        pair = self._pairs.get((origin, account))
        delays = [_remaining(pair, _after(pair.value, FREE_FAILURES))] if pair else []
        if not self.is_known(origin, account):
            # Where the account's owner has logged in before, neighbours who fail do not matter.
            if of_origin := self._origins.get(origin):
                delays.append(_remaining(of_origin, _after(of_origin.value, FREE_FAILURES_OF_ORIGIN)))
            if pair and (of_account := self._accounts.get(account)):
                delays.append(_remaining(pair, min(_after(of_account.value, FREE_FAILURES), LONGEST_DELAY_BY_ACCOUNT)))
        return max(delays, default=0.0)

    def rank(self, origin: str, account: str = "") -> float:
        """How many hashes the origin has used lately: the lowest rank is hashed first.

        Where the account's owner has logged in before, the rank is below 0 while the account has used a few hashes
        there and its neighbours not very many. Among other origins with equal use, the one whose account has failed
        less often goes first.
        """
        if self.is_known(origin, account):
            beyond, of_all = self._use(origin, account) - KNOWN_CREDIT, self._use(origin) - SHARED_CREDIT
            # By the use of all at the origin, or attackers with many accounts at many origins would equal its owners.
            return of_all if beyond < 0 else max(beyond, of_all)
        failures = min(_value(self._accounts.get(account)), FREE_FAILURES)
        # At most half a hash: failures only decide between origins with equal use.
        return self._use(origin) + failures / (2 * FREE_FAILURES)

    def note_use(self, origin: str, account: str = "") -> None:
        """Count a hash for this origin, and for the account's owner there."""
        self._uses.set((origin, ""), self._use(origin) + 1)
        if self.is_known(origin, account):
            self._uses.set((origin, account), self._use(origin, account) + 1)

    def note_failure(self, origin: str, account: str) -> None:
        """Count a wrong password."""
        self._origins.set(origin, _value(self._origins.get(origin)) + 1)
        self._accounts.set(account, _value(self._accounts.get(account)) + 1)
        self._pairs.set((origin, account), _value(self._pairs.get((origin, account))) + 1)

    def note_success(self, origin: str, account: str) -> None:
        """Forget the failures of this origin with this account: they were mistakes of its owner.

        Other failures of the origin stay. Otherwise an attacker would log in to an account of their own in between.
        """
        mistakes = _value(self._pairs.get((origin, account)))
        self._pairs.subtract((origin, account), mistakes)
        self._origins.subtract(origin, mistakes)
        self._accounts.subtract(account, mistakes)
        self.note_owner(origin, account)

    def note_owner(self, origin: str, account: str) -> None:
        """Remember that the account's owner is at this origin: it has logged in or registered from there."""
        self._known[origin, account] = None
        self._known.move_to_end((origin, account))
        if len(self._known) > CAPACITY:
            self._known.popitem(last=False)

    def is_known(self, origin: str, account: str) -> bool:
        """Whether somebody has logged in to this account, or registered it, from this origin before."""
        return (origin, account) in self._known

    def _use(self, origin: str, account: str = "") -> float:
        use = self._uses.get((origin, account))
        return use.value * 0.5 ** ((time.monotonic() - use.at) / USE_HALVES_AFTER) if use else 0.0


def _value(count: _Count | None) -> float:
    return count.value if count else 0.0


def _after(failures: float, free: int) -> float:
    """The delay after so many failures: none at first, then 1, 2, 4 ... seconds."""
    # The exponent is bounded, because a large one would be an OverflowError.
    return min(LONGEST_DELAY, 2.0 ** min(failures - free, 30)) if failures >= free else 0.0


def _remaining(count: _Count, delay: float) -> float:
    return max(0.0, count.at + delay - time.monotonic())
