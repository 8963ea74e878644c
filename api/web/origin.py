"""Where a request comes from: the address, for the log, and the network that counts as one caller."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

from domain.commands.acceptance import Source

# A provider gives every customer 2^64 addresses or more. They are one caller, or else one machine could be millions.
_CUSTOMER = 64  # bits of the network's prefix
_LONGEST_USER_AGENT = 256  # characters; a client may send one of any length


def address_of(scope: Scope) -> str:
    """The address of the request's client; empty for a Unix socket, and for what a proxy forwards as an address."""
    client = scope.get("client")
    return as_recorded(client[0]) if client else ""


def as_recorded(address: str) -> str:
    """The address as the log and the audit have it; empty for what is none."""
    ip = _address(address)
    return str(ip) if ip else ""


def source_of(scope: Scope) -> Source:
    """The address and the program of the request's client, as the audit keeps them."""
    agent = Headers(scope=scope).get("user-agent", "")[:_LONGEST_USER_AGENT]
    # What cannot be printed could deceive a reader, and PostgreSQL stores no NUL.
    return Source(address_of(scope), "".join(each if each.isprintable() else "?" for each in agent))


def origin_of(scope: Scope) -> str:
    """The IPv4 address or the IPv6 network of the request's client; one empty origin for all that have no address."""
    client = scope.get("client")
    return network_of(client[0]) if client else ""


def network_of(address: str) -> str:
    """The IPv4 address itself, or the IPv6 network that one customer has; empty for what is no address."""
    ip = _address(address)
    if isinstance(ip, IPv6Address):
        return str(IPv6Network((int(ip), _CUSTOMER), strict=False))
    return str(ip) if ip else ""


@lru_cache(maxsize=4096)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(text.partition("%")[0])  # without the interface of a link-local address
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
