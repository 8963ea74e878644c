"""Where a new VM is to be: its availability zone, its security groups, and the addresses that its owner wants.

Few requests say anything about it. Those that do cost a query more, and the others nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Row, Text, Uuid, any_, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from domain.commands.new_vm import NewVM
from domain.data import search
from domain.data.models import Interface, Network
from domain.data.placement import AvailabilityZone, SecurityGroup
from domain.rules import addresses
from domain.rules.errors import AddressInUseError, FieldIssue, InvalidAddressError, UnknownReferenceError
from domain.rules.references import Choice, pick
from domain.rules.text import in_nfc

Group = dict[str, str]
"""A security group as a VM's row keeps it: `id` and `name`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new VM is to be, in the cloud's spelling. None leaves the zone or the groups to the cloud."""

    zone: str | None = None
    groups: list[Group] | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An address that a request asks for in a network. `field` is the body's field that has it."""

    field: str
    network_id: UUID
    ip_address: str


async def find_places(tx: AsyncConnection, wanted: Sequence[NewVM]) -> tuple[Sequence[Place], list[FieldIssue]]:
    """Return the zone and the security groups of each new VM, and what is wrong with them. Each group comes once."""
    zones, issues = await _zones_of(tx, wanted)
    groups, more = await _groups_of(tx, wanted)
    return [Place(*each) for each in zip(zones, groups, strict=True)], issues + more


async def _groups_of(
    tx: AsyncConnection, wanted: Sequence[NewVM]
) -> tuple[Sequence[list[Group] | None], list[FieldIssue]]:
    choices, issues = [_choices(new) for new in wanted], list[FieldIssue]()
    if not any(choices):
        return [None] * len(wanted), issues
    found = await _find_groups(tx, [choice for each in choices for choice in each or ()])
    groups: list[list[Group] | None] = []
    for each in choices:
        picked = [pick(found, choice, "security group") for choice in each or ()]
        issues += [issue for issue in picked if isinstance(issue, FieldIssue)]
        # By id, because a request may name one group by its id and by its name.
        known = {row.id: {"id": str(row.id), "name": row.name} for row in picked if not isinstance(row, FieldIssue)}
        groups.append(None if each is None else list(known.values()))
    return groups, issues


def _choices(new: NewVM) -> list[Choice] | None:
    names = new.placement.security_groups
    if names is None:
        return None
    return [Choice(name, f"{new.at}security_groups/{index}") for index, name in enumerate(names)]


async def _zones_of(tx: AsyncConnection, wanted: Sequence[NewVM]) -> tuple[Sequence[str | None], list[FieldIssue]]:
    zones = [new.placement.availability_zone for new in wanted]
    if not any(zones):
        return zones, []
    has_name = _is_named(AvailabilityZone.name, [zone for zone in zones if zone])
    found = (await tx.scalars(select(AvailabilityZone.name).where(has_name, AvailabilityZone.is_available))).all()
    # A name that is written as it was sent comes first.
    known = {in_nfc(name): name for name in found} | {name: name for name in found}
    spelled = [known.get(zone) or known.get(in_nfc(zone)) if zone else None for zone in zones]
    issues = [
        FieldIssue(
            f"{new.at}availability_zone", UnknownReferenceError.code, f"There is no such availability zone: {zone}."
        )
        for new, zone, name in zip(wanted, zones, spelled, strict=True)
        if zone and not name
    ]
    return spelled, issues


def _is_named(column: InstrumentedAttribute[str], names: Sequence[str]) -> ColumnElement[bool]:
    # Zones and groups have the cloud's spelling, which goes back to it.
    return search.in_nfc(column) == any_(literal([in_nfc(name) for name in names], ARRAY(Text)))


async def _find_groups(tx: AsyncConnection, choices: Iterable[Choice]) -> Sequence[Row[UUID, str]]:
    names, ids = zip(*((choice.name, choice.id) for choice in choices), strict=True)
    has_name = _is_named(SecurityGroup.name, [name for name in names if name])
    has_id = SecurityGroup.id == any_(literal([id for id in ids if id], ARRAY(Uuid)))
    statement = select(SecurityGroup.id, SecurityGroup.name).where(or_(has_name, has_id), SecurityGroup.is_available)
    return (await tx.execute(statement)).all()


async def check_addresses(tx: AsyncConnection, wanted: Sequence[Wanted]) -> None:
    """InvalidAddressError for addresses that no VM can have in their network; AddressInUseError for those of others.

    The networks must exist. No lock keeps an address free: the unique index refuses the insert if another request got
    it first, and a second call then finds that.
    """
    networks = await _networks_of(tx, wanted)
    issues = []
    for each in wanted:
        network = networks[each.network_id]
        reason = addresses.why_unusable(each.ip_address, network.cidr, network.gateway)
        if reason:
            detail = f"No VM can have {each.ip_address} in network {network.name}: it {reason}."
            issues.append(FieldIssue(each.field, InvalidAddressError.code, detail))
    if issues:
        raise InvalidAddressError(issues)
    in_use = await _addresses_in_use(tx, wanted)
    issues = [
        FieldIssue(
            each.field,
            AddressInUseError.code,
            f"An interface has {each.ip_address} in network {networks[each.network_id].name} already.",
        )
        for each in wanted
        if (each.network_id, each.ip_address) in in_use
    ]
    if issues:
        raise AddressInUseError(issues)


async def _networks_of(tx: AsyncConnection, wanted: Sequence[Wanted]) -> Mapping[UUID, Row[UUID, str, str, str | None]]:
    is_wanted = Network.id == any_(literal([each.network_id for each in wanted], ARRAY(Uuid)))
    statement = select(Network.id, Network.name, Network.cidr, Network.gateway).where(is_wanted)
    return {row.id: row for row in (await tx.execute(statement)).all()}


async def _addresses_in_use(tx: AsyncConnection, wanted: Sequence[Wanted]) -> set[tuple[UUID, str | None]]:
    in_network = Interface.network_id == any_(literal([each.network_id for each in wanted], ARRAY(Uuid)))
    has_address = Interface.ip_address == any_(literal([each.ip_address for each in wanted], ARRAY(Text)))
    found = await tx.execute(select(Interface.network_id, Interface.ip_address).where(in_network, has_address))
    return {(row.network_id, row.ip_address) for row in found.all()}
