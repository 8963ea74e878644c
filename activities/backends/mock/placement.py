"""Where the mock cloud puts servers and ports: its only zone, and its security groups."""

from collections.abc import Collection
from typing import Final

from activities.backends.protocol import BackendError
from domain.data.seeds import AVAILABILITY_ZONES, SECURITY_GROUPS

ZONE: Final[str] = AVAILABILITY_ZONES[0]["name"]
DEFAULT_GROUP: Final = str(SECURITY_GROUPS[0]["id"])
_GROUPS: Final = {str(group["id"]) for group in SECURITY_GROUPS}


def zone_of(wanted: str | None) -> str:
    """Return the zone of a new server; BackendError, as from Nova, for one that does not exist."""
    if wanted not in {None, ZONE}:
        raise _refusal("availability zone", wanted)
    return ZONE


def groups_of(wanted: Collection[str]) -> list[str]:
    """Return the ids of a new port's groups; BackendError, as from Nova and Neutron, for one that does not exist."""
    for group in wanted:
        if group not in _GROUPS:
            raise _refusal("security group", group)
    return list(wanted) or [DEFAULT_GROUP]


def _refusal(kind: str, name: str | None) -> BackendError:
    return BackendError("bad_request", f"The cloud has no {kind} {name}.", retryable=False)
