"""Which addresses of a network a VM can have, compared with Python's list of a network's hosts."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.rules.addresses import canonical, why_unusable


@given(base=st.integers(0, 2**32 - 1), prefix=st.integers(16, 30), position=st.integers(-2, 2**16 + 2), data=st.data())
def test_exactly_the_hosts_of_a_network_but_the_gateway_can_be_had(
    base: int, prefix: int, position: int, data: st.DataObject
) -> None:
    network = IPv4Network((base >> (32 - prefix) << (32 - prefix), prefix))
    first, last = int(network.network_address), int(network.broadcast_address)
    gateway = IPv4Address(data.draw(st.sampled_from([first + 1, last - 1])))
    wanted = IPv4Address(min(max(first + position % (last - first + 5) - 2, 0), 2**32 - 1))
    is_host = first < int(wanted) < last
    assert (why_unusable(str(wanted), str(network), str(gateway)) is None) == (is_host and wanted != gateway)


@pytest.mark.parametrize(
    ("address", "cidr", "gateway", "reason"),
    [
        ("10.0.0.1", "10.0.0.0/24", "10.0.0.1", "is the gateway's"),
        ("10.0.0.1", "10.0.0.0/24", None, None),
        ("10.0.0.0", "10.0.0.0/24", None, "is the network's own"),
        ("10.0.0.255", "10.0.0.0/24", None, "is the broadcast address"),
        ("10.0.1.0", "10.0.0.7/24", None, "is not in 10.0.0.0/24"),
        ("10.0.0.0", "10.0.0.0/31", None, None),
        ("10.0.0.1", "10.0.0.0/31", None, None),
        ("10.0.0.0", "10.0.0.0/32", None, None),
        ("2001:db8::", "2001:db8::/64", None, "is the network's own"),
        ("2001:db8::ffff:ffff:ffff:ffff", "2001:db8::/64", None, None),
        ("2001:db8::1", "2001:db8::/64", "2001:DB8:0::1", "is the gateway's"),
        ("10.0.0.1", "2001:db8::/64", None, "is not in 2001:db8::/64"),
        ("2001:db8::1", "10.0.0.0/24", "10.0.0.1", "is not in 10.0.0.0/24"),
    ],
)
def test_an_address_that_no_vm_can_have_is_told_why(
    address: str, cidr: str, gateway: str | None, reason: str | None
) -> None:
    assert why_unusable(address, cidr, gateway) == reason


@pytest.mark.parametrize(("text", "form"), [("10.0.0.9", "10.0.0.9"), ("2001:DB8:0:0::0A", "2001:db8::a")])
def test_an_address_is_kept_in_one_form(text: str, form: str) -> None:
    assert canonical(text) == form


@pytest.mark.parametrize("text", ["10.0.0.09", "10.0.0", "167772169", "10.0.0.9/24", "", "::g"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear"):
        canonical(text)
