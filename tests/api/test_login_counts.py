"""What successes and attacks leave in the counts of failed logins."""

import pytest

from api.web import logins as module
from api.web.logins import FREE_FAILURES, Logins

HOME, OFFICE = "192.0.2.1", "192.0.2.2"


def fail(logins: Logins, times: int) -> None:
    """Fail from the office with the account of ada."""
    for _ in range(times):
        logins.note_failure(OFFICE, "ada")


def test_after_a_success_the_mistakes_of_its_owner_do_not_count_against_the_account() -> None:
    logins = Logins()
    fail(logins, FREE_FAILURES)
    assert logins.rank(HOME, "ada") > logins.rank(HOME, "bob")
    logins.note_success(OFFICE, "ada")
    assert logins.rank(HOME, "ada") == logins.rank(HOME, "bob")


def test_an_owner_who_logs_in_again_is_remembered_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAPACITY", 2)
    logins = Logins()
    for account in ("ada", "bob", "ada", "eve"):
        logins.note_owner(HOME, account)
    assert [logins.is_known(HOME, account) for account in ("ada", "bob", "eve")] == [True, False, True]


def test_an_account_under_a_long_attack_still_goes_before_an_origin_that_has_hashed() -> None:
    logins = Logins()
    fail(logins, 100 * FREE_FAILURES)
    logins.note_use(OFFICE)
    assert logins.rank(HOME, "ada") < logins.rank(OFFICE, "bob")


def test_neighbours_who_log_in_do_not_put_a_known_owner_behind_strangers() -> None:
    """Otherwise a flood from new addresses would keep out everybody in an office where ten people have logged in."""
    logins = Logins()
    logins.note_success(OFFICE, "ada")
    for n in range(40):
        logins.note_use(OFFICE, f"user-{n}")
        logins.note_success(OFFICE, f"user-{n}")
    assert logins.rank(OFFICE, "ada") < logins.rank(HOME, "bob")
    for _ in range(30):  # one address gets no more with many accounts
        logins.note_use(OFFICE, "mallory")
    assert logins.rank(OFFICE, "ada") > logins.rank(HOME, "bob")
