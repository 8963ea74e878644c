"""The address queries on real PostgreSQL, compared with Python's `ipaddress`."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.data import addresses
from domain.data.models import Interface, Network
from domain.rules.resources import AttachmentStatus
from tests.support.rows import NETWORK_IDS, add_interface, add_user, add_vm

DRAWS = 5
sixty_examples = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def networks(draw: st.DrawFn) -> tuple[IPv4Network, IPv4Address, list[IPv4Address]]:
    """A network, its gateway (any host), and the hosts that are taken: none, some or all of the others."""
    prefix = draw(st.integers(24, 30))
    base = draw(st.integers(0, 2**32 - 1)) >> (32 - prefix) << (32 - prefix)
    network = IPv4Network((base, prefix))
    hosts = list(network.hosts())
    gateway = draw(st.sampled_from([hosts[0], hosts[-1], draw(st.sampled_from(hosts))]))
    others = [host for host in hosts if host != gateway]
    free = draw(st.integers(0, len(others)) | st.integers(0, 2))
    return network, gateway, draw(st.permutations(others))[free:]


async def occupy(tx: AsyncConnection, network: IPv4Network, gateway: IPv4Address, taken: list[IPv4Address]) -> Any:
    """Add a network and an interface for each taken address; returns the network's id."""
    id = uuid4()
    row = {"id": id, "name": str(id), "cidr": str(network), "gateway": str(gateway), "is_default": False}
    await tx.execute(insert(Network), row)
    if taken:
        vm = await add_vm(tx, await add_user(tx))
        common = {"vm_id": vm.id, "network_id": id, "status": AttachmentStatus.ATTACHED, "operation_id": uuid4()}
        macs = [f"fa:16:3e:00:{n // 256:02x}:{n % 256:02x}" for n in range(len(taken))]
        rows = [
            common | {"ip_address": str(address), "mac_address": mac} for address, mac in zip(taken, macs, strict=True)
        ]
        await tx.execute(insert(Interface), rows)
    return id


@sixty_examples
@given(network=networks())
async def test_an_address_that_is_found_is_free_and_valid(
    engine: AsyncEngine, network: tuple[IPv4Network, IPv4Address, list[IPv4Address]]
) -> None:
    cidr, gateway, taken = network
    free: set[str | None] = {str(host) for host in cidr.hosts() if host != gateway and host not in taken}
    found = select(addresses.likely_free, addresses.surely_free, addresses.free_addresses)
    async with engine.connect() as connection:
        id = await occupy(connection, cidr, gateway, taken)
        drawn = [tuple((await connection.execute(found.where(Network.id == id))).one()) for _ in range(DRAWS)]
        await connection.rollback()
    assert {likely for likely, _, _ in drawn} <= free | {None}
    assert {surely for _, surely, _ in drawn} <= (free or {None})
    assert {number for _, _, number in drawn} == {len(free)}


async def test_the_last_free_address_of_a_large_network_is_found(engine: AsyncEngine) -> None:
    cidr = IPv4Network("172.16.0.0/20")
    gateway, *others = cidr.hosts()
    last = others.pop(2345)
    async with engine.connect() as connection:
        id = await occupy(connection, cidr, gateway, others)
        found = select(addresses.likely_free, addresses.surely_free).where(Network.id == id)
        likely, surely = (await connection.execute(found)).one()
    assert likely in {None, str(last)}
    assert surely == str(last)


async def test_random_addresses_of_an_empty_network_are_found_and_rarely_the_same(engine: AsyncEngine) -> None:
    private = select(addresses.likely_free).where(Network.id == NETWORK_IDS["private"])
    async with engine.connect() as connection:
        drawn = [await connection.scalar(private) for _ in range(50)]
    assert None not in drawn
    assert len(set(drawn)) > 40


async def test_a_query_for_several_networks_finds_an_address_of_each(engine: AsyncEngine) -> None:
    found = select(Network.cidr, addresses.likely_free, addresses.surely_free)
    async with engine.connect() as connection:
        rows = (await connection.execute(found)).all()
    assert len(rows) == len(NETWORK_IDS)
    for cidr, likely, surely in rows:
        assert {IPv4Address(likely), IPv4Address(surely)} <= set(IPv4Network(cidr).hosts())


async def test_an_address_that_is_taken_in_one_network_is_free_in_another(engine: AsyncEngine) -> None:
    """Two networks may have the same range of addresses."""
    cidr, gateway = IPv4Network("10.2.0.0/28"), IPv4Address("10.2.0.1")
    async with engine.connect() as connection:
        id = await occupy(connection, cidr, gateway, [host for host in cidr.hosts() if host != gateway])
        found = select(addresses.surely_free, addresses.free_addresses)
        full = (await connection.execute(found.where(Network.id == id))).one()
        edge = (await connection.execute(found.where(Network.id == NETWORK_IDS["edge"]))).one()
    assert tuple(full) == (None, 0)
    assert edge[0] is not None
    assert edge[1] == 13


def test_mac_addresses_have_the_prefix_of_openstack_and_are_rarely_the_same() -> None:
    created = [addresses.new_mac_address() for _ in range(100)]
    assert all(address.startswith("fa:16:3e:") for address in created)
    assert all(len(bytes.fromhex(address.replace(":", ""))) == 6 for address in created)
    assert len(set(created)) > 90


async def test_a_taken_address_is_recognized_among_integrity_errors(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        vm = await add_vm(connection, await add_user(connection))
        interface = await add_interface(connection, vm, "10.0.0.9")
        for address, mac in (("10.0.0.9", addresses.new_mac_address()), ("10.0.0.10", interface.mac_address)):
            with pytest.raises(IntegrityError) as taken:
                async with connection.begin_nested():
                    await add_interface(connection, vm, address, mac_address=mac)
            assert addresses.is_taken(taken.value)
        with pytest.raises(IntegrityError) as other:
            async with connection.begin_nested():
                await add_interface(connection, vm, "10.0.0.11", vm_id=uuid4())
    assert not addresses.is_taken(other.value)
