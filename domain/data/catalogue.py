"""The flavors, images and networks that every installation starts with.

Their ids are derived from their names, so they are the same in every installation.
"""

from typing import Any
from uuid import UUID, uuid5

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.base import Base
from domain.data.models import Flavor, Image, Network

_NAMESPACE = UUID("6f0a4d0e-52a1-4c5e-9d3b-0b5c7d1f9a42")


def _row(kind: str, name: str, **values: Any) -> dict[str, Any]:
    return {"id": uuid5(_NAMESPACE, f"{kind}/{name}"), "name": name, **values}


FLAVORS = [
    _row("flavor", "m1.tiny", vcpus=1, ram_mb=512, disk_gb=1),
    _row("flavor", "m1.small", vcpus=1, ram_mb=2048, disk_gb=20),
    _row("flavor", "m1.medium", vcpus=2, ram_mb=4096, disk_gb=40),
    _row("flavor", "m1.large", vcpus=4, ram_mb=8192, disk_gb=80),
    _row("flavor", "m1.xlarge", vcpus=8, ram_mb=16384, disk_gb=160),
    _row(
        "flavor", "m1.colossal", vcpus=512, ram_mb=4_194_304, disk_gb=65_536
    ),  # too large for any host of the mock cloud
]
IMAGES = [
    _row("image", "cirros-0.6.3", os_distro="cirros", os_version="0.6.3", size_gb=1, is_default=True),
    _row("image", "debian-12", os_distro="debian", os_version="12", size_gb=3, is_default=False),
    _row("image", "ubuntu-24.04", os_distro="ubuntu", os_version="24.04", size_gb=4, is_default=False),
]
NETWORKS = [
    _row("network", "private", cidr="10.0.0.0/16", gateway="10.0.0.1", is_default=True, allocates=True),
    _row("network", "backend", cidr="10.1.0.0/24", gateway="10.1.0.1", is_default=False, allocates=True),
    _row("network", "edge", cidr="10.2.0.0/28", gateway="10.2.0.1", is_default=False, allocates=True),
]


async def seed(tx: AsyncConnection) -> None:
    """Insert or update the rows of the catalogue; other rows stay as they are."""
    models: list[tuple[type[Base], list[dict[str, Any]]]] = [
        (Flavor, FLAVORS),
        (Image, IMAGES),
        (Network, NETWORKS),
    ]
    for model, rows in models:
        statement = insert(model).values(rows)
        changes = {column: statement.excluded[column] for column in rows[0] if column != "id"}
        await tx.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changes))
