"""Interfaces: attach a VM to a network, detach it."""

from collections.abc import Collection
from uuid import UUID, uuid4

from sqlalchemy import case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Accepted, Requester, accept, check_allowed, lock_changeable_vm, requested
from domain.commands.claimed_rows import about, insert_claimed, lock_row
from domain.commands.placement import Wanted, check_addresses
from domain.data import addresses, parameters
from domain.data.models import Interface, Network
from domain.progress import resource_claims
from domain.rules.errors import NoFreeAddressError, NoFreeDeviceError
from domain.rules.references import Choice, pick_one
from domain.rules.resources import MOST_INTERFACES, AttachmentStatus, Kind
from domain.rules.states import Action


async def attach_interface(
    tx: AsyncConnection, requester: Requester, vm_id: UUID, choice: Choice, wanted: str | None = None
) -> Accepted[Interface]:
    """Give the requester's VM the wanted address in a network, or any; the cloud chooses, or where it does not, we do.

    UnknownReferenceError and AmbiguousNameError unless the request names one network, InvalidAddressError and
    AddressInUseError if the VM cannot have the wanted address, NoFreeAddressError if the network is full,
    NoFreeDeviceError if the VM has as many interfaces as it can have. No lock protects a free address. If another
    request inserts it first, the unique index raises IntegrityError: call again in a new transaction.
    """
    vm = await lock_changeable_vm(tx, requester, vm_id)
    await check_allowed(tx, vm, Action.ATTACH_INTERFACE)  # a refusal by the VM's state comes before one by the network
    present = await tx.scalar(select(func.count()).where(Interface.vm_id == vm.id)) or 0
    if present >= MOST_INTERFACES:
        raise NoFreeDeviceError(MOST_INTERFACES, "interfaces")
    columns = (
        Network.id,
        Network.name,
        Network.allocates,
        case((Network.allocates, addresses.likely_free)).label("free"),
    )
    named = or_(Network.id == choice.id, Network.name.in_(choice.spellings))
    found = (await tx.execute(select(*columns).where(named, Network.is_available))).all()
    network = pick_one(found, choice, "network")
    network_id, name = network.id, network.name
    if wanted:
        await check_addresses(tx, [Wanted("ip_address", network_id, wanted)])
    address = wanted
    if network.allocates and not address:
        address = network.free or (await find_addresses(tx, network_id, name))[0]
    details = parameters.Interface(name, address, network_id, wanted)
    new = requested(requester, Action.ATTACH_INTERFACE, details, **about(Kind.INTERFACE, uuid4()))
    await accept(tx, vm, new)
    values = {
        "id": new.resource_id,
        "vm_id": vm.id,
        "network_id": network_id,
        "ip_address": address,
        "mac_address": addresses.new_mac_address() if network.allocates else None,
    }
    return Accepted(await insert_claimed(tx, Interface, new, **values), new.id)


async def detach_interface(
    tx: AsyncConnection, requester: Requester, vm_id: UUID, interface_id: UUID
) -> Accepted[Interface]:
    """Detach an interface from the requester's VM; if it is DETACHING already, return that operation."""
    vm = await lock_changeable_vm(tx, requester, vm_id)
    of_vm = select(Interface).where(Interface.id == interface_id, Interface.vm_id == vm.id)
    interface = await lock_row(tx, Interface, of_vm, interface_id)
    if interface.status is AttachmentStatus.DETACHING:
        return Accepted(interface, interface.operation_id, is_new=False)
    network = await tx.scalar(select(Network.name).where(Network.id == interface.network_id))
    details = parameters.Interface(network or "", interface.ip_address)
    new = requested(requester, Action.DETACH_INTERFACE, details, **about(Kind.INTERFACE, interface.id))
    await accept(tx, vm, new)
    await resource_claims.claim(tx, Interface, interface, new.action, new.id)
    return Accepted(interface, new.id)


async def find_addresses(
    tx: AsyncConnection, network_id: UUID, name: str, count: int = 1, taken: Collection[str] = ()
) -> list[str]:
    """So many free addresses of a network in which random draws found too few; NoFreeAddressError if it has fewer.

    None of them is one of those that are `taken`: the same request asks for these itself.
    """
    in_network = Network.id == network_id
    remaining = await tx.scalar(select(addresses.free_addresses).where(in_network)) or 0
    if remaining >= count + len(taken):  # counting is cheaper than searching
        if count == 1 and not taken:
            found = [await tx.scalar(select(addresses.surely_free).where(in_network))]
        else:
            found = await tx.scalar(select(addresses.many_surely_free).where(in_network))
        free = [address for address in dict.fromkeys(found) if address and address not in taken]
        if len(free) >= count:
            return free
    raise NoFreeAddressError(name)
