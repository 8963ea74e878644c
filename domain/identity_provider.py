"""How the settings name the identity provider of a company (OpenID Connect)."""

from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field


def is_safe(url: str, *, loopback: bool) -> bool:
    """Whether nobody between us and the URL can change what it answers.

    Only if `loopback` may the URL name this machine, and only this machine may be asked by http.
    """
    try:
        parts = urlsplit(url)
        is_absolute = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    if not is_absolute or parts.username is not None or parts.password is not None or not url.isprintable():
        return False
    if is_loopback(url):
        return loopback and parts.scheme in {"http", "https"}
    return parts.scheme == "https"


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_issuer(value: str) -> str:
    if not is_safe(value, loopback=True) or not value.isascii() or "?" in value or "#" in value or " " in value:
        raise ValueError("must be an https URL without a query, as the provider writes it; http only for this machine")
    return value


Issuer = Annotated[str, Field(max_length=512), AfterValidator(_check_issuer)]
Claim = Annotated[str, Field(max_length=255)]
"""The name of a claim, or a value that it has."""
