"""Types of settings that name a host, a web page or origins of pages. Origins are written as browsers send them."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, StringConstraints
from pydantic_settings import NoDecode

# In lower case, without a path, without the scheme's own port.
_ORIGIN = re.compile(r"(?:https://(?!.*:443$)|http://(?!.*:80$))(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_OWN_PORTS = {"http": ":80", "https": ":443"}


def _check_page(value: str) -> str:
    url = urlsplit(value.strip())
    origin = f"{url.scheme}://{url.netloc.lower()}".removesuffix(_OWN_PORTS.get(url.scheme, " "))
    if not _ORIGIN.fullmatch(origin) or url.query or url.fragment:
        raise ValueError("must be the address of a page, like https://temporal.example/ui")
    return origin + url.path.rstrip("/")


def _check_host(value: str) -> str:
    try:
        value.encode("idna")  # as the system's look-up does it
    except UnicodeError:
        raise ValueError("must be the name or the address of a host") from None
    return value


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _check_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    if "*" in value and len(value) > 1:
        raise ValueError("must be * alone or a list of origins without *")
    for origin in value:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError("must be * or origins like https://example.com, separated by commas")
    return value


Host = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_check_host)]
"""A host that the API listens on."""
Page = Annotated[str, AfterValidator(_check_page)]
"""The address of a page. It begins with the page's origin, and has no slash at its end."""
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_origins)]
"""Origins of pages, separated by commas, or `*` for all."""
