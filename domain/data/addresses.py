"""Addresses of networks: how many are free, and which one a new interface gets.

An address is chosen without a lock, so two requests may choose the same one. The unique indexes of `interfaces` let
only the first insert it. The other fails with an error that `is_taken` recognizes, and is run again (ADR 020). Put the
SQL below into the select list of a query on `networks`.
"""

import secrets
from typing import Final

from sqlalchemy import ColumnElement, Integer, Text, literal_column
from sqlalchemy.exc import IntegrityError

from domain.data.queries import violated_constraint

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


def _first_free(hosts: str) -> ColumnElement[str | None]:
    """The address of the first free host among `hosts`, a query that returns numbers; NULL if none is free."""
    address = "host(set_masklen(networks.cidr::inet, 32) + hosts.number)"
    return literal_column(
        f"""(
            SELECT {address}
            FROM ({hosts}) AS hosts
            WHERE {address} <> networks.gateway
              AND NOT EXISTS (
                SELECT FROM interfaces
                WHERE interfaces.network_id = networks.id AND interfaces.ip_address = {address}
              )
            LIMIT 1
        )""",
        Text(),
    )


likely_free: Final = _first_free(f"SELECT {_RANDOM_HOST} AS number FROM generate_series(1, 16)")
"""A free address out of 16 random ones; NULL if all of them are taken, which happens in a nearly full network."""

surely_free: Final = _first_free(f"""
    SELECT generate_series(start, {_LAST_HOST}) AS number FROM (SELECT {_RANDOM_HOST} AS start) AS drawn
    UNION ALL
    SELECT generate_series(1, {_LAST_HOST})
""")
"""The first free address from a random one upwards, then from the lowest; NULL if the network is full."""


def new_mac_address() -> str:
    """A random address with OpenStack's prefix."""
    return "fa:16:3e:" + secrets.token_bytes(3).hex(":")


def is_taken(error: IntegrityError) -> bool:
    """Whether an insert failed because another interface got the address first."""
    return violated_constraint(error) in {"uq_interfaces_ip_address", "uq_interfaces_mac_address"}
