"""Where a new VM is to be: its availability zone, its security groups, and the addresses that its owner wants.

Few requests say anything about it. Those that do cost a query more, and the others nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, Row, Text, Uuid, any_, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import Interface, Network
from domain.data.placement import AvailabilityZone, SecurityGroup
from domain.rules import addresses
from domain.rules.errors import AddressInUseError, FieldIssue, InvalidAddressError, UnknownReferenceError

Group = dict[str, str]
"""A security group as a VM's row keeps it: `id` and `name`."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The wishes of a request. A security group is named by a name that only one has, or by its id."""

    availability_zone: str | None = None
    security_groups: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An address that a request asks for in a network. `field` is the body's field that has it."""

    field: str
    network_id: UUID
    ip_address: str


ANYWHERE: Final = Placement()
_UNKNOWN: Final = UnknownReferenceError.code


async def find_groups(tx: AsyncConnection, placement: Placement) -> tuple[list[Group] | None, list[FieldIssue]]:
    """The security groups that the request names, each once, and what is wrong with them and with the zone."""
    issues, groups = [], None
    if placement.availability_zone is not None:
        issues += await _check_zone(tx, placement.availability_zone)
    if placement.security_groups is not None:
        groups, unknown = await _find_groups(tx, placement.security_groups)
        issues += unknown
    return groups, issues


async def _check_zone(tx: AsyncConnection, name: str) -> list[FieldIssue]:
    is_it = (AvailabilityZone.name == name, AvailabilityZone.is_available)
    if await tx.scalar(select(AvailabilityZone.id).where(*is_it)):
        return []
    return [FieldIssue("availability_zone", _UNKNOWN, f"There is no such availability zone: {name}.")]


async def _find_groups(tx: AsyncConnection, wanted: Sequence[str]) -> tuple[list[Group], list[FieldIssue]]:
    ids = [id for id in map(_uuid, wanted) if id]
    has_name = SecurityGroup.name == any_(literal(list(wanted), ARRAY(Text)))
    has_id = SecurityGroup.id == any_(literal(ids, ARRAY(Uuid)))
    statement = select(SecurityGroup.id, SecurityGroup.name).where(or_(has_name, has_id), SecurityGroup.is_available)
    rows = (await tx.execute(statement)).all()
    groups: dict[UUID, Group] = {}
    issues = []
    for index, text in enumerate(wanted):
        # As in Nova, an id comes before a group that has this id as its name.
        found = [row for row in rows if row.id == _uuid(text)] or [row for row in rows if row.name == text]
        if len(found) == 1:
            groups[found[0].id] = {"id": str(found[0].id), "name": found[0].name}
        else:
            issues.append(FieldIssue(f"security_groups/{index}", _UNKNOWN, _why_not_one(text, found)))
    return list(groups.values()), issues


def _why_not_one(text: str, found: Sequence[Row[UUID, str]]) -> str:
    if not found:
        return f"There is no such security group: {text}."
    return f"{len(found)} security groups have the name {text}: name one by its id."


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


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
