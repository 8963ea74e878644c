"""The flavors, images, networks and so on that one can ask for: those of the mock cloud below, or those of a real one.

The ids of the mock's are derived from their names, so they are the same in every installation.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import ARRAY, Uuid, all_, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import Flavor, Image, Network
from domain.data.placement import AvailabilityZone, SecurityGroup
from domain.data.seeds import AVAILABILITY_ZONES, NAMESPACE, SECURITY_GROUPS, row

Rows = Sequence[Mapping[str, Any]]
_Model = Flavor | Image | Network | SecurityGroup | AvailabilityZone

FLAVORS = [
    row("flavor", "m1.tiny", vcpus=1, ram_mb=512, disk_gb=1),
    row("flavor", "m1.small", vcpus=1, ram_mb=2048, disk_gb=20),
    row("flavor", "m1.medium", vcpus=2, ram_mb=4096, disk_gb=40),
    row("flavor", "m1.large", vcpus=4, ram_mb=8192, disk_gb=80),
    row("flavor", "m1.xlarge", vcpus=8, ram_mb=16384, disk_gb=160),
    row(
        "flavor", "m1.colossal", vcpus=512, ram_mb=4_194_304, disk_gb=65_536
    ),  # too large for any host of the mock cloud
]
IMAGES = [
    row("image", "cirros-0.6.3", os_distro="cirros", os_version="0.6.3", size_gb=1, is_default=True),
    row("image", "debian-12", os_distro="debian", os_version="12", size_gb=3, is_default=False),
    row("image", "ubuntu-24.04", os_distro="ubuntu", os_version="24.04", size_gb=4, is_default=False),
]
NETWORKS = [
    row("network", "private", cidr="10.0.0.0/16", gateway="10.0.0.1", is_default=True, allocates=True),
    row("network", "backend", cidr="10.1.0.0/24", gateway="10.1.0.1", is_default=False, allocates=True),
    row("network", "edge", cidr="10.2.0.0/28", gateway="10.2.0.1", is_default=False, allocates=True),
]


def zone_id(name: str) -> UUID:
    """Return our id of a cloud's availability zone, which has none of its own."""
    id: UUID = row("availability zone", name)["id"]
    return id


def flavor_id(cloud_id: str) -> UUID:
    """Return our id of a cloud's flavor: its own id if that is a UUID, else one that is derived from it."""
    with contextlib.suppress(ValueError):
        # An operator may choose any text, so a UUID in another spelling is another flavor.
        if str(id := UUID(cloud_id)) == cloud_id:
            return id
    return uuid5(NAMESPACE, f"flavor of the cloud/{cloud_id}")


async def seed(tx: AsyncConnection) -> None:
    """Make the mock cloud's catalogue the one that one can ask for."""
    await replace(tx, FLAVORS, IMAGES, NETWORKS, SECURITY_GROUPS, AVAILABILITY_ZONES)


async def default_of(tx: AsyncConnection, model: type[Image | Network], ids: Sequence[UUID]) -> UUID | None:
    """Return which of these is to be the default: the present one if it is among them, else the first."""
    present: UUID | None = await tx.scalar(select(model.id).where(model.is_default))
    return present if present in ids else next(iter(ids), None)


async def replace(  # noqa: PLR0913, PLR0917 - a list of each kind
    tx: AsyncConnection, flavors: Rows, images: Rows, networks: Rows, groups: Rows, zones: Rows
) -> None:
    """Make these rows the ones that one can ask for. All others stay readable, because VMs may have them.

    Rows that are as they should be are not written.
    """
    await _replace(tx, Flavor, flavors)
    for model, rows in ((Image, images), (Network, networks)):
        # First, because only one row may be the default.
        defaults = [row["id"] for row in rows if row["is_default"]]
        await tx.execute(update(model).where(model.is_default, _is_none_of(model, defaults)).values(is_default=False))
        await _replace(tx, model, rows)
    await _replace(tx, SecurityGroup, groups)
    await _replace(tx, AvailabilityZone, zones)


async def _replace(tx: AsyncConnection, model: type[_Model], rows: Rows) -> None:
    is_gone = _is_none_of(model, [row["id"] for row in rows])
    # The version before withdraws rows without a time.
    is_new = or_(model.is_available, model.withdrawn_at.is_(None))
    await tx.execute(update(model).where(is_gone, is_new).values(is_available=False, withdrawn_at=func.now()))
    if not rows:
        return
    statement = insert(model)
    columns = [*(name for name in rows[0] if name != "id"), "is_available", "withdrawn_at"]
    changes = {name: statement.excluded[name] for name in columns}
    present = tuple_(*(model.__table__.c[name] for name in columns))
    has_changed = present.is_distinct_from(tuple_(*changes.values()))
    await tx.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_=changes, where=has_changed),
        [{**row, "is_available": True, "withdrawn_at": None} for row in rows],
    )


def _is_none_of(model: type[_Model], ids: Sequence[UUID]) -> Any:
    return model.id != all_(literal(ids, ARRAY(Uuid)))
