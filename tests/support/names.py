"""Names that lead to several addresses, without a DNS server."""

import socket
from collections.abc import Callable
from typing import Any


def of_addresses(*addresses: str) -> Callable[..., Any]:
    """A replacement of `socket.getaddrinfo` with which every name has these addresses, in this order."""
    look_up = socket.getaddrinfo

    def look_up_in_order(host: str, port: Any, *args: Any, **options: Any) -> list[Any]:
        names = [host] if host.startswith("127.") else addresses
        return [found for name in names for found in look_up(name, port, *args, **options)]

    return look_up_in_order
