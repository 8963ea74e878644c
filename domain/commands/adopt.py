"""Take a server that is already in the cloud under this service's care, with its volumes and ports.

Nothing changes in the cloud. What the workers saw of the server last becomes rows of a VM. If it has changed since
then, the next comparisons of the cloud with the database find that out, as for every VM.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID, uuid4, uuid5

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Text,
    and_,
    any_,
    case,
    delete,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Accepted, NewOperation, Requester, record_done, requested
from domain.data.accounts import user_named
from domain.data.cloud import FoundServer
from domain.data.models import VM, Attachment, Flavor, Image, Interface, Volume
from domain.data.parameters import Adopt
from domain.data.projects import Project
from domain.data.queries import fetch_all, fetch_one, insert_row
from domain.data.views import shown_vm
from domain.rules.errors import FieldIssue, NotAdoptableError, NotFoundError, UnknownReferenceError
from domain.rules.resources import AttachmentStatus, VolumeStatus
from domain.rules.states import Action, Status
from domain.rules.text import tidy

Owner = UUID | str
"""A project's id, or the name of a user whose personal project is meant."""

_WITHDRAWN: Final[Mapping[str, Any]] = {"is_available": False, "withdrawn_at": func.now()}
_NAMESPACE = UUID("5b0f5f5c-3c39-4a6e-9a3c-0c8e7c1f2d61")


async def adopt_server(tx: AsyncConnection, admin: Requester, cloud_id: UUID, owner: Owner) -> Accepted[VM]:
    """Make the server with this id of the cloud a VM of the owner.

    NotFoundError if no server that belongs to no VM has this id, UnknownReferenceError if there is no such owner,
    NotAdoptableError if this service cannot care for it.
    """
    query = select(FoundServer).where(FoundServer.cloud_id == str(cloud_id))
    found = await fetch_one(tx, query.with_for_update())
    if found is None:
        raise NotFoundError("unmanaged server", cloud_id)
    project_id = await _project(tx, owner)
    volumes, taken = await _check(tx, found, project_id)
    flavor_id, image_id = await _flavor(tx, found), await _image(tx, found)
    new = requested(admin, Action.ADOPT, Adopt(found.name, found.cloud_id, flavor_id, image_id))
    values = {
        "id": found.vm_id,
        "owner_id": project_id,
        "name": found.name,
        "status": Status(found.status),
        "flavor_id": flavor_id,
        "image_id": image_id,
        "labels": {},
        "operation_id": new.id,
        "launched_at": found.created_at,
        "cloud_id": found.cloud_id,
    }
    vm = await insert_row(tx, VM, **values)
    await record_done(tx, new, project_id, vm.id)
    await _adopt_volumes(tx, vm, new, volumes, _with_own_ids(found.volumes, taken))
    await _adopt_interfaces(tx, vm, new, found.interfaces)
    await tx.execute(delete(FoundServer).where(FoundServer.cloud_id == found.cloud_id))
    return Accepted(await shown_vm(tx, vm.id), new.id)


async def _project(tx: AsyncConnection, owner: Owner) -> UUID:
    if isinstance(owner, UUID):
        # Locked, so that nobody deletes it meanwhile. The triggers that count do not notice that an adopted VM comes.
        exists = select(Project.id).where(Project.id == owner, Project.deleted_at.is_(None))
        found = await tx.scalar(exists.with_for_update(read=True))
        field, kind = "project_id", "project"
    else:
        user = await fetch_one(tx, user_named(owner))
        found = user.id if user else None
        field, kind = "username", "user"
    if found is None:
        issue = FieldIssue(field, UnknownReferenceError.code, f"There is no such {kind}: {owner}.")
        raise UnknownReferenceError(issue.detail, [issue])
    return found


async def _check(tx: AsyncConnection, found: FoundServer, project_id: UUID) -> tuple[dict[str, Volume], set[UUID]]:
    """Return the rows of those volumes of the server that this service has already, and the ids of other volumes.

    NotAdoptableError if it cannot be adopted.
    """
    if found.obstacle:
        raise NotAdoptableError(found.obstacle)
    if await tx.scalar(select(VM.id).where(or_(VM.id == found.vm_id, VM.cloud_id == found.cloud_id))):
        raise NotAdoptableError("It is the server of a VM.")
    ids = [UUID(volume["id"]) for volume in found.volumes]
    is_known = or_(Volume.id.in_(ids), Volume.cloud_id == any_(literal(_ids(found.volumes), ARRAY(Text))))
    volumes = await fetch_all(tx, select(Volume).where(is_known).order_by(Volume.id).with_for_update())
    present = [volume for volume in volumes if volume.cloud_id in {None, *_ids(found.volumes)}]
    for volume in present:
        if volume.cloud_id is None or volume.owner_id != project_id or volume.status is not VolumeStatus.AVAILABLE:
            raise NotAdoptableError(f"Its volume {volume.id} is in use here, or belongs to another project.")
    taken = or_(
        Interface.cloud_id == any_(literal(_ids(found.interfaces), ARRAY(Text))),
        Interface.id.in_([UUID(port["id"]) for port in found.interfaces]),
        *(_has_address_of(port) for port in found.interfaces),
    )
    if found.interfaces and (other := await tx.scalar(select(Interface.vm_id).where(taken).limit(1))):
        raise NotAdoptableError(f"One of its addresses is recorded for the VM {other}; try again in a minute.")
    return {volume.cloud_id: volume for volume in present if volume.cloud_id}, {volume.id for volume in volumes}


def _has_address_of(port: dict[str, Any]) -> ColumnElement[bool]:
    """Whether an interface has one of the port's addresses in its network."""
    columns = (Interface.ip_address, Interface.mac_address)
    has_address = or_(false(), *(column == port[column.key] for column in columns if port[column.key]))
    return and_(Interface.network_id == UUID(port["network_id"]), has_address)


def _with_own_ids(volumes: list[dict[str, Any]], taken: set[UUID]) -> list[dict[str, Any]]:
    """The volumes, each with an id that no other has: the mark of one that was restored from a backup is a copy."""
    result = []
    for volume in volumes:
        id = UUID(volume["id"])
        result.append(volume | {"id": str(uuid4() if id in taken else id)})
        taken = taken | {id}
    return result


def _ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["cloud_id"] for row in rows]


async def _flavor(tx: AsyncConnection, found: FoundServer) -> UUID:
    """Return the flavor of the server's size; one of its name is preferred, and one that can still be asked for.

    If the catalogue has none, it gets one that cannot be asked for: a server keeps the size of a flavor that is gone.
    """
    size = (found.vcpus, found.ram_mb, found.disk_gb)
    has_size = tuple_(Flavor.vcpus, Flavor.ram_mb, Flavor.disk_gb) == size
    preference = (
        case((Flavor.name == tidy(found.flavor), 0), else_=1),
        Flavor.is_available.desc(),
        Flavor.name,
        Flavor.id,
    )
    present: UUID | None = await tx.scalar(select(Flavor.id).where(has_size).order_by(*preference).limit(1))
    if present is not None:
        return present
    id, name = uuid5(_NAMESPACE, f"{found.flavor}/{size}"), found.flavor or "x".join(map(str, size))
    row = {"id": id, "name": name, "vcpus": size[0], "ram_mb": size[1], "disk_gb": size[2], **_WITHDRAWN}
    await tx.execute(upsert(Flavor).values(row).on_conflict_do_nothing())
    return id


async def _image(tx: AsyncConnection, found: FoundServer) -> UUID:
    """Return the server's image. If the catalogue has never had it, it gets one that cannot be asked for."""
    assert found.image_id is not None  # noqa: S101 - otherwise there is an obstacle
    row = {"id": found.image_id, "name": str(found.image_id), "size_gb": 0, "is_default": False, **_WITHDRAWN}
    await tx.execute(upsert(Image).values(row).on_conflict_do_nothing())
    return found.image_id


async def _adopt_volumes(
    tx: AsyncConnection, vm: VM, new: NewOperation, present: dict[str, Volume], volumes: list[dict[str, Any]]
) -> None:
    for volume in volumes:
        known = present.get(volume["cloud_id"])
        held = {"status": VolumeStatus.IN_USE, "operation_id": new.id}
        values = {"id": UUID(volume["id"]), "owner_id": vm.owner_id, "cloud_id": volume["cloud_id"]}
        if known is None:
            about = {"name": volume["name"], "size_gb": volume["size_gb"]}
            await tx.execute(insert(Volume).values(values | about | held))
        else:
            await tx.execute(update(Volume).where(Volume.id == known.id).values(held))
        attachment = {
            "volume_id": known.id if known else values["id"],
            "vm_id": vm.id,
            "device": volume["device"],
            "status": AttachmentStatus.ATTACHED,
            "delete_on_termination": volume["delete_on_termination"],
            "operation_id": new.id,
        }
        await tx.execute(insert(Attachment).values(attachment))


async def _adopt_interfaces(tx: AsyncConnection, vm: VM, new: NewOperation, interfaces: list[dict[str, Any]]) -> None:
    for interface in interfaces:
        values = interface | {"id": UUID(interface["id"]), "network_id": UUID(interface["network_id"])}
        held = {"vm_id": vm.id, "status": AttachmentStatus.ATTACHED, "operation_id": new.id}
        await tx.execute(insert(Interface).values(values | held))
