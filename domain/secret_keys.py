"""What a key that signs tokens must be like."""

from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

PLACEHOLDER: Final = "change-me-in-production"
MINIMUM: Final = 32  # bytes; RFC 7518 section 3.2: an HS256 key is at least as long as its hash
MOST_FALLBACKS: Final = 8  # each makes the check of a forged token longer


def _check(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if secret == PLACEHOLDER:
        raise ValueError("is the published placeholder; set your own secret")
    if size(value) < MINIMUM:
        raise ValueError(f"must have at least {MINIMUM} bytes")
    return value


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _check_all(values: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if len(values) > MOST_FALLBACKS:
        raise ValueError(f"must be at most {MOST_FALLBACKS} keys, separated by commas")
    for value in values:
        try:
            _check(value)
        except ValueError as error:
            raise ValueError(f"has a key, separated by commas, that {error}") from None
    return values


def size(key: SecretStr) -> int:
    """The number of bytes of a key."""
    return len(key.get_secret_value().encode())


SecretKey = Annotated[SecretStr, AfterValidator(_check)]
SecretKeys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_all)]
"""Keys as a setting has them, separated by commas."""
