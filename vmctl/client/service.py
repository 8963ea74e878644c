"""What a client is told about its service: where it is, the way to it, and who the client is."""

import re
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.parse import quote

import httpx

from vmctl.client.errors import UnusableError, UnusablePathError

PREFIX = "/api/v1"
_TOKEN = re.compile("[!-~]+")
_PATH = re.compile(r"(?:/[\w~%-][\w.~%-]*)+")
_LONGEST_PATH = 8192  # characters; a longer one would not fit into the line of a request
_LAST_PORT = 65_535
_ENVIRONMENT = (
    "The environment names a proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) or certificates (SSL_CERT_FILE, SSL_CERT_DIR) "
    "that cannot be used"
)


def base_url(url: str) -> str:
    """Return the address that all paths begin with; UnusableError if no request could ever be sent there."""
    address = url.strip().rstrip("/").removesuffix(PREFIX)
    try:
        parsed = httpx.URL(address)
        is_complete = parsed.scheme in {"http", "https"} and parsed.host and (parsed.port or 1) <= _LAST_PORT
        parsed.raw_host.decode().encode("idna")  # as the connection will do it
    except (httpx.InvalidURL, UnicodeError):
        is_complete = False
    if is_complete and parsed.userinfo:  # it would take the place of the token
        raise UnusableError("The address of a service has no user name and no password. Log in instead.")
    if not is_complete or parsed.query or parsed.fragment:
        raise UnusableError(
            f"{url!r} is no address of a service. It has the form https://vm.example or http://host:8000"
        )
    return address + PREFIX


def check_path(path: str) -> None:
    """UnusablePathError if a path has a name or an id that was made up, and could lead anywhere."""
    if len(path) > _LONGEST_PATH or not _PATH.fullmatch(path):
        start = f"{path[:100]}..." if len(path) > _LONGEST_PATH else path
        raise UnusablePathError(f"{start} is no path of the service: it has a name or an id that nothing can have.")


def name_in_path(name: str) -> str:
    """Return a name as it stands in a path; UnusablePathError if it is no text."""
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise UnusablePathError("A name has half of a surrogate pair alone, which no text has.") from error


def is_local(host: str) -> bool:
    """Whether a host is this machine, so that nobody else can read what is sent to it."""
    name = host.lower().rstrip(".")
    try:
        address = ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def proxy_of(address: str) -> str | None:
    """The proxy that the environment names for a service; none for one on this machine.

    It is chosen here and not by httpx, which cannot read all that others take for `no_proxy`, such as `[::1]`.
    """
    url = httpx.URL(address)
    if is_local(url.host) or any(map(urllib.request.proxy_bypass, (url.host, url.netloc.decode()))):
        return None
    named = urllib.request.getproxies()
    proxy = named.get(url.scheme) or named.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def certificates_for(address: str) -> ssl.SSLContext:
    """What the certificate of a service is checked with. Without TLS none is read, and none would be accepted."""
    is_encrypted = httpx.URL(address).scheme == "https"
    return httpx.create_ssl_context() if is_encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def usable_environment() -> Iterator[None]:
    """UnusableError if no connection can be made with the proxy or the certificates that the environment names."""
    try:
        yield
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        raise UnusableError(f"{_ENVIRONMENT}: {error}") from error


def usable_token(token: str | None) -> str | None:
    """Return the token without white space around it, such as a line end; UnusableError if it cannot be sent."""
    token = (token or "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise UnusableError("The token has a character that no token has, such as a space or a line end.")
    return token or None
