"""Which passwords are too easy to guess, whatever characters they have."""

import re
from collections.abc import Iterable
from functools import cache

SHORTEST, LONGEST = 8, 256  # characters
OWN_NAME = "Your username or e-mail address is no password: it is tried first"
_SIGNS_AROUND = re.compile(r"^[\W_]+|[\W_]+$")


def is_obvious(password: str, names: Iterable[str] = ()) -> bool:
    """Whether this is one of the passwords that leaks show most often, or one of the user's own names.

    Case makes no difference, nor do signs before and after it: `Password1!` is as obvious as `password1`.
    """
    plain = password.lower()
    forms = {plain, _SIGNS_AROUND.sub("", plain)} - {""}
    return not forms.isdisjoint(_leaked()) or not forms.isdisjoint(map(str.lower, names))


def names_of(username: str, email: str | None) -> set[str]:
    """The names of a user that are no passwords: the username, the address, and the part before its @."""
    return {username} if email is None else {username, email, email.rpartition("@")[0]}


@cache
def _leaked() -> frozenset[str]:
    """The 30,000 passwords that were most often seen in leaks, in lower case: those that are long enough here."""
    # Only here, because the module has five other lists, and few processes check passwords.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # noqa: PLC0415

    return frozenset(word for word in FREQUENCY_LISTS["passwords"] if len(word) >= SHORTEST)
