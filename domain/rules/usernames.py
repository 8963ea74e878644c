"""The usernames of users whom an identity provider names: what it calls them need not be a username here."""

import re
from collections.abc import Iterator
from typing import Final
from unicodedata import combining, normalize

from domain.rules.text import tidy

USERNAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{2,63}$"
LONGEST: Final = 64  # characters
_IS_USERNAME: Final = re.compile(USERNAME)
_LONGEST_READ: Final = 255  # characters of what the provider says; normalizing a long text could take seconds
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._-]+")
_NO_START: Final = "._-"


def usernames(name: str, mark: str) -> Iterator[str]:
    """Usernames for a user with this name, in the order in which to try them; `mark` tells users of one name apart.

    Accents are left out, and what no username has is replaced: `Jürgen@example.com` gets `Jurgen-example.com`.
    """
    letters = normalize("NFKD", tidy(name[:_LONGEST_READ]))
    plain = _FOREIGN.sub("-", "".join(letter for letter in letters if not combining(letter))).lstrip(_NO_START)
    if _IS_USERNAME.fullmatch(plain[:LONGEST]):
        yield plain[:LONGEST]
    start = plain or "user"
    for size in (8, len(mark)):  # the short one may be taken, by accident or on purpose
        yield f"{start[: LONGEST - 1 - size]}-{mark[:size]}"
