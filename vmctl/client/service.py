"""What a client is told about its service: where it is, and who the client is."""

import re

import httpx

from vmctl.client.errors import UnusableError

PREFIX = "/api/v1"
_TOKEN = re.compile("[!-~]+")
_LAST_PORT = 65_535


def base_url(url: str) -> str:
    """Return the address that all paths begin with; UnusableError if no request could ever be sent there."""
    address = url.strip().rstrip("/").removesuffix(PREFIX)
    try:
        parsed = httpx.URL(address)
        is_complete = parsed.scheme in {"http", "https"} and parsed.host and (parsed.port or 1) <= _LAST_PORT
        parsed.raw_host.decode().encode("idna")  # as the connection will do it
    except (httpx.InvalidURL, UnicodeError):
        is_complete = False
    if not is_complete or parsed.query or parsed.fragment:
        raise UnusableError(
            f"{url!r} is no address of a service. It has the form https://vm.example or http://host:8000"
        )
    return address + PREFIX


def usable_token(token: str | None) -> str | None:
    """Return the token without white space around it, such as a line end; UnusableError if it cannot be sent."""
    token = (token or "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise UnusableError("The token has a character that no token has, such as a space or a line end.")
    return token or None
