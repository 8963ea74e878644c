"""The interfaces of new VMs and their addresses: those that the request asks for, and drawn ones."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.interfaces import find_addresses
from domain.commands.new_vm import NewVM
from domain.commands.offers import Chosen, OfferedNetwork
from domain.commands.placement import Wanted, check_addresses
from domain.data import addresses
from domain.rules.errors import FieldIssue
from domain.rules.references import RepeatedItemsError, check_once


@dataclass(frozen=True, slots=True)
class NewInterface:
    """An interface of a new VM. The cloud chooses the addresses that are None."""

    network_id: UUID
    ip_address: str | None
    mac_address: str | None


async def find_interfaces(
    tx: AsyncConnection, wanted: Sequence[NewVM], chosen: Sequence[Chosen]
) -> Sequence[Sequence[NewInterface]]:
    """The interfaces of each new VM, in the order of its networks. No two get one address.

    RepeatedItemsError if the request names a network or an address twice, InvalidAddressError and AddressInUseError if
    a VM cannot have the address that it asks for, NoFreeAddressError if a network has too few.
    """
    for new, choice in zip(wanted, chosen, strict=True):
        fields = [each.field for each in new.networks or ()]
        if fields:
            check_once([(network.id, field) for network, field in zip(choice.networks, fields, strict=True)], "network")
    asked = [
        Wanted(f"{new.at}interfaces/{index}/ip_address", choice.networks[index].id, address)
        for new, choice in zip(wanted, chosen, strict=True)
        for index, address in new.ip_addresses.items()
    ]
    if asked:
        _check_different(asked)
        await check_addresses(tx, asked)
    free = await _free_addresses(tx, wanted, chosen, asked)
    macs = await _mac_addresses(tx, wanted, chosen)

    def interface(new: NewVM, index: int, network: OfferedNetwork) -> NewInterface:
        address = new.ip_addresses.get(index)
        if not network.allocates:
            return NewInterface(network.id, address, None)
        return NewInterface(network.id, address or free[network.id].pop(), macs.pop())

    return [
        [interface(new, index, network) for index, network in enumerate(choice.networks)]
        for new, choice in zip(wanted, chosen, strict=True)
    ]


def _check_different(asked: Sequence[Wanted]) -> None:
    seen: set[tuple[UUID, str]] = set()
    issues = []
    for each in asked:
        if (each.network_id, each.ip_address) in seen:
            detail = f"The request asks for the address {each.ip_address} twice in one network."
            issues.append(FieldIssue(each.field, RepeatedItemsError.item_code, detail))
        seen.add((each.network_id, each.ip_address))
    if issues:
        raise RepeatedItemsError(issues)


async def _free_addresses(
    tx: AsyncConnection, wanted: Sequence[NewVM], chosen: Sequence[Chosen], asked: Sequence[Wanted]
) -> Mapping[UUID, list[str]]:
    """As many free addresses of each network as the new VMs need beside those that they ask for."""
    taken: dict[UUID, set[str]] = defaultdict(set)
    for each in asked:
        taken[each.network_id].add(each.ip_address)
    networks = {network.id: network for choice in chosen for network in choice.networks}
    needed = Counter(
        network.id
        for new, choice in zip(wanted, chosen, strict=True)
        for index, network in enumerate(choice.networks)
        if network.allocates and index not in new.ip_addresses
    )
    free: dict[UUID, list[str]] = {}
    for id, count in needed.items():
        likely = [address for address in dict.fromkeys(networks[id].free or ()) if address and address not in taken[id]]
        enough = len(likely) >= count
        free[id] = likely if enough else await find_addresses(tx, id, networks[id].name, count, taken[id])
    return free


async def _mac_addresses(tx: AsyncConnection, wanted: Sequence[NewVM], chosen: Sequence[Chosen]) -> list[str]:
    count = sum(network.allocates for choice in chosen for network in choice.networks)
    if len(wanted) > 1:
        return await addresses.new_mac_addresses(tx, count)
    return [addresses.new_mac_address() for _ in range(count)]
