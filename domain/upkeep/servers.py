"""The list of the servers in the cloud: those of VMs, and those that belong to no VM."""

from typing import Final

from sqlalchemy import Text, cast, false, null, select, true, union_all
from sqlalchemy.dialects.postgresql import JSONB

from domain.data.cloud import FoundServer
from domain.data.models import VM, Flavor
from domain.data.projects import Project
from domain.rules.states import Status

_NO_ROWS: Final = cast(null(), JSONB)
_NO_TEXT: Final = cast(null(), Text)

# The members of a UNION have the same columns in the same order. The first member names them.
_OF_VMS: Final = (
    select(VM.cloud_id.label("id"), VM.name, cast(VM.status, Text).label("status"), true().label("managed"))
    .add_columns(VM.id.label("vm_id"), Project.name.label("owner"))
    .add_columns(Flavor.name.label("flavor"), Flavor.vcpus, Flavor.ram_mb, Flavor.disk_gb, VM.image_id)
    .add_columns(_NO_ROWS.label("volumes"), _NO_ROWS.label("interfaces"), _NO_TEXT.label("obstacle"), VM.created_at)
    .join(Project, Project.id == VM.owner_id)
    .join(Flavor, Flavor.id == VM.flavor_id)
    .where(VM.status != Status.DELETED, VM.cloud_id.is_not(None))
)
_OF_OTHERS: Final = (
    select(FoundServer.cloud_id, FoundServer.name, FoundServer.status, false(), FoundServer.vm_id, _NO_TEXT)
    .add_columns(FoundServer.flavor, FoundServer.vcpus, FoundServer.ram_mb, FoundServer.disk_gb, FoundServer.image_id)
    .add_columns(FoundServer.volumes, FoundServer.interfaces, FoundServer.obstacle, FoundServer.created_at)
)
_SERVERS: Final = union_all(_OF_VMS, _OF_OTHERS).subquery("servers")

SERVERS: Final = select(_SERVERS)
NAME, ID, MANAGED = _SERVERS.c.name, _SERVERS.c.id, _SERVERS.c.managed
