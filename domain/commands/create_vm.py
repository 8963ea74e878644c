"""POST /vms, the busiest write: one statement inserts the VM, its interface in each network, and its operation.

One statement is atomic by itself. It needs no transaction around it, which saves two round trips for each request.
It is built once, when the module loads, because building it costs as much as running it. Its columns come from the
functions that fill them (`_vm_row`, `operation_row`, `_interface_rows`), so the two cannot differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, Insert, Integer, Text, Uuid, and_, any_, bindparam, case, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands import boot_sources
from domain.commands.acceptance import Accepted, NewOperation, Requester, operation_row, requested
from domain.commands.boot_sources import BootSource, BootVolume
from domain.commands.interfaces import find_address
from domain.commands.placement import ANYWHERE, Group, Placement, Wanted, check_addresses, find_groups
from domain.commands.ssh_keys import public_keys
from domain.data import addresses
from domain.data.base import Base
from domain.data.guests import UserData
from domain.data.models import VM, Flavor, Image, Interface, Network, Operation
from domain.data.parameters import CreateVM
from domain.data.views import shown_vm
from domain.rules import cloud_init, disks, lifecycle
from domain.rules.errors import FieldIssue, UnknownReferenceError, unknown_id
from domain.rules.resources import Kind
from domain.rules.states import Action, Status


@dataclass(frozen=True, slots=True)
class NewVM:
    """The VM to create. Without an image or networks it gets the defaults; an empty list of networks means none.

    It boots from one thing: an image, a snapshot, or a volume. `ssh_keys` are names of the requester's keys.
    `ip_addresses` are the wanted ones by network. `network_field` is the body's field that has the network of an index.
    """

    name: str
    flavor_id: UUID
    image_id: UUID | None = None
    network_ids: list[UUID] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    ssh_keys: list[str] = field(default_factory=list)
    user_data: str | None = field(default=None, repr=False)  # it may hold secrets
    ip_addresses: Mapping[UUID, str] = field(default_factory=dict)
    network_field: str = "network_ids/{}"
    placement: Placement = ANYWHERE
    snapshot_id: UUID | None = None
    boot_volume: BootVolume | None = None

    @property
    def boot_volume_id(self) -> UUID | None:
        """The volume to boot from."""
        return self.boot_volume.volume_id if self.boot_volume else None


_Addresses = tuple[str | None, str | None]
"""The IP address and the MAC address of a new interface. The cloud chooses those that are None."""


async def create_vm(tx: AsyncConnection, requester: Requester, new: NewVM) -> Accepted[VM]:
    """Record a new VM, an interface in each network, its user data, and the operation that builds it.

    UnknownReferenceError for what does not exist, FlavorTooSmallError if the image does not fit the flavor's disk,
    InvalidAddressError and AddressInUseError if it cannot have the wanted addresses, NoFreeAddressError if a network is
    full, UserDataTooLargeError. No lock protects a free address. If another request inserts it first, the unique index
    raises IntegrityError: call again. Only a boot from a volume needs a transaction around the call.
    """
    source = await _boot_source(tx, requester, new)
    groups, issues = await find_groups(tx, new.placement) if new.placement != ANYWHERE else (None, [])
    image_id, network_ids, ip_addresses = await _resolve(tx, new, source, issues)
    user_data = cloud_init.render(new.user_data, await public_keys(tx, requester, new.ssh_keys))
    vm_id = uuid4()
    operation = requested(requester, Action.CREATE, _parameters(new, image_id, network_ids, groups))
    values = {
        **_prefixed("vm", _vm_row(vm_id, requester.user_id, new, image_id, operation) | {"security_groups": groups}),
        **_prefixed("operation", operation_row(operation, requester.user_id, vm_id, Status.BUILDING)),
    }
    if ip_addresses:
        values |= _prefixed("interface", _interface_rows(ip_addresses, network_ids))
    if user_data:
        values["user_data"] = user_data
    statement = _STATEMENTS[bool(ip_addresses), bool(user_data)]
    vm = cast("VM", (await tx.execute(statement, values)).one())
    if source and source.volume and new.boot_volume:
        await boot_sources.claim_volume(tx, vm, source.volume, new.boot_volume)
    return Accepted(await shown_vm(tx, vm_id), operation.id)


async def _boot_source(tx: AsyncConnection, requester: Requester, new: NewVM) -> BootSource | None:
    """What the VM boots from, if that is no image of the catalogue."""
    if new.snapshot_id:
        return await boot_sources.of_snapshot(tx, requester, new.snapshot_id)
    if new.boot_volume:
        return await boot_sources.of_volume(tx, requester, new.boot_volume.volume_id)
    return None


def _parameters(new: NewVM, image_id: UUID, network_ids: list[UUID], groups: list[Group] | None) -> CreateVM:
    return CreateVM(
        new.name,
        new.flavor_id,
        image_id,
        network_ids,
        ip_addresses=dict(new.ip_addresses) or None,
        availability_zone=new.placement.availability_zone,
        security_groups=[group["name"] for group in groups] if groups else None,
        snapshot_id=new.snapshot_id,
        boot_volume_id=new.boot_volume_id,
    )


def _vm_row(vm_id: UUID, owner_id: UUID, new: NewVM, image_id: UUID, operation: NewOperation) -> dict[str, Any]:
    claim = lifecycle.claimed(Action.CREATE, Status.BUILDING)
    return {
        "id": vm_id,
        "owner_id": owner_id,
        "name": new.name,
        "status": claim.status,
        "task_state": claim.task_state,
        "flavor_id": new.flavor_id,
        "image_id": image_id,
        "labels": new.labels,
        "operation_id": operation.id,
        "availability_zone": new.placement.availability_zone,
        "security_groups": None,
        "snapshot_id": new.snapshot_id,
        "boot_volume_id": new.boot_volume_id,
    }


def _interface_rows(ip_addresses: dict[UUID, _Addresses], network_ids: list[UUID]) -> dict[str, list[Any]]:
    """Columns of the new interfaces, each a list with one value per interface; `ip_addresses` are by network."""
    return {
        "network_id": list(ip_addresses),
        "ip_address": [ip_address for ip_address, _ in ip_addresses.values()],
        "mac_address": [mac_address for _, mac_address in ip_addresses.values()],
        # Interfaces are listed and plugged in the order of the request. Their rows are in another order (see _resolve),
        # so `created_at` gets a microsecond per position.
        "position": [network_ids.index(id) for id in ip_addresses],
    }


def _prefixed(prefix: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row's values by the names of their bind parameters; the three tables share some column names."""
    return {f"{prefix}_{name}": value for name, value in row.items()}


def _insert(model: type[Base], prefix: str, columns: Iterable[str]) -> Insert:
    return insert(model).values({name: bindparam(f"{prefix}_{name}") for name in columns})


_SOME_ID = UUID(int=0)
_EXAMPLE = NewOperation(Action.CREATE, "", "", CreateVM("", _SOME_ID, _SOME_ID, []))
_VM_COLUMNS = tuple(_vm_row(_SOME_ID, _SOME_ID, NewVM("", _SOME_ID), _SOME_ID, _EXAMPLE))
_OPERATION_COLUMNS = tuple(operation_row(_EXAMPLE, _SOME_ID, _SOME_ID, Status.BUILDING))
_ADDRESS_COLUMNS = ("network_id", "ip_address", "mac_address")
_NEW_INTERFACES = insert(Interface).from_select(
    [*_ADDRESS_COLUMNS, "vm_id", "status", "operation_id", "created_at"],
    select(
        *(
            func.unnest(bindparam(f"interface_{name}", type_=ARRAY(Interface.__table__.c[name].type)))
            for name in _ADDRESS_COLUMNS
        ),
        bindparam("vm_id", type_=Uuid()),  # the same parameters as the `id` of the VM and of the operation
        bindparam("interface_status", lifecycle.change_of(Action.CREATE, Kind.INTERFACE).during.value, type_=Text()),
        bindparam("operation_id", type_=Uuid()),
        func.now() + func.unnest(bindparam("interface_position", type_=ARRAY(Integer))) * timedelta(microseconds=1),
    ),
)
# PostgreSQL checks foreign keys at the end of the statement, so the inserts may run in any order.
_NEW_VM = _insert(VM, "vm", _VM_COLUMNS).returning(VM).cte("vm")
_CREATE_VM = select(_NEW_VM).add_cte(_insert(Operation, "operation", _OPERATION_COLUMNS).cte("operation"))
_CREATE_VM_WITH_INTERFACES = _CREATE_VM.add_cte(_NEW_INTERFACES.cte("interfaces"))
_NEW_USER_DATA = insert(UserData).values(vm_id=bindparam("vm_id"), content=bindparam("user_data")).cte("new_user_data")
# By what the VM has: interfaces, user data.
_STATEMENTS = {
    (False, False): _CREATE_VM,
    (True, False): _CREATE_VM_WITH_INTERFACES,
    (False, True): _CREATE_VM.add_cte(_NEW_USER_DATA),
    (True, True): _CREATE_VM_WITH_INTERFACES.add_cte(_NEW_USER_DATA),
}

_IMAGE, _NETWORKS = bindparam("image_id", type_=Uuid()), bindparam("network_ids", type_=ARRAY(Uuid()))
_REQUESTED_IMAGE = and_(or_(Image.id == _IMAGE, and_(_IMAGE.is_(None), Image.is_default)), Image.is_available)
_REQUESTED_NETWORKS = and_(
    or_(Network.id == any_(_NETWORKS), and_(_NETWORKS.is_(None), Network.is_default)), Network.is_available
)
_FLAVOR = func.json_build_array(Flavor.name, Flavor.disk_gb)
_FOUND_IMAGE = func.json_build_array(Image.id, Image.name, Image.size_gb)
_LIKELY_FREE = case((Network.allocates, addresses.likely_free))
_NETWORK = func.json_build_array(Network.id, Network.name, Network.allocates, _LIKELY_FREE)
_REFERENCES = select(
    select(_FLAVOR).where(Flavor.id == bindparam("flavor_id"), Flavor.is_available).scalar_subquery().label("flavor"),
    select(_FOUND_IMAGE).where(_REQUESTED_IMAGE).scalar_subquery().label("image"),
    select(func.json_agg(_NETWORK)).where(_REQUESTED_NETWORKS).scalar_subquery().label("networks"),
)


async def _resolve(
    tx: AsyncConnection, new: NewVM, source: BootSource | None, issues: Sequence[FieldIssue]
) -> tuple[UUID, list[UUID], dict[UUID, _Addresses]]:
    """The image and the networks of a new VM, with defaults filled in, and its addresses in each network.

    `issues` are further references that are wrong.
    """
    ids = {"flavor_id": new.flavor_id, "image_id": new.image_id, "network_ids": new.network_ids}
    found = (await tx.execute(_REFERENCES, ids)).one()
    networks = {UUID(id): network for id, *network in found.networks or []}
    network_ids = list(networks) if new.network_ids is None else new.network_ids
    exists = {"flavor_id": (new.flavor_id, found.flavor), "image_id": (new.image_id, source or found.image)}
    exists |= {new.network_field.format(index): (id, id in networks) for index, id in enumerate(network_ids)}
    unknown = [unknown_id(field, id) for field, (id, is_known) in exists.items() if not is_known]
    unknown += issues
    if unknown:
        raise UnknownReferenceError("The request refers to things that do not exist; `errors` names them.", unknown)
    (flavor, disk_gb), source = found.flavor, source or boot_sources.of_image(found.image)
    disks.check_fits(flavor, disk_gb, source.content, source.size_gb, "flavor_id")
    if new.ip_addresses:
        fields = {id: f"interfaces/{index}/ip_address" for index, id in enumerate(network_ids)}
        await check_addresses(tx, [Wanted(fields[id], id, address) for id, address in new.ip_addresses.items()])
    # Sorted, because an insert waits for another transaction that inserts the same address. Two requests that inserted
    # into the same networks in different orders could wait for each other.
    ip_addresses: dict[UUID, _Addresses] = {}
    for id in sorted(network_ids):
        name, allocates, likely_free = networks[id]
        if allocates:
            address = new.ip_addresses.get(id) or likely_free or await find_address(tx, id, name)
            ip_addresses[id] = address, addresses.new_mac_address()
        else:
            ip_addresses[id] = new.ip_addresses.get(id), None
    return source.image_id, network_ids, ip_addresses
