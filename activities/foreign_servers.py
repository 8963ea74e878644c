"""Make a server in the mock cloud as another tool would: `python -m activities.foreign_servers NAME` prints its id.

It has a port and a volume, and belongs to no VM, so an admin can adopt it.
"""

import asyncio
import sys
from uuid import UUID, uuid4

from sqlalchemy import insert, update

from activities.backends.mock.ports import add_ports
from activities.backends.mock.schema import create_schema, ports, servers, volumes
from activities.backends.resources import PortSpec, Ref
from domain.data import database
from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.rules.cloud import ServerStatus, VolumeState
from domain.settings import Settings, load_settings


async def add_server(settings: Settings, name: str) -> UUID:
    """Make a server with a port and a volume that this service knows nothing about, and return the cloud's id."""
    id, volume_id, port_id = uuid4(), uuid4(), uuid4()
    flavor, image = FLAVORS[0], IMAGES[0]
    size = {column: flavor[column] for column in ("vcpus", "ram_mb", "disk_gb")}
    server = {"id": id, "vm_id": id, "name": name, "image_id": image["id"], "status": ServerStatus.ACTIVE, **size}
    attached = {"state": VolumeState.IN_USE, "vm_id": id, "device": "/dev/sdb"}
    volume = {"id": volume_id, "cloud_id": volume_id, "name": f"{name}-data", "size_gb": 1, **attached}
    engine = database.create_engine(settings)
    try:
        async with engine.begin() as tx:
            await create_schema(tx)
            await tx.execute(insert(servers).values(server))
            await tx.execute(insert(volumes).values(volume))
            await add_ports(tx, id, [PortSpec(Ref(port_id), NETWORKS[0]["id"])])
            await tx.execute(update(ports).where(ports.c.id == port_id).values(cloud_id=port_id))
    finally:
        await database.close(engine)
    return id


if __name__ == "__main__":
    sys.stdout.write(f"{asyncio.run(add_server(load_settings(), sys.argv[1]))}\n")
