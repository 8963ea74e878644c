"""The security groups and availability zones of the mock cloud, and the ids of all that its catalogue has.

The ids are derived from names, so they are the same in every installation. This module knows no table, because the mock
cloud itself reads it, too.
"""

from typing import Any, Final
from uuid import UUID, uuid5

NAMESPACE: Final = UUID("6f0a4d0e-52a1-4c5e-9d3b-0b5c7d1f9a42")


def row(kind: str, name: str, **values: Any) -> dict[str, Any]:
    """A row of the catalogue."""
    return {"id": uuid5(NAMESPACE, f"{kind}/{name}"), "name": name, **values}


SECURITY_GROUPS: Final = [
    row("security group", "default", description="All that comes from the same group, and nothing else."),
    row("security group", "web", description="Also HTTP, HTTPS and SSH from everywhere."),
]
AVAILABILITY_ZONES: Final = [row("availability zone", "nova")]
