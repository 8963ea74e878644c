"""What somebody else has made in the cloud, as far as this service needs to know it to take it under its care."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from activities.backends.resources import Port
from domain.rules.cloud import ServerStatus


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """A volume that is attached to a server.

    `id` is the one that it would have here. `delete_on_termination`: the cloud deletes it together with the server.
    `is_shared`: it is attached to other servers, too.
    """

    cloud_id: str
    id: UUID
    name: str
    size_gb: int
    device: str | None
    delete_on_termination: bool
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A server with its volumes and ports. `image_id`: None if it boots from a volume.

    `id` is the one that its VM would have: that of our mark, so that nothing can have two, or else the cloud's.
    """

    cloud_id: str
    id: UUID
    name: str
    status: ServerStatus
    is_busy: bool
    flavor: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    image_id: str | None
    created_at: datetime
    volumes: Sequence[FoundVolume] = ()
    ports: Sequence[Port] = ()
