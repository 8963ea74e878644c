"""What a token for programs may do."""

from collections.abc import Iterable
from enum import StrEnum


class Scope(StrEnum):
    """A part of what the owner of a token may do: `read` is every GET, `write` is everything, reading included."""

    READ = "read"
    WRITE = "write"


def granted(wanted: Iterable[Scope]) -> tuple[Scope, ...]:
    """All scopes that a token has which was made with these."""
    return tuple(Scope) if Scope.WRITE in wanted else tuple(dict.fromkeys(wanted))
