"""POST /vms, the busiest write, and POST /vms/batch: one statement inserts the VMs, their interfaces and operations.

One statement is atomic by itself. It needs no transaction around it, which saves two round trips for each request.
It is built once, when the module loads, because building it costs as much as running it. Its columns come from the
functions that fill them (`_vm_row`, `operation_row`, `_interface_rows`), so the two cannot differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, LargeBinary, Uuid, bindparam, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands import boot_sources, quotas
from domain.commands.acceptance import Accepted, NewOperation, Requester, check_may, operation_row, requested
from domain.commands.boot_sources import BootSource, Sources
from domain.commands.new_interfaces import NewInterface, find_interfaces
from domain.commands.new_vm import NewVM
from domain.commands.offers import Chosen, OfferedFlavor, find_offers
from domain.commands.placement import Place, find_places
from domain.commands.ssh_keys import public_keys, unknown_keys
from domain.data.bulk import POSITION, insert_all, to_parameter
from domain.data.guests import UserData
from domain.data.models import VM, Interface, Operation
from domain.data.parameters import CreateVM
from domain.data.prepared import Prepared
from domain.data.views import shown, shown_vms
from domain.rules import cloud_init, disks, lifecycle, references
from domain.rules.access import Verb
from domain.rules.references import Choice
from domain.rules.resources import Kind
from domain.rules.states import Action, Status


@dataclass(frozen=True, slots=True)
class _Plan:
    """A new VM with all that its request has only named."""

    new: NewVM
    chosen: Chosen
    source: BootSource
    place: Place
    interfaces: Sequence[NewInterface]
    user_data: bytes | None
    vm_id: UUID
    operation: NewOperation
    project_id: UUID


async def create_vm(tx: AsyncConnection, requester: Requester, new: NewVM) -> Accepted[VM]:
    """Record a new VM, an interface in each network, its user data, and the operation that builds it.

    See `create_vms`. Only a VM that takes volumes needs a transaction around the call.
    """
    (created,) = await create_vms(tx, requester, [new])
    return created


async def create_vms(tx: AsyncConnection, requester: Requester, wanted: Sequence[NewVM]) -> Sequence[Accepted[VM]]:
    """Record new VMs, in as many statements for a hundred as for one.

    UnknownReferenceError and AmbiguousNameError for what does not exist and for names that several things have,
    RepeatedItemsError for what only one VM can have, InvalidTransitionError for snapshots and volumes that are not
    AVAILABLE, FlavorTooSmallError if the image does not fit the flavor's disk, InvalidAddressError and
    AddressInUseError if a VM cannot have the wanted addresses, NoFreeAddressError if a network is full,
    UserDataTooLargeError, ForbiddenError for a project that the requester may only read. No lock protects a free
    address. If another request inserts it first, the unique index raises IntegrityError: call again.
    """
    plans = await _plan(tx, requester, wanted)
    interfaces = _interface_rows(plans)
    user_data = {plan.vm_id: plan.user_data for plan in plans if plan.user_data}
    values: dict[str, Any] = {
        "vms": to_parameter([_vm_row(plan) for plan in plans]),
        "operations": to_parameter([_operation_row(plan) for plan in plans]),
    }
    if interfaces:
        values["interfaces"] = to_parameter(interfaces)
    if user_data:
        values |= {"user_data_vm_ids": [*user_data], "user_data": [*user_data.values()]}
    found = await _STATEMENTS[bool(interfaces), bool(user_data)].fetch_in(tx, values)
    rows = {row.id: cast("VM", row) for row in found}
    if any(new.all_volumes for new in wanted):
        await boot_sources.claim_volumes(tx, [(rows[plan.vm_id], plan.new) for plan in plans])
        rows = await shown_vms(tx, rows)
    await quotas.lock(tx, {plan.project_id for plan in plans})
    return [Accepted(rows[plan.vm_id], plan.operation.id) for plan in plans]


async def _plan(tx: AsyncConnection, requester: Requester, wanted: Sequence[NewVM]) -> Sequence[_Plan]:
    """Find everything that the new VMs name, and check it."""
    projects = await _projects(tx, requester, wanted)
    sources = await boot_sources.find_sources(tx, set(projects), wanted)
    places, issues = await find_places(tx, wanted)
    keys = await public_keys(tx, requester, (name for new in wanted for name in new.ssh_keys))
    offers, chosen = await find_offers(tx, wanted), []
    for new, project_id in zip(wanted, projects, strict=True):
        issues += [*sources.unknown(new, project_id), *unknown_keys(new, keys)]
        choice = offers.choose(new)
        if isinstance(choice, Chosen):
            chosen.append(choice)
        else:
            issues += choice
    references.check(issues)
    found = [_boot_source(sources, new, choice) for new, choice in zip(wanted, chosen, strict=True)]
    interfaces = await find_interfaces(tx, wanted, chosen)
    documents = list[bytes | None]()
    for new in wanted:
        documents.append(cloud_init.render(new.user_data, [keys[name] for name in new.ssh_keys], new.at))
        cloud_init.check_together(documents)
    return [
        _Plan(
            new,
            choice,
            source,
            places[index],
            interfaces[index],
            documents[index],
            uuid4(),
            requested(requester, Action.CREATE, _parameters(new, choice, source, places[index])),
            projects[index],
        )
        for index, (new, choice, source) in enumerate(zip(wanted, chosen, found, strict=True))
    ]


async def _projects(tx: AsyncConnection, requester: Requester, wanted: Sequence[NewVM]) -> Sequence[UUID]:
    """The project of each new VM; NotFoundError or ForbiddenError unless the requester may change it."""
    named = {new.project_id: f"{new.at}project_id" for new in reversed(wanted) if new.project_id}
    for project_id, field in reversed(named.items()):
        await check_may(tx, requester, Verb.CHANGE, project_id, "project", project_id, field)
    return [new.project_id or requester.user_id for new in wanted]


def _boot_source(sources: Sources, new: NewVM, chosen: Chosen) -> BootSource:
    source, flavor = sources.boot_source(new, chosen.image), chosen.flavor
    disks.check_fits(flavor.name, flavor.disk_gb, source.content, source.size_gb, new.flavor.field)
    return source


def _parameters(new: NewVM, chosen: Chosen, source: BootSource, place: Place) -> CreateVM:
    return CreateVM(
        new.name,
        chosen.flavor.id,
        source.image_id,
        [network.id for network in chosen.networks],
        ip_addresses={chosen.networks[index].id: address for index, address in new.ip_addresses.items()} or None,
        availability_zone=place.zone,
        security_groups=[group["name"] for group in place.groups] if place.groups else None,
        snapshot_id=new.snapshot_id,
        boot_volume_id=new.boot_volume.volume_id if new.boot_volume else None,
        volume_ids=[volume.volume_id for volume in new.volumes] or None,
    )


def _vm_row(plan: _Plan) -> dict[str, Any]:
    claim = lifecycle.claimed(Action.CREATE, Status.BUILDING)
    return {
        "id": plan.vm_id,
        "owner_id": plan.project_id,
        "name": plan.new.name,
        "status": claim.status,
        "task_state": claim.task_state,
        "flavor_id": plan.chosen.flavor.id,
        "image_id": plan.source.image_id,
        "labels": plan.new.labels,
        "operation_id": plan.operation.id,
        "availability_zone": plan.place.zone,
        "security_groups": plan.place.groups,
        "snapshot_id": plan.new.snapshot_id,
        "boot_volume_id": plan.new.boot_volume.volume_id if plan.new.boot_volume else None,
    }


def _operation_row(plan: _Plan) -> dict[str, Any]:
    return operation_row(plan.operation, plan.project_id, plan.vm_id, Status.BUILDING)


def _interface_rows(plans: Sequence[_Plan]) -> list[dict[str, Any]]:
    """The rows of the interfaces, sorted by address.

    An insert waits for another transaction that inserts the same address. Two requests that inserted the same addresses
    in different orders could wait for each other. Interfaces are listed and plugged in the order of the request: each
    is created a microsecond after the one before.
    """
    status = lifecycle.change_of(Action.CREATE, Kind.INTERFACE).during
    rows = [
        {
            "network_id": interface.network_id,
            "ip_address": interface.ip_address,
            "mac_address": interface.mac_address,
            "vm_id": plan.vm_id,
            "status": status,
            "operation_id": plan.operation.id,
            POSITION: position,
        }
        for plan in plans
        for position, interface in enumerate(plan.interfaces)
    ]
    return sorted(rows, key=lambda row: (row["network_id"], row["ip_address"] or ""))


def _example() -> _Plan:
    some_id = UUID(int=0)
    flavor = OfferedFlavor(some_id, "", 0)
    new = NewVM("", Choice(some_id, ""))
    operation = NewOperation(Action.CREATE, "", "", CreateVM("", some_id, some_id, []))
    chosen, source = Chosen(flavor, None, ()), BootSource(some_id)
    return _Plan(new, chosen, source, Place(), [NewInterface(some_id, None, None)], None, some_id, operation, some_id)


_EXAMPLE = _example()
# PostgreSQL checks foreign keys at the end of the statement, so the inserts may run in any order.
_NEW_VMS = insert_all(VM, "vms", _vm_row(_EXAMPLE)).returning(VM).cte("new_vms")
_NEW_OPERATIONS = insert_all(Operation, "operations", _operation_row(_EXAMPLE)).cte("new_operations")
_NEW_INTERFACES = (
    insert_all(Interface, "interfaces", _interface_rows([_EXAMPLE])[0]).returning(Interface).cte("new_interfaces")
)
_NEW_USER_DATA = (
    insert(UserData)
    .from_select(
        ["vm_id", "content"],
        select(
            func.unnest(bindparam("user_data_vm_ids", type_=ARRAY(Uuid))),
            func.unnest(bindparam("user_data", type_=ARRAY(LargeBinary))),
        ),
    )
    .cte("new_user_data")
)
# The new rows are not in the tables yet when the statement reads them, so it shows what it inserts.
_ALONE = shown(_NEW_VMS, Interface.__table__).add_cte(_NEW_OPERATIONS)
_WITH_INTERFACES = shown(_NEW_VMS, _NEW_INTERFACES).add_cte(_NEW_OPERATIONS)
# By what the VMs have: interfaces, user data.
_STATEMENTS = {
    (False, False): Prepared(_ALONE),
    (True, False): Prepared(_WITH_INTERFACES),
    (False, True): Prepared(_ALONE.add_cte(_NEW_USER_DATA)),
    (True, True): Prepared(_WITH_INTERFACES.add_cte(_NEW_USER_DATA)),
}
