"""Addresses of networks: how many are free, which one is, and what to do when two want the same.

The table of interfaces is unique in them, so that the database decides who has an address. One that is chosen here
was free a moment ago; who finds it taken (`is_taken`) chooses again. All is SQL on a row of `networks`.
"""

import secrets
from typing import Final

from sqlalchemy import ColumnElement, Integer, Text, literal_column
from sqlalchemy.exc import IntegrityError

RESERVED: Final = 3  # addresses of a network that no VM gets: its own, its gateway's, its broadcast address

_SIZE: Final = "2 ^ (32 - masklen(networks.cidr::inet))"
_SOME: Final = f"SELECT 1 + floor(random() * ({_SIZE} - 2))::int AS place FROM generate_series(1, 16)"
_START: Final = f"SELECT 1 + floor(random() * ({_SIZE} - 2))::int AS start"
_EVERY: Final = (
    f"SELECT generate_series(start, ({_SIZE} - 2)::int) AS place FROM ({_START}) AS drawn "
    f"UNION ALL SELECT generate_series(1, ({_SIZE} - 2)::int)"
)


def _free(places: str) -> ColumnElement[str | None]:
    address = "host(set_masklen(networks.cidr::inet, 32) + place)"
    mine = f"interfaces.network_id = networks.id AND interfaces.ip_address = {address}"
    taken = f"SELECT FROM interfaces WHERE {mine}"
    free = f"{address} <> networks.gateway AND NOT EXISTS ({taken})"
    return literal_column(f"(SELECT {address} FROM ({places}) AS places WHERE {free} LIMIT 1)", Text())


free_addresses: Final = literal_column(
    f"({_SIZE} - {RESERVED} - (SELECT count(*) FROM interfaces WHERE interfaces.network_id = networks.id))::int",
    Integer(),
)
"""How many addresses the network has left."""

likely_free: Final = _free(_SOME)
"""A free address, by a few draws; NULL where the network is so full that they miss."""

surely_free: Final = _free(_EVERY)
"""A free address, by looking at one after the other; NULL where the network has none left."""


def new_mac_address() -> str:
    """A random address with OpenStack's prefix."""
    return "fa:16:3e:" + secrets.token_bytes(3).hex(":")


def is_taken(error: IntegrityError) -> bool:
    """Whether the write failed because somebody else has been given the address."""
    return "uq_interfaces_" in str(error.orig)
