"""Addresses of networks: how many are free, and which one a new interface gets.

An address is chosen without a lock, so two requests may choose the same one. The unique indexes of `interfaces` let
only the first insert it. The other fails with an error that `is_taken` recognizes, and is run again (ADR 020). Put the
SQL below into the select list of a query on `networks`.
"""

import secrets
from typing import Final

from sqlalchemy import ARRAY, ColumnElement, Integer, Text, bindparam, literal_column, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.queries import violated_constraint

MOST_AT_ONCE: Final = 100  # interfaces in one network that one request makes
RESERVED: Final = 3  # addresses that no VM gets: the network's own, the gateway's, and the broadcast address

# Hosts are numbered from 1; the network itself would be 0, and the number after the last is the broadcast address.
_LAST_HOST: Final = "(2 ^ (32 - masklen(networks.cidr::inet)) - 2)::int"
_RANDOM_HOST: Final = f"1 + floor(random() * {_LAST_HOST})::int"

free_addresses: Final = literal_column(
    f"""(
        2 ^ (32 - masklen(networks.cidr::inet)) - {RESERVED}
        - (SELECT count(*) FROM interfaces WHERE interfaces.network_id = networks.id)
    )::int""",
    Integer(),
)
"""The number of free addresses."""


def _free(hosts: str, limit: int) -> str:
    """A query for the addresses of the first free hosts among `hosts`, a query that returns numbers."""
    address = "host(set_masklen(networks.cidr::inet, 32) + hosts.number)"
    return f"""
        SELECT {address}
        FROM ({hosts}) AS hosts
        WHERE {address} <> networks.gateway
          AND NOT EXISTS (
            SELECT FROM interfaces
            WHERE interfaces.network_id = networks.id AND interfaces.ip_address = {address}
          )
        LIMIT {limit}
    """


def _first_free(hosts: str) -> ColumnElement[str | None]:
    """The address of the first free host; NULL if none is free."""
    return literal_column(f"({_free(hosts, 1)})", Text())


def _all_free(hosts: str) -> ColumnElement[list[str]]:
    """The addresses of the first free hosts. An address may come twice."""
    column: ColumnElement[list[str]] = literal_column(f"ARRAY({_free(hosts, 2 * MOST_AT_ONCE)})", ARRAY(Text()))  # type: ignore[arg-type] # its stubs know no arrays
    return column


def _random_hosts(count: int) -> str:
    return f"SELECT {_RANDOM_HOST} AS number FROM generate_series(1, {count})"


_HOSTS_FROM_A_RANDOM_ONE: Final = f"""
    SELECT generate_series(start, {_LAST_HOST}) AS number FROM (SELECT {_RANDOM_HOST} AS start) AS drawn
    UNION ALL
    SELECT generate_series(1, {_LAST_HOST})
"""

likely_free: Final = _first_free(_random_hosts(16))
"""A free address out of 16 random ones; NULL if all of them are taken, which happens in a nearly full network."""

many_likely_free: Final = _all_free(_random_hosts(2 * MOST_AT_ONCE))
"""Free addresses out of random ones, enough for MOST_AT_ONCE interfaces unless the network is small or nearly full."""

surely_free: Final = _first_free(_HOSTS_FROM_A_RANDOM_ONE)
"""The first free address from a random one upwards, then from the lowest; NULL if the network is full."""

many_surely_free: Final = _all_free(_HOSTS_FROM_A_RANDOM_ONE)
"""As many as there are, and never fewer than MOST_AT_ONCE beside as many others that a request asks for itself."""


def new_mac_address() -> str:
    """A random address with OpenStack's prefix."""
    return "fa:16:3e:" + secrets.token_bytes(3).hex(":")


async def new_mac_addresses(tx: AsyncConnection, count: int) -> list[str]:
    """So many different addresses that no interface has.

    One address alone is hardly ever taken. Of a hundred, and of those of thousands of interfaces, two may be the same,
    because they differ only in three bytes.
    """
    found: set[str] = set()
    while len(found) < count:
        drawn = {new_mac_address() for _ in range(count - len(found))} - found
        statement = text("SELECT mac_address FROM interfaces WHERE mac_address = ANY(:drawn)")
        taken = await tx.scalars(statement.bindparams(bindparam("drawn", type_=ARRAY(Text()))), {"drawn": [*drawn]})
        found |= drawn - set(taken)
    return list(found)


def is_taken(error: IntegrityError) -> bool:
    """Whether a statement failed because another interface in the network has the address."""
    return violated_constraint(error) in {"uq_interfaces_ip_address", "uq_interfaces_mac_address_network"}
