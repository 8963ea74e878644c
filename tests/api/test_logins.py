"""Failed logins: how long the next one waits, and who goes first when passwords are to be hashed."""

from types import SimpleNamespace

import pytest

from api.web import logins as module
from api.web.logins import (
    FREE_FAILURES,
    FREE_FAILURES_OF_ORIGIN,
    LONGEST_DELAY,
    LONGEST_DELAY_BY_ACCOUNT,
    MEMORY,
    Logins,
)

HOME, OFFICE = "192.0.2.1", "198.51.100.7"


class Clock:
    """The seconds that Logins sees."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """The time of the test."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the test moves."""
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def fail(logins: Logins, origin: str, account: str, times: int = 1) -> None:
    """Let so many logins fail."""
    for _ in range(times):
        logins.note_failure(origin, account)


def test_the_delay_rises_from_nothing_to_its_limit(clock: Clock) -> None:
    logins, delays = Logins(), []
    for _ in range(FREE_FAILURES + 12):
        delays.append(logins.delay(HOME, "ada"))
        clock.now += delays[-1]
        fail(logins, HOME, "ada")
    assert delays[: FREE_FAILURES + 5] == [0.0] * FREE_FAILURES + [1.0, 2.0, 4.0, 8.0, 16.0]
    assert delays[-1] == LONGEST_DELAY


def test_a_delay_ends_and_an_hour_without_a_failure_is_a_new_start(clock: Clock) -> None:
    logins = Logins()
    fail(logins, HOME, "ada", FREE_FAILURES + 2)
    clock.now += 3.5
    assert logins.delay(HOME, "ada") == 0.5
    clock.now += 0.5
    assert logins.delay(HOME, "ada") == 0.0
    clock.now += MEMORY
    fail(logins, HOME, "ada")
    assert logins.delay(HOME, "ada") == 0.0


def test_many_accounts_from_one_address_are_delayed_as_one(clock: Clock) -> None:
    logins = Logins()
    for n in range(FREE_FAILURES_OF_ORIGIN):
        assert logins.delay(HOME, "ada") == 0.0
        fail(logins, HOME, f"user-{n}")
    assert logins.delay(HOME, "ada") == 1.0
    assert logins.delay(OFFICE, "ada") == 0.0
    assert clock.now


def test_an_attack_on_an_account_delays_nobody_who_has_not_failed() -> None:
    logins = Logins()
    for n in range(1000):
        fail(logins, f"203.0.113.{n}", "ada", 5)
    assert logins.delay(HOME, "ada") == 0.0


def test_the_owner_of_an_account_under_attack_may_mistype_and_waits_half_a_minute_at_most(clock: Clock) -> None:
    logins = Logins()
    fail(logins, OFFICE, "ada", 1000)
    fail(logins, HOME, "ada")
    assert logins.delay(HOME, "ada") == LONGEST_DELAY_BY_ACCOUNT
    for _ in range(int(LONGEST_DELAY_BY_ACCOUNT)):
        clock.now += 1
        fail(logins, OFFICE, "ada")  # the attack goes on
    assert logins.delay(HOME, "ada") == 0.0


def test_neighbours_who_fail_do_not_delay_whoever_has_logged_in_from_there_before() -> None:
    logins = Logins()
    logins.note_success(OFFICE, "ada")
    fail(logins, OFFICE, "bob", 100)
    assert logins.delay(OFFICE, "ada") == 0.0
    assert logins.delay(OFFICE, "eve") > 0.0
    fail(logins, OFFICE, "ada", FREE_FAILURES)
    assert logins.delay(OFFICE, "ada") > 0.0


def test_a_success_forgives_only_the_mistakes_with_that_account() -> None:
    logins = Logins()
    fail(logins, HOME, "ada", 2)
    logins.note_success(HOME, "ada")
    fail(logins, HOME, "ada", FREE_FAILURES - 1)
    assert logins.delay(HOME, "ada") == 0.0
    fail(logins, OFFICE, "ada", FREE_FAILURES_OF_ORIGIN)
    logins.note_success(OFFICE, "mallory")  # the attacker's own account
    assert logins.delay(OFFICE, "ada") > 0.0
    assert logins.delay(OFFICE, "bob") > 0.0


def test_who_has_hashed_less_of_late_goes_first_and_known_owners_before_all(clock: Clock) -> None:
    logins = Logins()
    for _ in range(3):
        logins.note_use(OFFICE)
    assert logins.rank(HOME, "ada") < logins.rank(OFFICE, "ada")
    logins.note_success(OFFICE, "ada")
    assert logins.rank(OFFICE, "ada") < logins.rank(HOME, "ada") < logins.rank(OFFICE, "bob")
    for _ in range(int(module.KNOWN_CREDIT) + 1):  # but a flood of good logins does not stay there
        logins.note_use(OFFICE, "ada")
    assert logins.rank(OFFICE, "ada") > logins.rank(HOME, "ada")
    fail(logins, "203.0.113.1", "eve", FREE_FAILURES)
    assert logins.rank(HOME, "ada") < logins.rank(HOME, "eve")  # somebody attacks the account of eve
    clock.now += 5 * module.USE_HALVES_AFTER
    assert 0.0 < logins.rank(OFFICE) < 1.0


def test_the_tables_are_bounded_and_forget_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAPACITY", 10)
    logins = Logins()
    fail(logins, OFFICE, "ada", FREE_FAILURES_OF_ORIGIN)
    for n in range(100):
        fail(logins, f"203.0.113.{n}", f"user-{n}")
        fail(logins, OFFICE, "ada") if n % 5 == 0 else None
        logins.note_use(f"203.0.113.{n}")
        logins.note_success(f"203.0.113.{n}", f"friend-{n}")
    assert logins.delay(OFFICE, "bob") > 0.0
    for table in (logins._origins, logins._accounts, logins._pairs, logins._uses, logins._known):
        assert len(table) <= 10
