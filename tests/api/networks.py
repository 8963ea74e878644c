"""What tests of addresses share: valid addresses, the number of free ones, and a full network."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.catalogue import NETWORKS
from domain.data.models import VM
from tests.api.conftest import Person
from tests.support.rows import NETWORK_IDS, add_interface, add_vm

PRIVATE, BACKEND, EDGE = (str(NETWORK_IDS[name]) for name in ("private", "backend", "edge"))
NETWORKS_BY_ID = {str(row["id"]): row for row in NETWORKS}
EDGE_SIZE = 13  # addresses that VMs can have in the smallest network


def is_valid(interface: dict[str, Any]) -> bool:
    """Whether a VM may have this address in the network, and the MAC address has OpenStack's prefix."""
    row = NETWORKS_BY_ID[interface["network_id"]]
    hosts = set(IPv4Network(row["cidr"]).hosts()) - {IPv4Address(row["gateway"])}
    mac: str = interface["mac_address"]
    return IPv4Address(interface["ip_address"]) in hosts and mac.startswith("fa:16:3e:") and len(mac) == 17


async def free_in(ada: Person, network: str) -> int:
    """The number of free addresses that the API shows for the network."""
    free: int = (await ada.http.get(f"/networks/{network}")).json()["free_addresses"]
    listed = {row["id"]: row["free_addresses"] for row in (await ada.http.get("/networks")).json()["items"]}
    assert listed[network] == free
    return free


async def interfaces_of(ada: Person, vm_id: object) -> list[dict[str, Any]]:
    """The VM's interfaces, as the API lists them."""
    found: list[dict[str, Any]] = (await ada.http.get(f"/vms/{vm_id}/interfaces")).json()["items"]
    return found


async def fill_edge(ada: Person, engine: AsyncEngine, free: int = 0) -> VM:
    """A VM that has all addresses of the smallest network but `free` of them."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        for host in range(2, 2 + EDGE_SIZE - free):
            await add_interface(tx, vm, f"10.2.0.{host}", network="edge")
    return vm


async def attach(ada: Person, vm: VM, network: str = EDGE, **headers: str) -> Any:
    """Request an interface in the network."""
    return await ada.http.post(f"/vms/{vm.id}/interfaces", json={"network_id": network}, headers=headers)
