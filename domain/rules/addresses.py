"""Which addresses of a network a VM can have."""

from ipaddress import ip_address, ip_network


def canonical(address: str) -> str:
    """The address in the one form in which addresses are kept; ValueError if it is none."""
    return str(ip_address(address))


def why_unusable(address: str, cidr: str, gateway: str | None) -> str | None:
    """Why no VM can have the address in a network, as the end of a sentence; None if one can."""
    network, wanted = ip_network(cidr, strict=False), ip_address(address)
    if wanted not in network:
        return f"is not in {network}"
    if gateway is not None and wanted == ip_address(gateway):
        return "is the gateway's"
    # The smallest networks, those of two ends of a wire, have nothing but addresses of hosts.
    if network.num_addresses > 2:  # noqa: PLR2004
        if wanted == network.network_address:
            return "is the network's own"
        if network.version == 4 and wanted == network.broadcast_address:  # noqa: PLR2004 - IPv6 has none
            return "is the broadcast address"
    return None
